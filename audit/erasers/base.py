"""The protocol of all erasers: backbone + concepts + parameters -> artefact + record of what changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from audit import identity
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Point
from audit.erasers.parameters import LoopParameters, Precision
from audit.methods.parameters import Values
from audit.spec.sections import Concept

Layout = Literal["unet-partial", "receler", "spm", "text-encoder", "lora"]
DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclasses.dataclass(frozen=True)
class Artefact:
    """Erased weights as they go to disk.

    `unet-partial` tensors have diffusers' UNet names and replace the backbone's; `receler` tensors are adapters, named
    `{entry}.{down|up}.{weight|bias}`, that are added after every attn2; `spm` tensors are low-rank pairs by kohya's names
    that act by the prompt; `text-encoder` tensors are the whole text encoder's, `text_model.` before each name; `lora` tensors
    are low-rank pairs by diffusers' names, which are added to the weights.
    """

    method: str
    layout: Layout
    tensors: Mapping[str, torch.Tensor]  # on the CPU, contiguous, in the dtype they are stored in
    filename: str  # as the method's official code names it
    metadata: Mapping[str, str]  # goes into the safetensors header
    companions: Mapping[str, bytes] = dataclasses.field(default_factory=dict)  # further files of the official layout


@dataclasses.dataclass(frozen=True)
class Change:
    """The difference between an erased model and its backbone.

    `tensors`, `parameters` and `parameter_share` (of all parameters of the UNet or, where it changes, the text encoder, in
    [0, 1]) count those that differ, or that were added. `relative_norm` is ||W' - W|| / ||W|| over them, None for added
    modules. `effect` is the relative change of the noise prediction, ||eps' - eps|| / ||eps||, by prompt ("" is the null
    prompt).
    """

    tensors: int
    parameters: int
    parameter_share: float
    relative_norm: float | None
    effect: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Record:
    """The facts about an artefact, as its model card states them."""

    method: str
    version: str
    paper: str
    concepts: tuple[str, ...]  # names
    prompts: tuple[str, ...]  # that were erased
    preserved: tuple[str, ...]  # neighbours that the method held in place; () where it knows none
    parameters: Values
    backbone: str  # as the user named it
    backbone_sha256: str
    change: Change
    curve: tuple[Point, ...]  # () for a closed form
    seconds: float  # of computing, over all interruptions
    package: str = ""  # name and version of the distribution, where another one brings the eraser


@dataclasses.dataclass(frozen=True)
class Erased:
    """An artefact with its record: the result of an eraser."""

    artefact: Artefact
    record: Record


@dataclasses.dataclass(frozen=True)
class Made:
    """The result of one method's code; `produce` measures it and turns it into an artefact and a record.

    `tensors` are float32 on the CPU. A training method's `curve` and `seconds` span all interruptions.
    """

    layout: Layout
    tensors: dict[str, torch.Tensor]
    filename: str
    prompts: tuple[str, ...]
    preserved: tuple[str, ...] = ()
    curve: tuple[Point, ...] = ()
    seconds: float = 0.0
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)  # of the official layout's own config file
    metadata: Mapping[str, str] = dataclasses.field(default_factory=dict)  # that the official layout has in its header


def training_key(pipeline: Pipeline, method: str, concepts: Sequence[Concept], parameters: LoopParameters) -> str:
    """Return the hex SHA-256 of everything that determines what a training makes."""
    return identity.key(
        {
            "method": method,
            "parameters": parameters.model_dump(mode="json"),
            "concepts": [concept.model_dump(mode="json") for concept in concepts],
            "backbone": pipeline.ref.sha256,
            "code": identity.code_digest("erase"),
        }
    )
