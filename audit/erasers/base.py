"""The protocol of all erasers: backbone + concepts + parameters -> artefact + record of what changed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import torch

from audit.backbones import Pipeline
from audit.erasers.parameters import Precision
from audit.errors import EraserError
from audit.spec import Concept

DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


class Listener(Protocol):
    """Hears how training goes; `done` and `total` count iterations."""

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """A stage begins, `done` iterations of which an earlier process has made."""

    def update(self, stage: str, done: int) -> None:
        """An iteration is done."""

    def end(self, stage: str) -> None:
        """The stage is over."""

    def note(self, text: str) -> None:
        """One line worth showing, such as the loss."""


class Silent:
    """A listener that shows nothing."""

    def begin(self, stage: str, total: int | None, done: int) -> None:
        """Nothing."""

    def update(self, stage: str, done: int) -> None:
        """Nothing."""

    def end(self, stage: str) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""


@dataclasses.dataclass(frozen=True)
class Session:
    """How an eraser runs; nothing here changes what it makes.

    `folder` keeps checkpoints while training lasts, so that the same call continues after an interruption; without it
    nothing is kept. `checkpoint_seconds` is the time between two checkpoints.
    """

    folder: Path | None = None
    listener: Listener = dataclasses.field(default_factory=Silent)
    checkpoint_seconds: float = 60.0


@dataclasses.dataclass(frozen=True)
class Artefact:
    """Erased weights as they go to disk.

    `unet-partial` tensors have diffusers' UNet names and replace the backbone's; `receler` tensors are adapters, named
    `{entry}.{down|up}.{weight|bias}`, that are added after every attn2.
    """

    method: str
    layout: Literal["unet-partial", "receler"]
    tensors: Mapping[str, torch.Tensor]  # on the CPU, contiguous, in the dtype they are stored in
    filename: str  # as the method's official code names it
    metadata: Mapping[str, str]  # goes into the safetensors header
    companions: Mapping[str, bytes] = dataclasses.field(default_factory=dict)  # further files of the official layout


@dataclasses.dataclass(frozen=True)
class Point:
    """Mean loss of the iterations since the last point, up to and with `iteration` (from 1)."""

    iteration: int
    loss: float


@dataclasses.dataclass(frozen=True)
class Change:
    """What an eraser changed, measured before the tensors were rounded to the stored dtype.

    `tensors`, `parameters` and `parameter_share` (of all UNet parameters, in [0, 1]) count those that differ, or that
    were added. `relative_norm` is ||W' - W|| / ||W|| over them, None for added modules. `effect` is the relative change
    of the noise prediction, ||eps' - eps|| / ||eps||, by prompt ("" is the null prompt).
    """

    tensors: int
    parameters: int
    parameter_share: float
    relative_norm: float | None
    effect: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Record:
    """How an artefact came about: the facts for its model card."""

    method: str
    version: str
    paper: str
    concepts: tuple[str, ...]  # names
    prompts: tuple[str, ...]  # that were erased
    preserved: tuple[str, ...]  # neighbours that the method held in place; () where it knows none
    parameters: Mapping[str, Any]
    backbone: str  # as the user named it
    backbone_sha256: str
    change: Change
    curve: tuple[Point, ...]  # () for a closed form
    seconds: float  # of computing, over all interruptions


@dataclasses.dataclass(frozen=True)
class Erased:
    """What an eraser returns."""

    artefact: Artefact
    record: Record


@dataclasses.dataclass(frozen=True)
class Made:
    """What one method's file computes; `produce` measures it and turns it into an artefact and a record.

    `tensors` are float32 on the CPU. A training method's `curve` and `seconds` span all interruptions.
    """

    layout: Literal["unet-partial", "receler"]
    tensors: dict[str, torch.Tensor]
    filename: str
    prompts: tuple[str, ...]
    preserved: tuple[str, ...] = ()
    curve: tuple[Point, ...] = ()
    seconds: float = 0.0
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # of the official layout's own config file


class Method(Protocol):
    """One method's computation. Raises `EraserError` or `SpecError` for what it cannot do."""

    def __call__(
        self, pipeline: Pipeline, concepts: Sequence[Concept], parameters: Mapping[str, Any], session: Session
    ) -> Made:
        """Erased tensors of `pipeline` without `concepts`; the pipeline itself is left as it was."""


def require_finite(tensors: Mapping[str, torch.Tensor], what: str, next_step: str) -> None:
    """Return when no tensor holds NaN or infinity; raises `EraserError` that names the first one."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise EraserError(f"{what}: {name} holds NaN or infinity", next_step=next_step)
