"""Check the checkpoints and the personalisations of a spec before anything is computed."""

from __future__ import annotations

import logging

from audit.plan.resolved import Missing, Resolved
from audit.weights.checkpoints import CheckpointRef
from audit.weights.references import ModelRef

log = logging.getLogger(__name__)


def claims(resolved: Resolved) -> list[tuple[str, str]]:
    """Return each checkpoint of the spec with the method that it is claimed to be of."""
    erasers = [defence.eraser for defence in resolved.spec.defences if defence.eraser is not None]
    return list(dict.fromkeys((e.checkpoint, e.method) for e in erasers if e.checkpoint is not None))


def check_checkpoint(ref: CheckpointRef | Missing, claim: str, backbone: ModelRef) -> None:
    """Return when a checkpoint can be put onto the backbone and changes it; warn where it does not look as claimed.

    Nothing is said of one that is missing. Raises `CheckpointError` otherwise.
    """
    if isinstance(ref, Missing):
        return
    from audit.checkpoints.inspection import inspect  # imports torch

    for warning in inspect(ref, backbone, claim)["warnings"]:
        log.warning("checkpoint %s: %s", ref.name, warning)


def check_personalisations(resolved: Resolved, backbone: ModelRef) -> None:
    """Return when every personalisation can be put onto models of this backbone, and changes them.

    A whole UNet is compared with the backbone; whether it differs from an erased model is known when that is made. Nothing
    is said of those that are missing. Raises `CheckpointError` for the first that cannot.
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
