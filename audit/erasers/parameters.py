"""The base of all erasers' parameters. Imports no torch: plans need parameters before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from audit.errors import SpecError
from audit.methods.parameters import Values, parse_parameters

Precision = Literal["float32", "float16", "bfloat16"]


def _has_phrase(template: str) -> str:
    if template.count("{phrase}") != 1:
        raise ValueError(f"template {template!r} must contain {{phrase}} once")
    return template


Template = Annotated[str, AfterValidator(_has_phrase)]


class Parameters(BaseModel):
    """Base of every method's parameters: frozen, unknown names refused, numbers finite.

    `LATER` names fields that came after artefacts were made: at their default they are left out of what is resolved, so
    that a request which does not use them keeps its key, and its artefact is not made again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    LATER: ClassVar[frozenset[str]] = frozenset()

    synonyms: bool = False
    "Erase the concepts' synonyms too."
    stored: Precision = "float32"
    "Data type of the artefact's tensors."

    def resolved(self) -> Values:
        """Return the values as JSON, as they are keyed, stored and read again."""
        unused = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=unused)


class LoopParameters(Parameters):
    """Parameters of every method that trains."""

    iterations: int = Field(ge=1)
    "Steps of the optimiser."
    learning_rate: float = Field(gt=0)
    "Learning rate of the optimiser for the trained weights."
    batch_size: int = Field(1, ge=1)
    "Latents of each iteration, all of one prompt."
    templates: tuple[Template, ...] = Field(("{phrase}",), min_length=1)
    "Prompts that are erased; `{phrase}` stands for the concept."
    sampler: Literal["pndm", "ddim"] = "ddim"
    "The sampler that denoises the training latents."
    steps: int = Field(50, ge=1, le=1000)
    "Steps of a full trajectory from noise to picture."
    guidance: float = Field(3.0, ge=1)
    "Classifier-free guidance of the trajectory; 1 is none."
    pixels: int | None = Field(None, ge=8)
    "Side of the training pictures; by default the backbone's own."
    compute: Literal["float32", "bfloat16", "bfloat16-weights"] = "float32"
    "Arithmetic: `bfloat16` is autocast over float32 weights; `bfloat16-weights` makes the weights themselves bfloat16."
    seed: int = Field(0, ge=0, lt=2**31)
    "Seed of everything that the training draws."

    @property
    def rounded(self) -> bool:
        """Whether weights, states and latents are bfloat16 themselves, and not only the arithmetic."""
        return self.compute == "bfloat16-weights"


class PictureParameters(LoopParameters):
    """Parameters of the methods that train on noised pictures, which the backbone makes once before the training."""

    pictures: int = Field(200, ge=1)
    "Pictures that are made, spread over the prompts."
    compute: Literal["float32", "bfloat16"] = "float32"


class TrainedParameters(LoopParameters):
    """Parameters of the methods that train on latents which the model itself denoises part of the way.

    Fresh latents for every iteration are what the official codes learn from. A pool makes an iteration several times
    cheaper: its trajectories are sampled once, with the frozen model, and that model's predictions come free with them.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"trajectory"})

    latents_from: Literal["frozen", "trained"] = "frozen"
    "The model that denoises the training latents: the frozen backbone or the one in training."
    pool: int = Field(0, ge=0)
    "Trajectories sampled once, from all steps of which iterations draw; 0 samples fresh latents for every iteration."
    trajectory: Literal["timestep", "compvis"] = "timestep"
    """How far latents are denoised: `timestep` to the noise level of their timestep; `compvis` as the official codes of 2023
    and 2024 do, whose sampler leaves out the noisiest step and then stops one step further."""
    jitter: bool = False
    "Draw the timestep anywhere inside the step's interval instead of on the sampler's grid."

    @model_validator(mode="after")
    def _pool_is_frozen(self) -> Self:
        if self.pool and (self.latents_from == "trained" or self.jitter):
            raise ValueError("a pool holds latents of the frozen model on the sampler's grid; set pool to 0")
        if self.trajectory == "compvis" and (self.pool or self.sampler != "ddim"):
            raise ValueError("trajectory compvis needs sampler ddim and fresh latents; set pool to 0")
        return self


def resolve_with(
    model: type[Parameters],
    presets: Mapping[str, Mapping[str, object]],
    method: str,
    preset: str | None,
    parameters: Mapping[str, object],
) -> Values:
    """Return every parameter's value: defaults, then the preset, then `parameters`.

    Raises `SpecError` that names the preset or the first bad parameter.
    """
    if preset is not None and preset not in presets:
        known = ", ".join(presets) or "none"
        raise SpecError(f"{method} has no preset {preset!r}", where="defences", next_step=f"use one of: {known}")
    values = {**(presets[preset] if preset is not None else {}), **parameters}
    return parse_parameters(model, values, method, "defences").resolved()
