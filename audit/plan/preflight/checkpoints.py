"""Check the checkpoints and the personalisations of a spec before anything is computed."""

from __future__ import annotations

import logging

from audit.plan.resolved import Missing, Resolved
from audit.weights.checkpoints import CheckpointRef
from audit.weights.references import ModelRef

log = logging.getLogger(__name__)


def claims(resolved: Resolved) -> list[tuple[str, str]]:
    """Return each checkpoint of the spec with its claimed method."""
    erasers = [defence.eraser for defence in resolved.spec.defences if defence.eraser is not None]
    return list(dict.fromkeys((e.checkpoint, e.method) for e in erasers if e.checkpoint is not None))


def check_checkpoint(ref: CheckpointRef | Missing, claim: str, backbone: ModelRef) -> None:
    """Check that a checkpoint can be put onto the backbone and changes it; warn when it does not look as claimed.

    A missing one is skipped. Raises `CheckpointError` when it cannot.
    """
    if isinstance(ref, Missing):
        return
    from audit.checkpoints.inspection import inspect  # imports torch

    for warning in inspect(ref, backbone, claim)["warnings"]:
        log.warning("checkpoint %s: %s", ref.name, warning)


def check_personalisations(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that every personalisation can be put onto models of this backbone, and changes them.

    A whole UNet is compared with the backbone; whether it differs from an erased model is known when that is made.
    Missing ones are skipped. Raises `CheckpointError` for the first that cannot.
    """
    if not resolved.personalisations:
        return
    from audit.checkpoints import backbone_files  # these import torch
    from audit.checkpoints.personal import read_change

    tensors = backbone_files(backbone)
    for name, ref in resolved.personalisations.items():
        if not isinstance(ref, Missing):
            for note in read_change(ref, tensors).notes:
                log.warning("personalisation %s: %s", name, note)
