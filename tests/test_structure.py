"""The structure of the code: which module may import which, and what of it the code digests cover."""

from __future__ import annotations

import ast
import functools
import graphlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import audit
from audit import identity
from audit.attacks.registry import ATTACKS
from audit.erasers import ERASERS
from audit.guards import GUARDS
from audit.instruments.detectors.method import DETECTORS
from audit.instruments.quality.method import QUALITY
from audit.methods.registry import Registry
from audit.plan.document import KINDS

# What the stages import and what no unit's result can depend on, with the reason.
CANNOT_CHANGE_A_RESULT = {
    "errors": "words", "files": "bytes as they are", "identity": "keys", "locations": "addresses", "machine": "folders",
    "methods": "a plug-in's version is in the unit's identity", "names": "comparisons in specs",
    "plan": "its values are in the unit's identity", "progress": "is only heard",
    "records": "types", "spec": "its values are in the unit's identity", "storage": "bytes as they are",
    "weights": "the files' digests are in the unit's identity", "yaml_files": "values that identities hold",
}  # fmt: skip
# A worker's models hold guards for the stages that use them, and guards the network of a detector as their energy.
WITHOUT_GUARDS = {"guards", "instruments.detectors"}
UNUSED = {
    "erase": WITHOUT_GUARDS,
    "attack": WITHOUT_GUARDS,
    "invert": WITHOUT_GUARDS,
    "filter": set(),
    "generate": {f"instruments.detectors.{name}" for name in (
        "answers", "base", "classifier", "clip_zero_shot", "grounding_dino", "known_face", "method", "nudenet")},
    "detect": set(),
    "quality": set(),
}  # fmt: skip
FAMILIES: dict[str, Registry[Any]] = {
    "erase": ERASERS, "attack": ATTACKS, "generate": GUARDS, "filter": GUARDS, "detect": DETECTORS, "quality": QUALITY,
}  # fmt: skip


@functools.cache
def modules() -> dict[str, Path]:
    """Dotted name below `audit` -> file, packages included."""
    root = Path(audit.__file__).parent
    dotted = {path: ".".join(path.relative_to(root).with_suffix("").parts) for path in root.rglob("*.py")}
    return {name.removesuffix("__init__").rstrip("."): path for path, name in dotted.items()}


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """The modules of `audit` that a file names in its imports, those inside functions included."""
    names, known = set[str](), modules()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "audit":
            base = (node.module or "")[len("audit.") :]
            full = [f"{base}.{alias.name}".lstrip(".") for alias in node.names]
            names |= {name if name in known else base for name in full}
    return frozenset(names - {""})


def methods_of(kind: str) -> set[str]:
    """The modules that the entry points of a stage's methods name, which no import statement does."""
    family = FAMILIES.get(kind)
    installed = [item for item in family.installed() if item.method is not None] if family else []
    if family is GUARDS:  # filters are guards that have a stage of their own
        installed = [item for item in installed if (item.method.reads is None) == (kind == "generate")]
    found = [item.method for item in installed]
    runs = {method.run if isinstance(method.run, str) else method.run.__module__ for method in found}
    named = {item.entry.value for item in installed}
    return {name.partition(":")[0].removeprefix("audit.") for name in runs | named}


def closure(*roots: str) -> set[str]:
    """The modules that importing `roots` can load, their packages included."""
    seen, left = set[str](), [*roots]
    while left:
        name = left.pop()
        if name and name not in seen:
            seen.add(name)
            left += [*imported(modules()[name]), name.rpartition(".")[0]]
    return seen


def within(name: str, parts: Iterable[str]) -> bool:
    return any(name == part or name.startswith(f"{part}.") for part in parts)


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_digest_covers_every_module_that_a_stage_imports(kind: str) -> None:
    """A module that is missing here and can change a result would let stale units pass for fresh ones."""
    covered = identity._CODE[kind]
    packages = {name for name in modules() if modules()[name].name == "__init__.py"}
    missing = {
        name
        for name in closure(f"compute.stages.{kind}", *methods_of(kind)) - packages
        if not within(name, covered) and not within(name, CANNOT_CHANGE_A_RESULT) and not within(name, UNUSED[kind])
    }
    assert not missing


def test_a_stage_s_methods_are_walked_too() -> None:
    assert {"erasers.esd", "erasers.uce_parameters"} <= methods_of("erase")
    assert "diffusion.training" in closure(*methods_of("erase"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_digest_names_what_exists(kind: str) -> None:
    assert set(identity._CODE[kind]) <= set(modules())


def test_the_code_digest_descends_into_subfolders() -> None:
    assert "compute/stages/batching.py" in identity.source_digests(["compute"])


def test_which_prompts_an_attack_may_find_is_part_of_its_code() -> None:
    assert "spec.content" in identity._CODE["attack"]  # ring_a_bell_unit.best_prompt leaves some out


def test_no_module_imports_itself_through_others() -> None:
    """Imports inside functions and under TYPE_CHECKING count: they are dependencies as any other."""
    graph = {name: imported(path) - {name} for name, path in modules().items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_the_top_of_the_package_is_short() -> None:
    assert sum("." not in name and path.name != "__init__.py" for name, path in modules().items() if name) <= 12
