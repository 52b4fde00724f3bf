"""The base of all filters' parameters. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from audit.errors import SpecError
from audit.guards.parameters import Parameters
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.references import ModelRef


class FilterParameters(Parameters):
    """Base of every filter's parameters."""

    def check(self, models: Mapping[str, ModelRef], concepts: Sequence[Concept], where: str) -> None:
        """Check the parameters against the filter's models, by role, as far as their files are here.

        Raises `SpecError` for a mistake, and `CheckpointError` or `MissingInstrument` for what this machine lacks.
        """

    @classmethod
    def quiet_steps(cls, values: Values, timesteps: Sequence[float]) -> int:
        """Return the number of all steps: a filter touches none."""
        return len(timesteps)


def mistake(name: str, what: str, where: str, next_step: str) -> SpecError:
    """Return the error for parameters with which the filter `name` could decide nothing."""
    return SpecError(f"guard {name}: {what}", where=where, next_step=next_step)
