"""What can be said against the personalisations of a spec before anything is computed."""

from __future__ import annotations

import logging

from audit.checkpoints import backbone_files
from audit.checkpoints.personal import read_change
from audit.checkpoints.personalisation import resolve_personalisation
from audit.spec.document import Spec
from audit.spec.scenarios import EmbeddingScenario
from audit.weights import gaps
from audit.weights.references import ModelRef

log = logging.getLogger(__name__)


def check_personalisations(spec: Spec, backbone: ModelRef) -> None:
    """Return when every personalisation can be put onto models of this backbone, and changes them.

    A whole UNet is compared with the backbone; whether it differs from an erased model is known when that is made.
    Raises `CheckpointError` for the first that cannot; inside `gaps.collecting` files that are missing are skipped.
    """
    tensors = backbone_files(backbone)
    scenarios = [scenario for scenario in spec.scenarios if isinstance(scenario, EmbeddingScenario)]
    named = [name for s in scenarios for name in s.personalisations().values()]
    for name in dict.fromkeys(named):
        ref = resolve_personalisation(name)
        if not gaps.is_absent(ref.files.sha256):
            for note in read_change(ref, tensors).notes:
                log.warning("personalisation %s: %s", name, note)
