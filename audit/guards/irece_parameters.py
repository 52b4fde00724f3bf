"""Parameters of IRECE, and the guard as a method. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from audit.guards.parameters import GuardMethod, Parameters, Template
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.families import FAMILIES


class IreceParameters(Parameters):
    """Parameters of IRECE. Their defaults are the paper's text read literally: attention to the phrase's tokens in all
    layers, min-max normalised, tau 0.4, noise N(0, I).
    """

    moves_latents: ClassVar[bool] = True

    t_star: int = Field(501, ge=1, le=999)
    "Training timestep of the perturbation (t*); the sampler's nearest one is used."
    tau: float = Field(0.4, gt=0, lt=1)
    "Threshold of the normalised map: cells at or above it are perturbed."
    noise: Literal["replace", "add", "level"] = "replace"
    "`replace` sets x <- xi inside the mask, `add` x <- x + xi, `level` xi at the noise level of t*, around `reference`."
    reference: Literal["mean", "zero"] = "mean"
    "What `level` centres its noise on (z_ref): the mean of the clean estimate outside the mask, or 0."
    localisation: Literal[
        "attention", "contrast-tokens", "contrast-null", "contrast-neighbours", "noise-difference"
    ] = "attention"
    """The signal that is thresholded. `attention`: the concept's cross-attention. `contrast-tokens`: less that of the other
    words of the same prompt. `contrast-null`: less that of the same positions of the null prompt (one more evaluation).
    `contrast-neighbours`: times the concept's share where one prompt names it and its neighbours (one more evaluation).
    `noise-difference`: |eps(concept) - eps(null)|, DiffEdit's signal (two evaluations)."""
    tokens: Literal["word", "word-to-end", "end"] = "word"
    "Token positions whose attention is read: the phrase's own, these and the end token, or the end token alone."
    template: Template = "a photo of a {phrase}"
    "The prompt in which the concept is located."
    synonyms: bool = False
    "Locate the synonyms too, one evaluation each, and average the maps."
    layers: Literal["all", "down", "mid", "up"] = "all"
    "The UNet's blocks whose cross-attention takes part."
    sides: tuple[int, ...] = ()
    "Query grids that take part, by their side in cells, such as `[16]`; none named means all."
    normalise: Literal["aggregate", "layer"] = "aggregate"
    "Min-max normalisation after (`aggregate`) or before (`layer`) the mean over layers."
    smooth: Literal[1, 3, 5, 7] = 1
    "Side, in latent cells, of the window over which the map is averaged; 1 leaves it as it is."
    dilation: int = Field(0, ge=0, le=8)
    "Latent cells by which the mask grows in every direction."
    gate: float = Field(0.0, ge=0)
    "Least unnormalised score that counts as the concept being there; 0 never asks."
    area_min: float = Field(0.0, ge=0, le=1)
    "Least share of the picture that the located area may take; below it nothing is done."
    area_max: float = Field(1.0, ge=0, le=1)
    "Greatest share of the picture that the located area may take; above it nothing is done."
    mask: Literal["attention", "random", "shifted", "full"] = "attention"
    "`attention` perturbs the located area; the others are controls: `random` and `shifted` have its area, `full` is everything."

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.area_min >= self.area_max:
            raise ValueError(f"area_min {self.area_min} is not below area_max {self.area_max}")
        return self

    def resolved(self, concept: Concept) -> Values:
        """Return all values, and the phrases that are located and contrasted.

        Raises ValueError for a contrast with neighbours where the concept has none.
        """
        if self.localisation == "contrast-neighbours" and not concept.neighbours:
            raise ValueError("localisation contrast-neighbours needs a concept with neighbours")
        phrases = [concept.phrase, *(concept.synonyms if self.synonyms else ())]
        contrast = self.localisation == "contrast-neighbours"
        neighbours = [concept.phrase_of(name) for name in concept.neighbours] if contrast else []
        return {**self.model_dump(mode="json", exclude={"synonyms"}), "phrases": phrases, "neighbours": neighbours}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """Return the phrases that are located, and those that they are contrasted with."""
        return [*values["phrases"], *values["neighbours"]]

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[float], guidance: float) -> int:
        """Return one evaluation for each phrase, two where the localisation compares."""
        return len(values["phrases"]) * (1 if values["localisation"] in ("attention", "contrast-tokens") else 2)

    @classmethod
    def quiet_steps(cls, values: Values, timesteps: Sequence[float]) -> int:
        """Return the number of steps before the one nearest to t*."""
        return min(range(len(timesteps)), key=lambda index: abs(timesteps[index] - values["t_star"]))


METHOD = GuardMethod("irece", "1", IreceParameters, "audit.guards.irece:build", "arXiv:2512.22877", families=FAMILIES)
