"""Parameters of IRECE, and the guard as a method. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from audit.guards.parameters import GuardMethod, Parameters, Template, Values
from audit.spec.sections import Concept


class IreceParameters(Parameters):
    """IRECE. The defaults are the literal reading: attention of the phrase's tokens in all layers, min-max, tau 0.4, N(0, I).

    localisation  what is thresholded: `attention`; `contrast-tokens` (less the other words of the same prompt);
                  `contrast-null` (less the same positions of the null prompt, one more evaluation);
                  `contrast-neighbours` (times the concept's share of the attention when one prompt names it and its
                  neighbours, one more evaluation);
                  `noise-difference` (|eps(concept) - eps(null)|, DiffEdit's signal, two evaluations)
    noise         `replace` (x <- xi), `add` (x <- x + xi) or `level` (xi at the noise level of t*, around `reference`)
    mask          `attention`, or a control: `random` and `shifted` have its area, `full` covers the picture
    gate          least unnormalised score that counts as the concept being there; 0 never asks
    """

    t_star: int = Field(501, ge=1, le=999)  # training timestep; the sampler's nearest one is used
    tau: float = Field(0.4, gt=0, lt=1)
    noise: Literal["replace", "add", "level"] = "replace"
    reference: Literal["mean", "zero"] = "mean"
    localisation: Literal[
        "attention", "contrast-tokens", "contrast-null", "contrast-neighbours", "noise-difference"
    ] = "attention"
    tokens: Literal["word", "word-to-end", "end"] = "word"
    template: Template = "a photo of a {phrase}"
    synonyms: bool = False  # locate the synonyms too, one evaluation each, and average
    layers: Literal["all", "down", "mid", "up"] = "all"
    sides: tuple[int, ...] = ()  # query grids that take part, such as [16]; (): all
    normalise: Literal["aggregate", "layer"] = "aggregate"  # min-max after, or before, averaging over layers
    smooth: Literal[1, 3, 5, 7] = 1  # side, in latent cells, of the window that the map is averaged over; 1: not at all
    dilation: int = Field(0, ge=0, le=8)  # latent cells
    gate: float = Field(0.0, ge=0)
    area_min: float = Field(0.0, ge=0, le=1)  # share of the picture; outside these bounds nothing is done
    area_max: float = Field(1.0, ge=0, le=1)
    mask: Literal["attention", "random", "shifted", "full"] = "attention"

    @model_validator(mode="after")
    def _bounds(self) -> Self:
        if self.area_min >= self.area_max:
            raise ValueError(f"area_min {self.area_min} is not below area_max {self.area_max}")
        return self

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """All values, and the phrases that are located and contrasted. Raises ValueError for a contrast with nothing."""
        if self.localisation == "contrast-neighbours" and not concept.neighbours:
            raise ValueError("localisation contrast-neighbours needs a concept with neighbours")
        phrases = [concept.phrase, *(concept.synonyms if self.synonyms else ())]
        contrast = self.localisation == "contrast-neighbours"
        neighbours = [concept.phrase_of(name) for name in concept.neighbours] if contrast else []
        return {**self.model_dump(mode="json", exclude={"synonyms"}), "phrases": phrases, "neighbours": neighbours}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """The phrases that are located, and those that they are contrasted with."""
        return [*values["phrases"], *values["neighbours"]]

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[int], guidance: float) -> int:
        """One evaluation for each phrase, two where the localisation compares."""
        return len(values["phrases"]) * (1 if values["localisation"] in ("attention", "contrast-tokens") else 2)


METHOD = GuardMethod("irece", "1", IreceParameters, "audit.guards.irece:build", "arXiv:2512.22877")
