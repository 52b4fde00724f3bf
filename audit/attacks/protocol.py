"""The search that an attack method is given, and the result that it returns."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from pydantic import JsonValue

from audit.checkpoints.personal import Change
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.sampling import NoiseModel
from audit.progress import Session
from audit.records import Status
from audit.spec.document import Spec
from audit.spec.sections import Concept
from audit.weights.references import ModelRef

log = logging.getLogger(__name__)

ReadItem = Callable[[str], npt.NDArray[np.uint8]]


class AttackModels(Protocol):
    """The models of a worker, as attacks use them. An erased model is named by its erase unit's key, the backbone by None."""

    ref: ModelRef

    @property
    def spec(self) -> Spec | None:
        """The spec of the run, which names the files that it brings."""

    @property
    def pipeline(self) -> Pipeline:
        """The backbone."""

    def reader(self, erase_key: str | None) -> Pipeline:
        """Return the pipeline with the text encoder of one model, which reads prompts for it."""

    def network(self, erase_key: str | None) -> Denoiser:
        """Return the network of one model in float32, frozen; hooks put onto it have to be taken off again."""

    def noise_model(
        self, erase_key: str | None, dtype: str = "float32", texts: Sequence[str] = (), guidance: float = 1.0
    ) -> NoiseModel:
        """Return the noise prediction of one model.

        `texts` are the prompts of the batch; `guidance` is the scale that a distilled network is told.
        """


@dataclasses.dataclass(frozen=True)
class Search:
    """One attack unit at work.

    `items` are what is searched for, one row each; `parameters` are the method's resolved ones. `model` is the erased
    model that a white-box method sees, None the backbone. `read_item` gives the pixels (H, W, 3) of one of the `images`.
    `batch_size` is the most rows of one UNet call, and changes nothing but memory. `session` keeps checkpoints of long
    searches and hears how they go. `companions` are later searches that differ from this one in the concept and its
    images alone, each with a folder for its checkpoints: a method may bring them to their last checkpoint on the way, and
    answers for none of them. `change` reads a personalisation that the spec brings: what it adds to its base.
    """

    items: Sequence[str]
    parameters: Mapping[str, JsonValue]
    concept: Concept
    seed: int
    model: str | None
    images: Sequence[str]
    models: AttackModels
    read_item: ReadItem
    batch_size: int
    session: Session
    companions: Sequence[Search] = ()
    change: Callable[[], Change] | None = None


@dataclasses.dataclass(frozen=True)
class Row:
    """The result for one item. A row that is not ok makes its cases unassessed, with `error` as the reason.

    `prompt` is what was found where it is text; `score` is the method's own objective, after `evaluations` of it.
    `report` is a JSON object of facts; its `summary`, one line, is shown in reports.
    """

    item: str
    status: Status
    error: str | None = None
    prompt: str | None = None
    score: float | None = None
    evaluations: int | None = None
    unet_calls: int | None = None
    report: Mapping[str, object] = dataclasses.field(default_factory=dict)


def failed(item: str, error: Exception) -> Row:
    """Return the row of an item whose search raised `error`: it is unassessed, with the error's first line as the reason."""
    log.warning("the search for %s failed: %s: %s", item, type(error).__name__, error)
    first = (str(error) or "no message").splitlines()[0]
    return Row(item, Status.ERROR, f"{type(error).__name__}: {first}"[:500])


@dataclasses.dataclass(frozen=True)
class Found:
    """All rows of a unit, and a tensor for each item that is not text, or several as `item/name`."""

    rows: Sequence[Row]
    tensors: Mapping[str, torch.Tensor] = dataclasses.field(default_factory=dict)


Run = Callable[[Search], Found]
