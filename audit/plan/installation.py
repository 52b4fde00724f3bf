"""Describe what an installation computes with: versions, code and model files, so that two machines can be compared.

Units of one run are computed by several machines. Each of them must use the code, the libraries and the weights that the
run was planned with, or the keys of its units would be wrong. Nothing here loads a model.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path

from audit.checkpoints.personalisation import PersonalisationRef
from audit.errors import CheckpointError
from audit.identity import LIBRARIES, code_digest
from audit.instruments.detectors.method import DETECTORS
from audit.plan.document import KINDS
from audit.plan.resolve import resolve
from audit.plan.resolved import Missing, Resolved
from audit.spec.document import Spec
from audit.spec.sections import DetectorSpec
from audit.weights.checkpoints import CheckpointRef, located, shared_checkpoint
from audit.weights.references import ModelRef, shared_model
from audit.weights.sharing import SharedModel, shared_path

Installation = Mapping[str, str]  # what it is, in words -> its version or digest; a missing input -> why it is missing
SHOWN = 3  # differences that a message names


def installation(spec: Spec) -> dict[str, str]:
    """Return everything of this machine that decides what the units of `spec` compute: name in words -> version or digest."""
    resolved = resolve(spec)
    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        **{name: importlib.metadata.version(name) for name in LIBRARIES},
        **{f"the code of {kind} units": code_digest(kind) for kind in KINDS},
        **dict(_inputs(resolved)),
    }


def differences(here: Installation, planned: Installation) -> list[str]:
    """Return a sentence part for each thing that differs from what the run began with, files that are missing first."""
    parts = []
    for name in dict.fromkeys((*planned, *here)):
        mine, theirs = here.get(name, "absent"), planned.get(name, "absent")
        if mine != theirs:
            parts.append(f"{name} is {_short(mine)}, the run has {_short(theirs)}")
    return sorted(parts, key=lambda part: "missing" not in part)


def shareable(spec: Spec) -> Iterator[tuple[SharedModel, Path]]:
    """Yield every model, checkpoint and file of a judge that lies on this machine outside of the package, with its folder."""
    resolved = resolve(spec)
    for model in (resolved.backbone, *resolved.energies.values(), *resolved.networks.values()):
        if isinstance(model, ModelRef) and model.source != "testbed":
            yield shared_model(model), model.path
    for checkpoint in (*resolved.checkpoints.values(), *resolved.personalisations.values()):
        files = checkpoint.files if isinstance(checkpoint, PersonalisationRef) else checkpoint
        if isinstance(files, CheckpointRef):
            yield shared_checkpoint(files)
    for entry in spec.detectors:
        yield from _files(entry)


def _files(entry: DetectorSpec) -> Iterator[tuple[SharedModel, Path]]:
    """Yield what a judge's parameters name on this machine: reference pictures, a recogniser, learned prompts."""
    for name in DETECTORS.find(entry.kind, f"detectors.{entry.name}").files:
        named = entry.parameters.get(name)
        for reference in named.values() if isinstance(named, Mapping) else (named,):
            try:
                found = shared_path(reference.strip(), located(reference)[0]) if isinstance(reference, str) else None
            except CheckpointError:  # an address, or nothing that is here
                continue
            if found is not None:
                yield found


def _short(value: str) -> str:
    return value[:12] if len(value) == 64 and value.isalnum() else value


def _inputs(resolved: Resolved) -> Iterator[tuple[str, str]]:
    """Yield the digest of every model, checkpoint, embedding and instrument of a spec; corpora are read by address."""
    groups: tuple[tuple[str, Mapping[str, object]], ...] = (
        ("backbone", {resolved.spec.backbone: resolved.backbone}),
        ("model", resolved.energies),
        ("network of", resolved.networks),
        ("checkpoint", resolved.checkpoints),
        ("personalisation", resolved.personalisations),
        ("embedding", {f"{concept} of {scenario}": file for (scenario, concept), file in resolved.embeddings.items()}),
        ("detector", {name: _instrument(known) for name, known in resolved.detectors.items()}),
        ("quality instrument", resolved.quality),
    )
    for what, entries in groups:
        for name, known in entries.items():
            yield f"{what} {name}", _value(known)


def _instrument(known: object) -> object:
    return known if isinstance(known, Missing) else getattr(known, "instrument", known)


def _value(known: object) -> str:
    if isinstance(known, Missing):
        return f"missing ({known.error.what})"
    return str(getattr(known, "sha256", None) or getattr(known, "instrument_id", known))
