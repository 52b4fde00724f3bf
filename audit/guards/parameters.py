"""The base of all guards' parameters. Imports no torch: plans need parameters before any model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict

from audit.methods.method import Method
from audit.methods.parameters import Values
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
    # Whether the guard changes latents between steps: schedulers that build on earlier steps cannot go on from there.
    moves_latents: ClassVar[bool] = False

    def resolved(self, concept: Concept) -> Values:
        """Return all values as they become part of a unit's identity, with what is taken from `concept` filled in."""
        return self.model_dump(mode="json")

    def models(self) -> Mapping[str, str]:
        """Return role -> model for each model that the guard uses beside the one that it protects, as a spec names models.

        Its digest becomes part of the resolved values, as `{role}_sha256`, and `Parts.model` finds the model with it.
        """
        return {}

    @classmethod
    def texts(cls, values: Values) -> Sequence[str]:
        """Return the texts of the resolved values that the backbone's text encoder has to know, word by word."""
        return ()

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[float], guidance: float) -> int:
        """Return the UNet evaluations of one picture that the guard adds to the sampler's."""
        return 0

    @classmethod
    def quiet_steps(cls, values: Values, timesteps: Sequence[float]) -> int:
        """Return the number of first steps of `timesteps`, noisiest first, at which the guard neither acts nor looks.

        Until then the model is sampled as if there were no guard, so that defences may share these steps.
        """
        return 0


@dataclasses.dataclass(frozen=True)
class GuardMethod(Method):
    """A guard. `run(values, parts)` returns a new `audit.diffusion.guard.Guard` for one batch.

    `values` are what `parameters.resolved` gave for a concept; `parts` are `audit.guards.building.Parts`. `families` are those
    of `audit.weights.families` on whose networks the guard can act. A filter touches no step and only decides which pictures
    are handed out, by what it `reads`, on every family: it is an `audit.filters.protocol.Filter`, made from
    `audit.filters.protocol.Parts`.
    """

    parameters: type[Parameters]
    _: dataclasses.KW_ONLY
    families: tuple[str, ...] = ("sd1", "sd2")
    reads: Literal["prompt", "picture"] | None = None  # of a filter
