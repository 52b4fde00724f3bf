"""Check that erasers, guards and scenarios can act on the backbone's family, before anything is computed. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from audit import erasers, guards
from audit.errors import SpecError
from audit.plan.resolved import Resolved
from audit.spec.scenarios import LatentScenario
from audit.weights.families import require_family
from audit.weights.references import ModelRef, pipeline_family
from audit.weights.schedulers import own_scheduler, prediction_kind


def check_families(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that every method of the spec can act on the backbone's family. Raises `SpecError` for the first that cannot."""
    family = pipeline_family(backbone)
    for where, what, able in _uses(resolved):
        require_family(family, able, what, where)
    prediction = prediction_kind(own_scheduler(backbone.path))
    for scenario in resolved.spec.scenarios:
        if isinstance(scenario, LatentScenario) and scenario.method in ("bdia", "o-belm") and prediction != "epsilon":
            raise SpecError(
                f"scenario {scenario.name!r}: the exact sampler {scenario.method} steps with predicted noise, and this "
                f"backbone predicts {prediction}",
                where=f"scenarios.{scenario.name}",
                next_step="use method fixed-point",
            )


def _uses(resolved: Resolved) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Yield where each eraser and guard stands in the spec, its name, and the families that it can act on."""
    for defence in resolved.spec.defences:
        where = f"defences.{defence.name}"
        if defence.eraser is not None and defence.eraser.checkpoint is None:
            name = defence.eraser.method
            yield where, f"eraser {name!r}", erasers.find(name).families
        for guard in defence.guards:
            method = guards.GUARDS.find(guard.name, "defences")
            if method.reads is None:
                yield where, f"guard {guard.name!r}", method.families
