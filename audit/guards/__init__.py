"""Inference-time guards, in the order in which the spec lists them: they act while a picture is sampled. Imports no torch.

Filters are guards that change no picture: they read the prompt or the finished picture, and block it or hand it out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import ValidationError

from audit.errors import SpecError
from audit.guards.parameters import GuardMethod, Parameters
from audit.methods.parameters import Values, parse_parameters
from audit.methods.registry import MethodError, Registry
from audit.spec.sections import Concept, Defence, Guard

GUARDS = Registry("guards", "guard", GuardMethod, Parameters)


def parse(guard: Guard) -> Parameters:
    """Return the checked parameters of a guard. Raises `SpecError` for an unknown guard or the first bad parameter."""
    return parse_parameters(_method(guard.name).parameters, guard.parameters, f"guard {guard.name}", "defences")


def reads(name: str) -> Literal["prompt", "picture"] | None:
    """Return what the filter `name` decides by; None for a guard that acts on the sampling. Raises as `parse`."""
    return _method(name).reads


def sampling(listed: Sequence[Guard]) -> tuple[Guard, ...]:
    """Return the guards that act on the sampling; pictures follow from these alone. Raises as `parse`."""
    return tuple(guard for guard in listed if reads(guard.name) is None)


def filters(listed: Sequence[Guard]) -> tuple[Guard, ...]:
    """Return the filters among guards. Raises as `parse`."""
    return tuple(guard for guard in listed if reads(guard.name) is not None)


def names_without_parameters() -> tuple[str, ...]:
    """Return the guards that a spec may list by their name alone; `clip-filter`, for one, has to be told its model."""
    return tuple(name for name in GUARDS.names() if _stands_alone(name))


def _stands_alone(name: str) -> bool:
    try:
        _method(name).parameters()
    except MethodError:  # told when it is chosen
        return True
    except ValidationError:
        return False
    return True


def has_filters(defence: Defence) -> bool:
    """Return whether a defence has a filter; a guard that cannot be used, which others report, is none."""
    try:
        return bool(filters(defence.guards))
    except SpecError:
        return False


def resolve(guard: Guard, concept: Concept, energies: Mapping[str, str] | None = None) -> Values:
    """Return name and parameters of a guard for `concept`, as they become part of a picture's identity.

    A model that the guard uses stands there by its digest, never by its name. `energies` holds the digests of models that
    have been looked up already, by name. A guard of another distribution brings that distribution's version. Raises
    `SpecError` for an unknown guard or parameter, and `CheckpointError` when a model cannot be found.
    """
    parameters = parse(guard)
    try:
        values = dict(parameters.resolved(concept))
    except ValueError as error:
        raise SpecError(f"guard {guard.name}: {error}", where="defences", next_step="mend this parameter") from None
    for role, name in parameters.models().items():
        values[f"{role}_sha256"] = _digest(name) if energies is None else energies[name]
    return {"name": guard.name, "parameters": values, **GUARDS.origin(guard.name, "defences")}


def extra_calls(described: Sequence[Values], timesteps: Sequence[float], guidance: float) -> int:
    """Return the UNet evaluations of one picture that guards add to the sampler's, as far as the plan can know them."""
    return sum(
        _method(guard["name"]).parameters.extra_calls(guard["parameters"], timesteps, guidance) for guard in described
    )


def quiet_steps(described: Sequence[Values], timesteps: Sequence[float]) -> int:
    """Return the number of first steps of `timesteps`, noisiest first, that none of the guards touches; all without guards."""
    return min(
        (_method(guard["name"]).parameters.quiet_steps(guard["parameters"], timesteps) for guard in described),
        default=len(timesteps),
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
