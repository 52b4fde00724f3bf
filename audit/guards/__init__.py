"""Inference-time guards: one protocol, composable, in the order the spec lists them. Importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from audit.errors import SpecError
from audit.guards.parameters import MODELS, EgloceParameters, Parameters
from audit.spec.sections import Concept, Guard

NAMES = tuple(MODELS)


def parse(guard: Guard) -> Parameters:
    """The checked parameters of a guard; raises `SpecError` for an unknown guard or the first bad parameter."""
    if guard.name not in MODELS:
        raise SpecError(
            f"guard {guard.name!r} is not known here", where="defences", next_step=f"use one of: {', '.join(NAMES)}"
        )
    model = MODELS[guard.name]
    try:
        return model.model_validate(guard.parameters)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"]) or "combination"
        known = f"guard {guard.name} takes: {', '.join(model.model_fields)}"
        raise SpecError(
            f"guard {guard.name} parameter {field}: {str(detail['msg']).removeprefix('Value error, ')}",
            where="defences",
            next_step=known if detail["type"] == "extra_forbidden" else "mend this parameter",
        ) from None


def resolve(guard: Guard, concept: Concept, energies: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return name and all parameters of a guard for `concept`, as they become part of a picture's identity.

    A model that a guard optimises against is there by its digest, never by its name: by that of `energies`, where such
    models were looked up already. Raises `SpecError` for an unknown guard or parameter and `CheckpointError` when that
    model cannot be found.
    """
    parameters = parse(guard)
    try:
        values = parameters.resolved(concept)
    except ValueError as error:
        raise SpecError(f"guard {guard.name}: {error}", where="defences", next_step="mend this parameter") from None
    if isinstance(parameters, EgloceParameters):
        name = energy_name(parameters)
        values["energy_sha256"] = _digest(name) if energies is None else energies[name]
    return {"name": guard.name, "parameters": values}


def energy_name(parameters: EgloceParameters) -> str:
    """The energy model as `resolve_model` reads it; the testbed's own unless the spec names another."""
    return parameters.energy or "testbed/energy"


def extra_calls(described: Sequence[Mapping[str, Any]], timesteps: Sequence[int], guidance: float) -> int:
    """UNet evaluations of one picture that the guards add to the sampler's, as far as that is known beforehand."""
    total = 0
    for guard in described:
        values = guard["parameters"]
        if guard["name"] == "sld" and guidance != 1.0:
            total += len(timesteps)
        if guard["name"] == "irece":
            total += len(values["phrases"]) * (1 if values["localisation"] in ("attention", "contrast-tokens") else 2)
        if guard["name"] == "egloce":
            inside = sum(values["window"][1] <= t <= values["window"][0] for t in timesteps)
            total += inside * values["iterations"] * (1 if guidance == 1.0 else 2)
    return total


def _digest(name: str) -> str:
    from audit.weights.references import resolve_model

    return resolve_model(name).sha256
