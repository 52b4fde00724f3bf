"""Load the models of one worker process when they are first needed: the backbone and a few erased UNets."""

from __future__ import annotations

import copy
import dataclasses
from collections import OrderedDict
from collections.abc import Sequence

import pyarrow.compute as pc
import safetensors.torch
import torch

from audit.checkpoints import ErasedModel, apply_artefact
from audit.checkpoints.apply import with_changes
from audit.checkpoints.tensors import header_metadata
from audit.compute.prefixes import Prefixes
from audit.compute.relearned import relearned_change, require_trained
from audit.diffusion.compiled import Compiled, Compiling
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.guard import Guard
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import NoiseModel
from audit.errors import CheckpointError
from audit.guards import parse
from audit.guards.building import Parts, build
from audit.plan.document import Plan
from audit.plan.identities import CheckpointIdentity, EraseIdentity, from_json
from audit.plan.personalisations import Edited
from audit.records import ResolvedGuard
from audit.spec.classifier_guidance import ClassifierGuidanceScenario
from audit.spec.document import Spec
from audit.spec.sampler import AS_PIPELINE, DDIM
from audit.storage.journal import Journal
from audit.weights.checkpoints import CheckpointRef, resolve_checkpoint
from audit.weights.references import ModelRef, resolve_model

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_TEXTS_KEPT = 512  # encoded texts: 0.24 MB each for Stable Diffusion, and prompt sets have thousands


class Models:
    """The backbone, erased models and guards of one process on one device.

    An erased model is named by its erase unit's key; None is the backbone. `plan` tells which units are checkpoints.
    """

    # UNets held in memory, the backbone's among them; a run visits defences in order, so more only cost memory.
    kept = 3

    def __init__(
        self,
        ref: ModelRef,
        journal: Journal,
        device: torch.device,
        plan: Plan | None = None,
        compiling: Compiling | None = None,
    ) -> None:
        """`compiling` is the way in which networks are compiled; None leaves them as they are."""
        self.ref, self.journal, self.device, self.plan, self.compiling = ref, journal, device, plan, compiling
        self._pipeline: Pipeline | None = None
        self._loaded: OrderedDict[tuple[str | None, str], Denoiser | ErasedModel] = OrderedDict()
        self._declared: dict[str, str] | None = None
        self._text_erasers: set[str] | None = None
        self._states: OrderedDict[tuple[str | None, str], torch.Tensor] = OrderedDict()
        self._used: dict[str, str] = {}
        self.prefixes = Prefixes(self.spec)
        self.variant: Models | None = None  # the last one with a personalisation on top

    @property
    def pipeline(self) -> Pipeline:
        """Return the backbone, loaded on first use."""
        if self._pipeline is None:
            samplers = (
                (DDIM,) if self.plan is None else (AS_PIPELINE,)
            )  # planning has checked what each sampler honours
            self._pipeline = load_pipeline(self.ref, self.device, samplers=samplers)
        return self._pipeline

    @property
    def standard(self) -> Models:
        """Return the models in which guards find the un-erased backbone."""
        return self

    @property
    def spec(self) -> Spec | None:
        """Return the spec of the run, which names the files that it brings."""
        return self.plan.spec if self.plan is not None else None

    def noise_model(
        self, erase_key: str | None, dtype: str = "float32", texts: Sequence[str] = (), guidance: float = 1.0
    ) -> NoiseModel:
        """Return the prediction of one model. `texts` are the prompts of the batch, which SPM's layers depend on.

        `guidance` is the scale that a distilled network is told.
        """
        model = self._model(erase_key, dtype)
        if isinstance(model, ErasedModel):
            return model.noise_model(texts, guidance, self._compiled(model.unet))
        return noise_model(model, guidance, self._compiled(model))

    def _compiled(self, network: Denoiser) -> Compiled | None:
        return None if self.compiling is None else self.compiling.of(network)

    def start(self, edited: Edited | None) -> Pipeline:
        """Return the pipeline that an eraser starts from: the backbone, or an erased model with its LoRA in the weights.

        Raises `EraserError` where the LoRA was not trained to its end.
        """
        if edited is None:
            return self.pipeline
        require_trained(self.journal, edited.lora)
        change = relearned_change(self.journal, edited.lora)
        unet = with_changes(self._unet(edited.model, "float32"), change.unet)
        return dataclasses.replace(self.reader(edited.model), unet=unet)

    def network(self, erase_key: str | None, dtype: str = "float32") -> Denoiser:
        """Return the network of one model."""
        return self._unet(erase_key, dtype)

    def states(self, texts: Sequence[str], erase_key: str | None = None) -> torch.Tensor:
        """Return the text-encoder states (B, L, D) of one model. Those of the latest texts are kept for repeated use."""
        owner = self._text_owner(erase_key)
        states = {}
        for text in dict.fromkeys(texts):
            if (owner, text) not in self._states:
                self._states[owner, text] = self._encoder(owner).encode_text([text])[0]
            self._states.move_to_end((owner, text))
            states[text] = self._states[owner, text]
        while len(self._states) > _TEXTS_KEPT:
            self._states.popitem(last=False)
        return torch.stack([states[text] for text in texts])

    def reader(self, erase_key: str | None) -> Pipeline:
        """Return the pipeline with the text encoder that reads prompts for one model."""
        return self._encoder(self._text_owner(erase_key))

    def guards(
        self, resolved: Sequence[ResolvedGuard], erase_key: str | None = None, dtype: str = "float32"
    ) -> list[Guard]:
        """Return fresh guards for one batch, in the spec's order, around the model that they protect."""
        if not resolved:
            return []
        owner = self._text_owner(erase_key)
        parts = Parts(
            standard=self.pipeline,
            standard_unet=lambda: self.standard._unet(None, dtype),
            guarded=self._encoder(owner),
            guarded_unet=lambda: self._unet(erase_key, dtype),
            encode=lambda texts: self.states(texts, erase_key),
            encode_standard=self.standard.states,
            model=self.guard_model,
        )
        return [build(vars(guard), parts) for guard in resolved]

    def _unet(self, erase_key: str | None, dtype: str) -> Denoiser:
        model = self._model(erase_key, dtype)
        return model.unet if isinstance(model, ErasedModel) else model

    def guard_model(self, sha256: str) -> ModelRef:
        """Return the model with this digest that a guard asks, or that guides an attack.

        Raises `CheckpointError` when its files have changed since the plan.
        """
        defences = self.plan.spec.defences if self.plan is not None else ()
        scenarios = self.plan.spec.scenarios if self.plan is not None else ()
        asked = [parse(guard) for defence in defences for guard in defence.guards]
        roles = {name: role for parameters in asked for role, name in parameters.models().items()}
        guiding = [one for one in scenarios if isinstance(one, ClassifierGuidanceScenario)]
        roles |= {scenario.guide_name: "guiding" for scenario in guiding}
        for name in sorted(roles):
            ref = resolve_model(name)
            if ref.sha256 == sha256:
                return ref
        raise CheckpointError(
            f"the {' or '.join(sorted(set(roles.values()))) or 'energy'} model's files have changed since this run was "
            "planned",
            where=", ".join(sorted(roles)) or "defences",
            next_step="restore the files, or start a new run: erasure-audit run SPEC",
        )

    def checkpoint(self, erase_key: str, sha256: str) -> CheckpointRef:
        """Return the declared checkpoint of an erase unit. Raises `CheckpointError` when its files are not the planned ones."""
        declared = self._checkpoints()[erase_key]
        ref = resolve_checkpoint(declared)
        if ref.sha256 != sha256:
            raise CheckpointError(
                "the checkpoint's files have changed since this run was planned",
                where=str(ref.path),
                next_step="restore the files, or start a new run: erasure-audit run SPEC",
            )
        return ref

    def used(self, erase_key: str | None) -> str | None:
        """Return the hex SHA-256 of the erased weights loaded for an erase unit. None when this process has loaded none."""
        return self._used.get(erase_key) if erase_key is not None else None

    def _require_same(self, erase_key: str, digest: str) -> None:
        """Return when `digest` is what this process, and the run's units in the journal, have used for an erase unit."""
        known = self._used.get(erase_key) or self._recorded(erase_key) or digest
        if known != digest:
            raise CheckpointError(
                "the erased weights are not those that other units of this run were made with "
                f"({digest[:12]} instead of {known[:12]})",
                where=f"erase unit {erase_key}",
                next_step="restore the erase unit's files, or start the run below another root: "
                "erasure-audit run SPEC --root ROOT",
            )
        self._used[erase_key] = digest

    def _recorded(self, erase_key: str) -> str | None:
        """Return the digest that the first complete unit depending on an erase unit recorded; all the others were held
        to it.
        """
        if self.plan is None:
            return None
        units = self.plan.units
        for kind in ("attack", "invert", "generate"):
            complete = self.journal.keys(kind)
            for batch in units.select(["kind", "key", "depends"]).filter(pc.equal(units["kind"], kind)).to_batches():
                for row in batch.to_pylist():
                    if erase_key in row["depends"] and row["key"] in complete:
                        digest: str | None = self.journal.header(kind, row["key"]).get("erased_sha256")
                        if digest:
                            return digest
        return None

    def _checkpoints(self) -> dict[str, str]:
        """Return erase unit -> the checkpoint as the spec names it."""
        if self._declared is None:
            self._declared = _declared(self.plan) if self.plan is not None else {}
        return self._declared

    def _text_owner(self, erase_key: str | None) -> str | None:
        """Return the erase unit whose text encoder reads for a model: a checkpoint's, or a method's that trains it."""
        if self._text_erasers is None:
            units = self.plan.units_of("erase") if self.plan is not None else ()
            trained = {unit.key: unit.identity for unit in units if isinstance(unit.identity, EraseIdentity)}
            self._text_erasers = {k for k, one in trained.items() if one.parameters.get("component") == "text-encoder"}
        return erase_key if erase_key in self._text_erasers or erase_key in self._checkpoints() else None

    def _encoder(self, owner: str | None) -> Pipeline:
        """Return the pipeline with the text encoder of a model."""
        model = self._model(owner, "float32") if owner is not None else None
        encoder = model.text_encoder if isinstance(model, ErasedModel) else None
        return self.pipeline if encoder is None else dataclasses.replace(self.pipeline, text_encoder=encoder)

    def _model(self, erase_key: str | None, dtype: str) -> Denoiser | ErasedModel:
        wanted = (erase_key, dtype)
        if wanted not in self._loaded:
            self._loaded[wanted] = self._load(erase_key, dtype)
            while len(self._loaded) > self.kept:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(wanted)
        return self._loaded[wanted]

    def _load(self, erase_key: str | None, precision: str) -> Denoiser | ErasedModel:
        unet, dtype = self.pipeline.unet, _DTYPES[precision]
        if erase_key is not None and erase_key in self._checkpoints():
            header = self.journal.header("erase", erase_key)
            ref = self.checkpoint(erase_key, header["identity"]["checkpoint"])
            self._used[erase_key] = ref.sha256
            return apply_artefact(self.pipeline, ref, dtype=dtype)
        if erase_key is not None:
            header = self.journal.header("erase", erase_key)
            blob = self.journal.blob_of("erase", erase_key, header)
            weights = safetensors.torch.load(blob)
            self._require_same(erase_key, header["blob_sha256"])
            described = from_json("erase", header["identity"])
            start = self.start(described.edited) if isinstance(described, EraseIdentity) else self.pipeline
            return apply_artefact(
                start, weights, where=f"erase unit {erase_key}", dtype=dtype, metadata=header_metadata(blob)
            )
        if unet.dtype != dtype:
            unet = copy.deepcopy(unet)  # `to` works in place and the float32 backbone is still needed
        return unet.to(dtype)


def _declared(plan: Plan) -> dict[str, str]:
    """Erase units that are checkpoints -> the name in the spec whose files have the unit's digest."""
    digests = {
        unit.key: unit.identity.checkpoint
        for unit in plan.units_of("erase")
        if isinstance(unit.identity, CheckpointIdentity)
    }
    if not digests:
        return {}
    names = {d.eraser.checkpoint for d in plan.spec.defences if d.eraser is not None and d.eraser.checkpoint}
    by_digest = {resolve_checkpoint(name).sha256: name for name in sorted(names)}
    if not by_digest.keys() >= set(digests.values()):
        raise CheckpointError(
            "the files of a checkpoint have changed since this run was planned",
            where=", ".join(sorted(names)),
            next_step="restore the files, or start a new run: erasure-audit run SPEC",
        )
    return {key: by_digest[digest] for key, digest in digests.items()}
