"""What the parameters of all erasers have in common. Imports no torch: plans need parameters before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from audit.errors import SpecError
from audit.methods.parameters import parse_parameters

Precision = Literal["float32", "float16", "bfloat16"]
Values = Mapping[str, Any]  # resolved parameters as JSON: what keys and files hold


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

    synonyms: bool = False  # erase the concepts' synonyms too
    stored: Precision = "float32"  # dtype of the artefact's tensors

    def resolved(self) -> dict[str, Any]:
        """Return the values as JSON, as they are keyed, stored and read again."""
        unused = {name for name in self.LATER if getattr(self, name) == type(self).model_fields[name].default}
        return self.model_dump(mode="json", exclude=unused)


class TrainedParameters(Parameters):
    """Parameters of the methods that train on latents which the model itself denoises part of the way.

    `pool` 0 samples fresh latents for every iteration, as the official codes do. A positive `pool` samples that many
    trajectories once, with the frozen model, and draws every iteration's latents from all their steps; the frozen
    model's predictions come free with them, which makes an iteration several times cheaper.

    `trajectory` says how far the latents of a drawn timestep are denoised: `timestep` to its own noise level; `compvis`
    as the official codes of 2023 and 2024 do, whose sampler leaves out the noisiest step and then stops one step further.
    """

    LATER: ClassVar[frozenset[str]] = frozenset({"trajectory"})

    iterations: int = Field(ge=1)
    learning_rate: float = Field(gt=0)
    batch_size: int = Field(1, ge=1)
    templates: tuple[Template, ...] = Field(("{phrase}",), min_length=1)  # prompts that are erased
    sampler: Literal["pndm", "ddim"] = "ddim"  # denoises the training latents
    steps: int = Field(50, ge=1, le=1000)  # of a full trajectory
    guidance: float = Field(3.0, ge=1)  # classifier-free guidance of the trajectory
    latents_from: Literal["frozen", "trained"] = "frozen"  # which model denoises them
    pixels: int | None = Field(None, ge=8)  # side of the training pictures; None is the backbone's own
    pool: int = Field(0, ge=0)
    trajectory: Literal["timestep", "compvis"] = "timestep"
    jitter: bool = False  # draw the timestep inside the step's interval instead of on the sampler's grid
    # bfloat16 is autocast over float32 weights; with bfloat16-weights the weights themselves are bfloat16
    compute: Literal["float32", "bfloat16", "bfloat16-weights"] = "float32"
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _pool_is_frozen(self) -> Self:
        if self.pool and (self.latents_from == "trained" or self.jitter):
            raise ValueError("a pool holds latents of the frozen model on the sampler's grid; set pool to 0")
        if self.trajectory == "compvis" and (self.pool or self.sampler != "ddim"):
            raise ValueError("trajectory compvis needs sampler ddim and fresh latents; set pool to 0")
        return self

    @property
    def rounded(self) -> bool:
        """Whether weights, states and latents are bfloat16 themselves, and not only the arithmetic."""
        return self.compute == "bfloat16-weights"


def resolve_with(
    model: type[Parameters],
    presets: Mapping[str, Mapping[str, object]],
    method: str,
    preset: str | None,
    parameters: Mapping[str, object],
) -> dict[str, Any]:
    """Every parameter's value: defaults, then the preset, then `parameters`.

    Raises `SpecError` that names the preset or the first bad parameter.
    """
    if preset is not None and preset not in presets:
        known = ", ".join(presets) or "none"
        raise SpecError(f"{method} has no preset {preset!r}", where="defences", next_step=f"use one of: {known}")
    values = {**(presets[preset] if preset is not None else {}), **parameters}
    return parse_parameters(model, values, method, "defences").resolved()
