"""Check that every method of a spec is installed and usable. Imports no torch, unless a plug-in does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from audit.attacks.parameters import AttackMethod
from audit.attacks.registry import ATTACKS
from audit.erasers import ERASERS
from audit.erasers.method import EraserMethod
from audit.errors import EnvironmentProblem, SpecError
from audit.files import Document
from audit.guards import GUARDS
from audit.guards.parameters import GuardMethod
from audit.instruments.detectors.method import DETECTORS
from audit.instruments.quality.method import QUALITY
from audit.methods.method import Method
from audit.methods.registry import OWN, Registry, one_of
from audit.spec.document import Spec
from audit.spec.relearning import TrainingScenario
from audit.spec.scenarios import AdversarialTextScenario, EmbeddingScenario

M = TypeVar("M", bound=Method)


def check_methods(spec: Spec) -> None:
    """Check that the spec's detectors, quality instruments and attacks are installed and can be used.

    Raises `SpecError` with the field for an unknown one, and `MethodError` for a plug-in that is broken. Erasers and
    guards are looked up with their parameters.
    """
    for number, detector in enumerate(spec.detectors):
        _find(DETECTORS, detector.kind, f"detectors.{number}.kind")
    for number, entry in enumerate(spec.quality):
        _find(QUALITY, entry.kind, f"quality.{number}.kind")
    for number, scenario in enumerate(spec.scenarios):
        if isinstance(scenario, AdversarialTextScenario):
            place = f"scenarios.{number}.{scenario.name}.method"
            known = ATTACKS.names()
            if scenario.method not in known or _find(ATTACKS, scenario.method, place).scenario != scenario.kind:
                searching = [item.method for item in ATTACKS.installed() if item.method is not None]
                raise _unknown(place, [method.name for method in searching if method.scenario == scenario.kind])


def methods_of(spec: Spec) -> dict[str, dict[str, dict[str, str]]]:
    """Return family -> name -> version and distribution of every method of the spec, for reports.

    A checkpoint's method is a claim and no method that runs. Raises as `check_methods`.
    """
    erasers = [d.eraser.method for d in spec.defences if d.eraser is not None and d.eraser.checkpoint is None]
    guards = [guard.name for defence in spec.defences for guard in defence.guards]
    searches = [s.method for s in spec.scenarios if isinstance(s, AdversarialTextScenario) and s.prompts is None]
    embeddings = [s for s in spec.scenarios if isinstance(s, EmbeddingScenario)]
    learned = any(s.embedding is None and s.personalisation is None for s in embeddings)
    relearned = any(isinstance(scenario, TrainingScenario) for scenario in spec.scenarios)
    used = [
        _versions(ERASERS, erasers),
        _versions(GUARDS, guards),
        _versions(
            ATTACKS, [*searches, *(["textual-inversion"] if learned else []), *(["relearning"] if relearned else [])]
        ),
        _versions(DETECTORS, [detector.kind for detector in spec.detectors]),
        _versions(QUALITY, [entry.kind for entry in spec.quality_entries()]),
    ]
    return {family: versions for family, versions in used if versions}


def require_planned(kind: str, identity: Document) -> None:
    """Check that the methods of a unit are those that its stored identity was planned with.

    Raises `EnvironmentProblem` when a plug-in has another version here or is gone: the unit's key would be wrong.
    """
    named: list[tuple[Registry[EraserMethod] | Registry[AttackMethod] | Registry[GuardMethod], Document]] = []
    if kind == "erase" and "method" in identity:
        named = [(ERASERS, {**identity, "name": identity["method"]})]
    elif kind == "attack":
        named = [(ATTACKS, {**identity, "name": identity["method"]})]
    elif kind == "generate":
        named = [(GUARDS, guard) for guard in identity["guards"]]
    elif kind == "filter":
        named = [(GUARDS, identity["filter"])]
    for registry, planned in named:
        name = planned["name"]
        here = registry.origin(name, registry.family).get("plugin") if name in registry.names() else {}
        if here != planned.get("plugin"):
            raise EnvironmentProblem(
                f"{registry.word} {name!r} was planned with {_origin(planned.get('plugin'))}, "
                f"and here it is {_origin(here)}",
                where=f"a unit of kind {kind}",
                next_step="install what planned it, or start a new run: erasure-audit run SPEC",
            )


def _origin(plugin: Mapping[str, str] | None) -> str:
    if plugin is None:
        return OWN
    return (
        "{distribution} {version}, version {method_version} of the method".format(**plugin)
        if plugin
        else "not installed"
    )


def _versions(registry: Registry[M], names: Sequence[str]) -> tuple[str, dict[str, dict[str, str]]]:
    versions = {}
    for name in sorted(set(names)):
        entry = registry.entry(name)
        distribution = {"distribution": entry.distribution, "distribution_version": entry.version} if entry else {}
        versions[name] = {"version": registry.find(name, registry.family).version, **distribution}
    return registry.family, versions


def _find(registry: Registry[M], name: str, where: str) -> M:
    if name not in registry.names():
        raise _unknown(where, registry.names())
    return registry.find(name, where)


def _unknown(where: str, known: Sequence[str]) -> SpecError:
    return SpecError(
        f"the spec has mistakes:\n  - {where}: Input should be {one_of(known)}",
        where=where,
        next_step="mend this field, or install the package that brings the method; erasure-audit methods lists them",
    )
