"""Models of a worker with a personalisation on top: its change is added to the weights of each model that is asked for.

Hooks and guards of the defence stay active: Receler's adapters, SPM's layers, and guards. A guard's own standard model
is the backbone without the personalisation. Prompts are read by the personalised text encoder, as diffusers does after
`load_lora_weights`. SPM's transport keeps the text encoder that it was built with.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TypeAlias

from audit.checkpoints.apply import ErasedModel, with_changes
from audit.checkpoints.personal import Change, read_change
from audit.checkpoints.personalisation import PersonalisationRef, resolve_personalisation
from audit.checkpoints.tensors import backbone_modules
from audit.compute.models import Models
from audit.compute.relearned import relearned_change
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.pipeline import Pipeline
from audit.errors import CheckpointError
from audit.plan.personalisations import Personalisation, Relearned
from audit.spec.scenarios import EmbeddingScenario

OnTop: TypeAlias = Personalisation | Relearned  # from outside, or from an attack unit


def with_personalisation(models: Models, personalisation: OnTop | None) -> Models:
    """Return `models` with a personalisation on top, or `models` itself for None. The latest one is kept."""
    return models if personalisation is None else personalised(models, personalisation)


def personalised(models: Models, personalisation: OnTop) -> Personalised:
    """Return `models` with a personalisation on top. The latest one is kept with them."""
    if isinstance(models.variant, Personalised) and models.variant.personalisation == personalisation:
        return models.variant
    variant = Personalised(models, personalisation)
    models.variant = variant
    return variant


class Personalised(Models):
    """The models of `below`, each with a personalisation on top."""

    kept = 1  # the models below are held too

    def __init__(self, below: Models, personalisation: OnTop) -> None:
        super().__init__(below.ref, below.journal, below.device, below.plan, below.compiling)
        self.below, self.personalisation = below, personalisation
        self._encoders: dict[str | None, Pipeline] = {}

    @property
    def pipeline(self) -> Pipeline:
        """Return the backbone, without the personalisation."""
        return self.below.pipeline

    @property
    def standard(self) -> Models:
        """Return the models in which guards find the un-erased backbone."""
        return self.below

    def used(self, erase_key: str | None) -> str | None:
        """Return the digest that the models below loaded for an erase unit."""
        return self.below.used(erase_key)

    @functools.cached_property
    def change(self) -> Change:
        """Return the change to add. Raises `CheckpointError` when the file is no longer the planned one or adds nothing."""
        chosen = self.personalisation
        if isinstance(chosen, Relearned):
            return relearned_change(self.below.journal, chosen)
        unet, reader = self.below._unet(chosen.base, "float32"), self.below.reader(chosen.base)
        return read_change(self._find(chosen.sha256), backbone_modules(unet, reader.text_encoder))

    def _find(self, sha256: str) -> PersonalisationRef:
        scenarios = self.below.plan.spec.scenarios if self.below.plan is not None else ()
        named = [p for s in scenarios if isinstance(s, EmbeddingScenario) for p in s.personalisations().values()]
        for name in dict.fromkeys(named):
            ref = resolve_personalisation(name)
            if ref.files.sha256 == sha256:
                return ref
        raise CheckpointError(
            "the personalisation's files have changed since this run was planned",
            where=", ".join(named) or "scenarios",
            next_step="restore the files, or start a new run: erasure-audit run SPEC",
        )

    def _checkpoints(self) -> dict[str, str]:
        return self.below._checkpoints()

    def _load(self, erase_key: str | None, precision: str) -> Denoiser | ErasedModel:
        model = self.below._model(erase_key, precision)
        plain = model.unet if isinstance(model, ErasedModel) else model
        unet: Denoiser = with_changes(plain, self.change.unet)
        return dataclasses.replace(model, unet=unet) if isinstance(model, ErasedModel) else unet

    def _encoder(self, owner: str | None) -> Pipeline:
        if owner not in self._encoders:
            pipeline = self.below._encoder(owner)
            if not self.change.text:
                return pipeline
            encoder = pipeline.text_encoder
            live = {name.removeprefix("text_model."): name for name in encoder.state_dict()}
            changes = {live[name]: delta for name, delta in self.change.text.items()}
            self._encoders[owner] = dataclasses.replace(pipeline, text_encoder=with_changes(encoder, changes))
        return self._encoders[owner]
