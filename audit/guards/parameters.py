"""Parameters of all guards with their defaults. Imports no torch: plans need them before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from audit.spec.sections import Concept


def _has_phrase(template: str) -> str:
    if template.count("{phrase}") != 1:
        raise ValueError(f"template {template!r} must contain {{phrase}} once")
    return template


def _says_something(text: str) -> str:
    if not text.strip():
        raise ValueError("the text must not be empty")
    return text


Template = Annotated[str, AfterValidator(_has_phrase)]
Text = Annotated[str, AfterValidator(_says_something)]


class Parameters(BaseModel):
    """Base of every guard's parameters: frozen, unknown names refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """All values as they become part of a unit's identity, with what is taken from `concept` filled in."""
        return self.model_dump(mode="json")


class NegativePromptParameters(Parameters):
    """`text` replaces the null prompt of classifier-free guidance."""

    text: Text | None = None  # None: the concept's phrase

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """The text, by default the concept's phrase."""
        return {"text": self.text or concept.phrase}


# Warm-up steps, scale, threshold, momentum scale, momentum beta (Schramowski et al. 2023, table of hyper-parameters).
# WEAK is published with two scales: diffusers has 20; the evaluation scripts of ESD and UnlearnDiffAtk use 200.
SLD_PRESETS: Mapping[str, tuple[int, float, float, float, float]] = {
    "weak": (15, 20.0, 0.0, 0.0, 0.0),
    "weak-200": (15, 200.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}
_SLD_FIELDS = ("warmup_steps", "scale", "threshold", "momentum_scale", "momentum_beta")


class SldParameters(Parameters):
    """A preset, or single values over it. `text` is the safety concept; warm-up counts steps of the sampler in use."""

    preset: Literal["weak", "weak-200", "medium", "strong", "max"] = "medium"
    text: Text | None = None  # None: the concept's phrase and synonyms
    warmup_steps: int | None = Field(None, ge=0)
    scale: float | None = Field(None, gt=1)  # diffusers switches SLD off at 1 and below
    threshold: float | None = None
    momentum_scale: float | None = Field(None, ge=0, le=1)
    momentum_beta: float | None = Field(None, ge=0, lt=1)

    def settings(self) -> dict[str, float]:
        """The preset's values with the single ones over them."""
        preset = dict(zip(_SLD_FIELDS, SLD_PRESETS[self.preset], strict=True))
        return {**preset, **self.model_dump(include=set(_SLD_FIELDS), exclude_none=True)}

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """The five numbers, and the text, by default the concept's phrase and synonyms."""
        return {**self.settings(), "text": self.text or " and ".join((concept.phrase, *concept.synonyms))}


class SafreeParameters(Parameters):
    """SAFREE's projections. `latent_re_attention` exists to be refused: the released code constructs an exception
    without raising it there, so the switch changes no picture.
    """

    concepts: tuple[Text, ...] = ()  # (): the concept's phrase and synonyms
    alpha: float = Field(0.01, ge=0)
    self_validation: bool = True
    up_t: float = Field(10.0, gt=0)  # most steps that self-validation allows, less one
    slope: float = Field(2.5, gt=0)  # k; 3.5 in the released code's setting for artists
    midpoint: float = 5.333  # t0; 5.5 for artists
    mask: Text | None = None  # the word that stands in for a masked token; None: the vocabulary's entry 0, as released
    latent_re_attention: bool = False

    @model_validator(mode="after")
    def _no_operation(self) -> Self:
        if self.latent_re_attention:
            raise ValueError(
                "latent re-attention changes nothing in the released code and is not offered; leave it out"
            )
        return self

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """All values, and the concepts, by default the concept's phrase and synonyms."""
        values = self.model_dump(mode="json", exclude={"latent_re_attention"})
        return {**values, "concepts": list(self.concepts) or [concept.phrase, *concept.synonyms]}


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


class EgloceParameters(Parameters):
    """EGLOCE. No constant of the paper is public, so these are this project's own starting values.

    gradient    `full` goes through the UNet; `stop` holds its prediction fixed, so that dz0/dz is 1 / sqrt(abar)
    floor       cases whose repulsion energy is not above it are left alone; -1 moves all
    views       augmented copies (crop and colour) that the energy is averaged over; 0 uses the picture itself
    """

    energy: str | None = Field(None, min_length=1)  # None: testbed/energy, on the testbed only
    iterations: int = Field(3, ge=1, le=50)  # K
    rho: float = Field(0.02, gt=0, le=1)  # step length relative to the norm of the latent
    repulsion: float = Field(1.0, gt=0)
    retention: float = Field(1.0, ge=0)
    window: tuple[int, int] = (801, 201)  # training timesteps, noisiest first, both inclusive
    trust: float = Field(0.1, gt=0, le=1)  # farthest from the step's latent, relative to its norm
    gradient: Literal["full", "stop"] = "full"
    checkpointing: bool = True
    views: int = Field(0, ge=0, le=16)
    floor: float = Field(-1.0, ge=-1, le=1)
    templates: tuple[Template, ...] = Field(("a photo of a {phrase}",), min_length=1)
    synonyms: bool = True

    @model_validator(mode="after")
    def _descends(self) -> Self:
        if self.window[0] < self.window[1]:
            raise ValueError(f"window {list(self.window)} must run from noisy to clean, as in [801, 201]")
        return self

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """All values but the energy model, which counts by its digest, and the phrases that are repelled."""
        phrases = [concept.phrase, *(concept.synonyms if self.synonyms else ())]
        return {**self.model_dump(mode="json", exclude={"synonyms", "energy"}), "phrases": phrases}


MODELS: Mapping[str, type[Parameters]] = {
    "negative-prompt": NegativePromptParameters,
    "sld": SldParameters,
    "safree": SafreeParameters,
    "irece": IreceParameters,
    "egloce": EgloceParameters,
}
