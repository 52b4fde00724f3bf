"""Inference-time guards: one protocol, composable, in the order the spec lists them. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from audit.errors import SpecError
from audit.guards.parameters import GuardMethod, Parameters
from audit.methods.parameters import parse_parameters
from audit.methods.registry import Registry
from audit.spec.sections import Concept, Guard

GUARDS = Registry("guards", "guard", GuardMethod, Parameters)


def parse(guard: Guard) -> Parameters:
    """The checked parameters of a guard; raises `SpecError` for an unknown guard or the first bad parameter."""
    return parse_parameters(_method(guard.name).parameters, guard.parameters, f"guard {guard.name}", "defences")


def resolve(guard: Guard, concept: Concept, energies: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return name and all parameters of a guard for `concept`, as they become part of a picture's identity.

    A model that a guard asks is there by its digest, never by its name: by that of `energies`, where such models were
    looked up already; a guard of another distribution brings that distribution's version. Raises `SpecError` for an
    unknown guard or parameter and `CheckpointError` when that model cannot be found.
    """
    parameters = parse(guard)
    try:
        values = parameters.resolved(concept)
    except ValueError as error:
        raise SpecError(f"guard {guard.name}: {error}", where="defences", next_step="mend this parameter") from None
    for role, name in parameters.models().items():
        values[f"{role}_sha256"] = _digest(name) if energies is None else energies[name]
    return {"name": guard.name, "parameters": values, **GUARDS.origin(guard.name, "defences")}


def extra_calls(described: Sequence[Mapping[str, Any]], timesteps: Sequence[int], guidance: float) -> int:
    """UNet evaluations of one picture that the guards add to the sampler's, as far as that is known beforehand."""
    return sum(
        _method(guard["name"]).parameters.extra_calls(guard["parameters"], timesteps, guidance) for guard in described
    )


def _method(name: str) -> GuardMethod:
    try:
        return GUARDS.find(name, "defences")
    except KeyError:
        raise SpecError(
            f"guard {name!r} is not known here", where="defences", next_step=f"use one of: {', '.join(GUARDS.names())}"
        ) from None


def _digest(model: str) -> str:
    from audit.weights.references import resolve_model

    return resolve_model(model).sha256
