"""What the parameters of all erasers have in common. Imports no torch: plans need parameters before any model is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from audit.errors import SpecError

Precision = Literal["float32", "float16", "bfloat16"]


def _has_phrase(template: str) -> str:
    if template.count("{phrase}") != 1:
        raise ValueError(f"template {template!r} must contain {{phrase}} once")
    return template


Template = Annotated[str, AfterValidator(_has_phrase)]


class Parameters(BaseModel):
    """Base of every method's parameters: frozen, unknown names refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    synonyms: bool = False  # erase the concepts' synonyms too
    stored: Precision = "float32"  # dtype of the artefact's tensors


class TrainedParameters(Parameters):
    """Parameters of the methods that train on latents which the model itself denoises part of the way.

    `pool` 0 samples fresh latents for every iteration, as the official codes do. A positive `pool` samples that many
    trajectories once, with the frozen model, and draws every iteration's latents from all their steps; the frozen
    model's predictions come free with them, which makes an iteration several times cheaper.
    """

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
    jitter: bool = False  # draw the timestep inside the step's interval instead of on the sampler's grid
    compute: Literal["float32", "bfloat16"] = "float32"  # bfloat16 is autocast over float32 weights
    seed: int = Field(0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _pool_is_frozen(self) -> Self:
        if self.pool and (self.latents_from == "trained" or self.jitter):
            raise ValueError("a pool holds latents of the frozen model on the sampler's grid; set pool to 0")
        return self


def resolve_with(
    model: type[Parameters],
    presets: Mapping[str, Mapping[str, Any]],
    method: str,
    preset: str | None,
    parameters: Mapping[str, Any],
) -> dict[str, Any]:
    """Every parameter's value: defaults, then the preset (`official` without one), then `parameters`.

    Raises `SpecError` that names the preset or the first bad parameter.
    """
    name = preset or "official"
    if name not in presets:
        known = ", ".join(presets)
        raise SpecError(f"{method} has no preset {name!r}", where="defences", next_step=f"use one of: {known}")
    try:
        return model(**{**presets[name], **parameters}).model_dump(mode="json")
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"]) or "combination"
        known = ", ".join(model.model_fields)
        step = f"{method} takes: {known}" if detail["type"] == "extra_forbidden" else "mend this parameter"
        message = str(detail["msg"]).removeprefix("Value error, ")
        raise SpecError(f"{method} parameter {field}: {message}", where="defences", next_step=step) from None
