"""Run one eraser and prove that it erased something: an artefact with its record, or an error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from audit import erasers, identity
from audit.checkpoints import apply_artefact
from audit.checkpoints.receler_adapter import attach, load_adapters
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.sampling import NoiseModel
from audit.diffusion.training import require_finite
from audit.erasers.base import DTYPES, Artefact, Change, Erased, Made, Record
from audit.erasers.phrases import phrases, token_ids
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept
from audit.weights.references import ModelRef

TEXT_PREFIX = "text_model."  # of a text encoder's names, as transformers 4 and the hub have them
_PROBE_SIDE, _PROBE_ROWS, _PROBE_TIMESTEP = 16, 2, 500


def produce(
    pipeline: Pipeline,
    method: str,
    concepts: Sequence[Concept],
    parameters: Values,
    session: Session | None = None,
) -> Erased:
    """Erase `concepts` by `method`; return the artefact and the record of the change. The pipeline is left as it was.

    `parameters` are resolved ones (`erasers.resolve_parameters`). Raises `SpecError` for an unknown method or a phrase
    that the text encoder cannot read, `EraserError` when nothing is selected, nothing changes, or training diverges.
    """
    eraser, plugin = erasers.find(method), erasers.ERASERS.foreign(method)
    session = session or Session()
    for concept in concepts:
        for phrase in phrases(concept, bool(parameters["synonyms"])):
            if spelled_out(pipeline, phrase):
                session.listener.note(f"{phrase!r} is read letter by letter: the backbone may never have learnt it")
    made = eraser.function()(pipeline, concepts, parameters, session)
    if not isinstance(made, Made):
        raise EraserError(
            f"{method} cannot be used: its function returns a value of type {type(made).__name__}, and Made is needed",
            next_step="mend the plug-in that brings it; erasure-audit methods names it",
        )
    require_finite(made.tensors, f"{method} made weights that cannot be used", "change the parameters")
    stored = {name: tensor.to(DTYPES[parameters["stored"]]).contiguous() for name, tensor in made.tensors.items()}
    require_finite(stored, f"{method}'s weights do not fit into {parameters['stored']}", "--set stored=float32")
    _require_changed(pipeline.unet, made, stored)
    # What the file holds is measured, not what training left before it was rounded.
    rounded = dataclasses.replace(made, tensors={name: tensor.float() for name, tensor in stored.items()})
    change = measured(pipeline, rounded, concepts)
    record = Record(
        method=method,
        version=eraser.version,
        paper=eraser.paper,
        concepts=tuple(concept.name for concept in concepts),
        prompts=made.prompts,
        preserved=made.preserved,
        parameters=dict(parameters),
        backbone=pipeline.ref.name,
        backbone_sha256=pipeline.ref.sha256,
        change=change,
        curve=made.curve,
        seconds=made.seconds,
        package=plugin.package if plugin else "",
    )
    key = request_key(pipeline.ref, method, concepts, parameters)
    return Erased(_artefact(method, made, stored, record, key), record)


def request_key(ref: ModelRef, method: str, concepts: Sequence[Concept], parameters: Values) -> str:
    """Return the hex SHA-256 of a request; an artefact's header carries it, so that it is not made twice.

    The method's version is part of it: an artefact of a version with another result is made again.
    """
    described = [concept.model_dump(mode="json") for concept in concepts]
    asked = {
        "backbone": ref.sha256, "method": method, "version": erasers.find(method).version, "concepts": described,
        "parameters": dict(parameters), **erasers.ERASERS.origin(method, "defences"),
    }  # fmt: skip
    return identity.key(asked)


def spelled_out(pipeline: Pipeline, phrase: str) -> bool:
    """Return whether some word of the phrase is read letter by letter: the tokenizer has no longer piece of it."""
    return any(len(word) > 2 and len(token_ids(pipeline, word)) == len(word) for word in phrase.split())


def _artefact(method: str, made: Made, stored: Mapping[str, torch.Tensor], record: Record, key: str) -> Artefact:
    metadata = {
        **made.metadata,
        "method": method,
        "concepts": json.dumps(record.concepts),
        "backbone_sha256": record.backbone_sha256,
        "parameters": json.dumps(record.parameters, sort_keys=True),
        "request": key,
    }
    companions = {}
    if made.config:
        companions["eraser_config.json"] = json.dumps(dict(made.config), indent=2).encode() + b"\n"
    return Artefact(method, made.layout, dict(stored), made.filename, metadata, companions)


def _require_changed(unet: nn.Module, made: Made, stored: Mapping[str, torch.Tensor]) -> None:
    """Raise `EraserError` when a selected tensor is the backbone's again once it is rounded to the stored dtype.

    The file would declare a change that it does not hold, and strict loaders would refuse it.
    """
    if made.layout != "unet-partial":
        return
    state = unet.state_dict()
    still = [name for name, tensor in stored.items() if torch.equal(state[name].cpu().to(tensor.dtype), tensor)]
    if still:
        raise EraserError(
            f"{len(still)} of {len(stored)} selected tensors are still the backbone's as they would be stored "
            f"(e.g. {still[0]})",
            next_step="train more or faster (iterations, learning_rate), or store float32: --set stored=float32",
        )


def measured(pipeline: Pipeline, made: Made, concepts: Sequence[Concept]) -> Change:
    """Measure the change of the backbone's weights and predictions. Raises `EraserError` when there is none."""
    part: nn.Module = pipeline.text_encoder if made.layout == "text-encoder" else pipeline.unet
    total = sum(parameter.numel() for parameter in part.parameters())
    changed, norm = _weight_change(part, made)
    if not changed:
        raise EraserError(
            "the eraser changed no weight: nothing was erased", next_step="check the concept and the parameters"
        )
    phrases = {name: concept.phrase_of(name) for concept in concepts for name in concept.neighbours}
    texts = ["", *dict.fromkeys([*(c.phrase for c in concepts), *(phrases[name] for name in made.preserved)])]
    effect = _effect(pipeline, made, texts)
    if not any(effect[concept.phrase] > 0 for concept in concepts):
        raise EraserError(
            "the eraser changed no prediction for the concept: nothing was erased",
            next_step="check the concept and the parameters",
        )
    count = sum(made.tensors[name].numel() for name in changed)
    return Change(len(changed), count, count / total, norm, effect)


def _weight_change(part: nn.Module, made: Made) -> tuple[list[str], float | None]:
    """Return the names of the tensors that differ or do something, and the relative norm of the difference."""
    if made.layout in ("receler", "spm", "lora"):
        return [name for name, tensor in made.tensors.items() if bool(tensor.any())], None
    state, changed = part.state_dict(), []
    if made.layout == "text-encoder":
        state = {f"{TEXT_PREFIX}{name.removeprefix(TEXT_PREFIX)}": tensor for name, tensor in state.items()}
    difference = norm = 0.0
    for name, tensor in made.tensors.items():
        old = state[name].float().cpu()
        if not torch.equal(old, tensor):
            changed.append(name)
            difference += float((tensor - old).double().pow(2).sum())
            norm += float(old.double().pow(2).sum())
    return changed, (difference / max(norm, 1e-30)) ** 0.5


@torch.no_grad()
def _effect(pipeline: Pipeline, made: Made, texts: Sequence[str]) -> dict[str, float]:
    """Return ||eps' - eps|| / ||eps|| by prompt, on a few seeded latents of at most 16 x 16 in the middle of the noise."""
    channels, side, _ = pipeline.latent_shape
    side = min(side, _PROBE_SIDE)
    noise = torch.randn((_PROBE_ROWS, channels, side, side), generator=torch.Generator().manual_seed(0))
    latents = noise.to(pipeline.device, pipeline.unet.dtype)

    def predictions(encoder: Pipeline, model: Callable[[Sequence[str]], NoiseModel]) -> list[torch.Tensor]:
        states = encoder.encode_text(texts)
        rows = [(text, row.expand(_PROBE_ROWS, -1, -1)) for text, row in zip(texts, states, strict=True)]
        return [model((text,) * _PROBE_ROWS)(latents, _PROBE_TIMESTEP, row) for text, row in rows]

    before = predictions(pipeline, lambda _: noise_model(pipeline.unet))
    if made.layout in ("unet-partial", "receler"):
        with applied(pipeline, made.layout, made.tensors):
            after = predictions(pipeline, lambda _: noise_model(pipeline.unet))
    else:
        erased = apply_artefact(pipeline, made.tensors, metadata=made.metadata)
        encoder = erased.text_encoder or pipeline.text_encoder
        after = predictions(dataclasses.replace(pipeline, text_encoder=encoder), erased.noise_model)
    return {text: float((a - b).norm() / b.norm()) for text, a, b in zip(texts, after, before, strict=True)}


@contextlib.contextmanager
def applied(pipeline: Pipeline, layout: str, tensors: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """Replace the pipeline's UNet by the erased one inside the block; the old bits come back after it.

    There is no second copy of the UNet.
    """
    if layout == "receler":
        adapters = load_adapters(pipeline.unet, tensors, "the trained erasers").to(pipeline.unet.dtype)
        attached = attach(pipeline.unet, adapters)
        try:
            yield
        finally:
            attached.detach()
        return
    parameters = dict(pipeline.unet.named_parameters())
    before = {name: parameters[name].data for name in tensors}
    try:
        for name, tensor in tensors.items():
            parameters[name].data = tensor.to(before[name])
        yield
    finally:
        for name, data in before.items():
            parameters[name].data = data
