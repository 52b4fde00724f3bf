"""Report the claimed method of a checkpoint and its measured facts side by side.

A file cannot say which method made it: the 32 cross-attention matrices that UCE writes are also what ESD-x-strict,
RECE, MACE and Concept Ablation change. Where the claim does not fit the facts, a warning says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NotRequired, TypedDict

from audit.checkpoints import Artefact, Measured, backbone_files, layouts, measure, recognise
from audit.checkpoints.families import network_of
from audit.checkpoints.footprint import ADAPTERS, SPM_LAYERS, TEXT_ENCODER
from audit.checkpoints.key_sets import MEANINGS, key_set
from audit.checkpoints.sd1 import sd1_names
from audit.checkpoints.stored import FP8, kinds
from audit.checkpoints.tensors import BackboneTensors
from audit.errors import CheckpointError
from audit.files import Document
from audit.weights.checkpoints import CheckpointRef
from audit.weights.references import ModelRef, component_files, denoiser_part

DEFAULT = "testbed"  # the backbone that a checkpoint is compared with when none is named

# What each method changes: key sets of the denoising network, or a part besides its tensors.
LORA_LAYERS = "the layers of a LoRA"
EXPECTED: Mapping[str, tuple[str, ...]] = {
    "esd-x": ("XATTN",),
    "esd-x-strict": ("KV",),
    "esd-u": ("ESD_U", "NOXATTN"),
    "esd-all": ("ESD_ALL", "ALL"),
    "uce": ("KV", "TEXT_ENTRY"),
    "rece": ("KV",),
    "mace": ("KV",),
    "concept-ablation": ("KV", "QKVO", "ALL", TEXT_ENCODER),
    "receler": (ADAPTERS,),
    "spm": (SPM_LAYERS,),
    "speed": ("V", "KV"),
    "stereo": ("NOXATTN", "XATTN", "ESD_U", "ALL"),
    "eraseflow": (LORA_LAYERS,),
    "leco": (LORA_LAYERS,),
    "advunlearn": (TEXT_ENCODER, "NOXATTN", "XATTN", "ALL"),
}


class Inspection(TypedDict):
    """Claim, facts and warnings of one checkpoint, as JSON."""

    checkpoint: str
    claim: str | None
    family: NotRequired[str]  # of an outline alone
    facts: Document
    warnings: list[str]


def inspect(ref: CheckpointRef, backbone: ModelRef, claim: str | None = None) -> Inspection:
    """Return claim, facts and warnings of a checkpoint against a backbone, as one JSON object. Nothing is generated.

    Raises `CheckpointError` when the checkpoint would not be loaded.
    """
    tensors = backbone_files(backbone)
    artefact = recognise(ref, tensors)
    measured = measure(artefact, tensors)
    return {
        "checkpoint": ref.name,
        "claim": claim,
        "facts": facts(ref, backbone, artefact, measured),
        "warnings": warnings(claim, artefact, measured, tensors),
    }


def outline(ref: CheckpointRef, claim: str | None = None) -> Inspection | None:
    """Return what `inspect` reports of a Stable Diffusion 1.x checkpoint from its names and shapes alone.

    The footprint is left out, as it needs the backbone's weights. None when the file is no such checkpoint.
    """
    try:
        artefact = recognise(ref, sd1_names())
    except CheckpointError:
        return None
    sentences = [f"the backbone is not {DEFAULT}: pass the checkpoint's own with --backbone to see its footprint"]
    if claim is not None and claim in EXPECTED and claim not in artefact.layout.methods:
        sentences.append(_not_written(claim, artefact))
    return {
        "checkpoint": ref.name,
        "claim": claim,
        "family": "Stable Diffusion 1.x",
        "facts": {"sha256": ref.sha256, "files": dict(ref.files), "revision": ref.revision, **_recognised(artefact)},
        "warnings": [*artefact.notes, *sentences],
    }


def facts(ref: CheckpointRef, backbone: ModelRef, artefact: Artefact, measured: Measured) -> dict[str, object]:
    """Return the measured and recognised facts, without the method that the user claims."""
    network = denoiser_part(backbone.path)
    return {
        "sha256": ref.sha256,
        "files": dict(ref.files),
        "revision": ref.revision,
        "backbone": {"name": backbone.name, "sha256": backbone.sha256, network: component_files(backbone, network)},
        **_recognised(artefact),
        "tensors": measured.tensors,
        "changed_key_set": measured.key_set,
        "parameters": measured.parameters,
        "parameter_share": measured.parameter_share,
        "relative_norm": measured.relative_norm,
        "groups": {
            name: {"tensors": g.tensors, "parameters": g.parameters, "relative_norm": g.relative_norm}
            for name, g in measured.groups.items()
        },
        "names": [*measured.names, *measured.text_names],
    }


def _recognised(artefact: Artefact) -> dict[str, object]:
    return {
        "layout": artefact.layout.name,
        "says": artefact.layout.says,
        "names_sha256": artefact.names_sha256,
        "file_tensors": artefact.file_tensors,
        "file_key_set": artefact.key_set,
        "settings": dict(artefact.config),
        "stored": kinds(artefact.tensors()),
    }


def warnings(claim: str | None, artefact: Artefact, measured: Measured, backbone: BackboneTensors) -> list[str]:
    """Return sentences that the user should read before trusting a number about this checkpoint."""
    sentences, network = list(artefact.notes), network_of(backbone.unet)
    eight = sum(tensor.stored in FP8 for tensor in artefact.tensors())
    if eight:
        sentences.append(
            f"{eight} of its tensors are stored with eight bits: those that differ carry that rounding, and part of what "
            "the audit sees is it"
        )
    if artefact.whole and len(measured.names) == len(backbone.unet):
        sentences.append(
            f"all {len(backbone.unet)} tensors of the {network} differ: the checkpoint trained everything, or started from "
            "another copy of the weights (ESD of 2023, Receler and AdvUnlearn start from the non-EMA copy), and then "
            "part of what the audit sees is that difference"
        )
    elif artefact.adapters and measured.names:
        sentences.append(
            f"{len(measured.names)} tensors of the {network} below the adapters differ from the backbone's too"
        )
    if artefact.text and measured.text_names and artefact.unet:
        sentences.append(f"{len(measured.text_names)} tensors of the text encoder differ too; they are used")
    if claim is None:
        sentences.append("no method is claimed; the file fits: " + ", ".join(dict.fromkeys(artefact.layout.methods)))
    else:
        sentences += _misfits(claim, artefact, measured, backbone)
    return sentences


def _misfits(claim: str, artefact: Artefact, measured: Measured, backbone: BackboneTensors) -> list[str]:
    expected = EXPECTED.get(claim)
    if expected is None:
        return [f"nothing is known about the method {claim!r}, so the claim cannot be compared with the facts"]
    sentences = []
    if claim not in artefact.layout.methods:
        sentences.append(_not_written(claim, artefact))
    changed = set(measured.groups) & {TEXT_ENCODER, ADAPTERS, SPM_LAYERS} | (
        {measured.key_set} if measured.key_set else set()
    )
    if artefact.layout is layouts.LORA:
        changed.add(LORA_LAYERS)
    if not changed & set(expected) and not any(_hidden(name, measured, backbone) for name in expected):
        wanted = " or ".join(f"{name} ({MEANINGS[name]})" if name in MEANINGS else name for name in expected)
        groups = ", ".join(f"{group.tensors} of {name}" for name, group in measured.groups.items())
        sentences.append(f"claimed to be {claim}, which changes {wanted}; what differs is {groups}")
    return sentences


def _hidden(name: str, measured: Measured, backbone: BackboneTensors) -> bool:
    """Return whether one key set may be what changed although less of it shows, since the rest differs by rounding alone.

    A few iterations change some tensors by less than float16 resolves. No rounding hides more than half of a set, nor
    makes what shows another set exactly.
    """
    members = key_set(name, backbone.unet) if name in MEANINGS else frozenset()
    changed = set(measured.names)
    if measured.key_set is not None or not members or 2 * len(changed) < len(members):
        return False
    return changed <= members <= changed | set(measured.rounded)


def _not_written(claim: str, artefact: Artefact) -> str:
    return f"claimed to be {claim}, but the file is {artefact.layout.says}: {claim} does not write that"
