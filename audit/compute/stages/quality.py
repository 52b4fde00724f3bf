"""Measure the pictures of one generate unit against their baselines with one quality instrument."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.numpy

from audit.compute.stages.batching import Made, Picture, Row, run_batches
from audit.corpus.images import ImageError, Mask, decode_stored, to_model_input
from audit.corpus.regions import white
from audit.errors import CorpusError
from audit.instruments.detectors.base import Pixels
from audit.instruments.quality import Meter, Reading, Task
from audit.plan.identities import QualityIdentity
from audit.records import Baseline, Case, Status
from audit.storage.errors import SourceUnavailable
from audit.storage.journal import SCHEMAS, Journal

VECTOR = "vector"  # the metric of a feature vector, which is a tensor of the unit and no number
Vectors = dict[str, npt.NDArray[np.float32]]


def vector_name(image: int, baseline: str) -> str:
    """Return the name of a feature vector among its unit's tensors."""
    return f"{image}/{baseline}"


@dataclasses.dataclass(frozen=True)
class _Pair:
    """A picture of the unit, and what it is measured against."""

    image: int
    baseline: str
    other: int | None
    case: Case


def run_quality(
    measured: QualityIdentity,
    meter: Meter,
    journal: Journal,
    cases: Sequence[Case],
    read_item: Callable[[str], Pixels],
    batch_size: int,
) -> Made:
    """Return one row per planned pair, in plan order, and the feature vectors (D,) as safetensors bytes, if there are any.

    A pair whose picture or baseline was not made carries that status: 'error' where a retry may still make it, so that
    resume measures it then.
    """
    by_image = {case.image_id: case for case in cases}
    pairs = [_Pair(image, baseline, other, by_image[image]) for image, baseline, other in measured.pairs]
    maker = _Maker(measured, meter, journal, read_item)
    rows: dict[int, Row] = {}
    ready: list[tuple[int, _Pair]] = []
    for number, pair in enumerate(pairs):
        problem = maker.problem(pair)
        if problem is None:
            ready.append((number, pair))
        else:
            rows[number] = problem
    done = run_batches(ready, batch_size, maker, lambda one, error: maker.row(one[1], Status.ERROR, error))
    rows.update({number: row for (number, _), row in zip(ready, done, strict=True)})
    table = pa.Table.from_pylist([rows[number] for number in range(len(pairs))], schema=SCHEMAS["quality"])
    return table, safetensors.numpy.save(maker.vectors) if measured.instrument.kind == "features" else None


class _Maker:
    """Reads one batch of pairs and keeps the vectors by name."""

    def __init__(
        self, measured: QualityIdentity, meter: Meter, journal: Journal, read_item: Callable[[str], Pixels]
    ) -> None:
        self._meter, self._read_item, self._regions = meter, read_item, measured.regions
        self._pictures: dict[int, Picture] = {}
        for key in (measured.generate, *measured.baselines):
            table = journal.read("generate", key, ["image_id", "status", "error", "image"])
            self._pictures.update({row["image_id"]: row for row in table.to_pylist()})
        self.vectors: Vectors = {}

    def problem(self, pair: _Pair) -> Row | None:
        """Return the row of a pair that cannot be measured because a picture is missing; None when it can."""
        for image, whose in ((pair.image, "the picture"), (pair.other, "the baseline's picture")):
            if image is None:
                continue
            picture = self._pictures.get(image)
            if picture is None:
                return self.row(pair, Status.ERROR, f"{whose} is not in its unit")
            if picture["status"] != Status.OK.value:
                return self.row(pair, Status(picture["status"]), f"{whose} was not made: {picture['error']}")
        return None

    def row(self, pair: _Pair, status: Status, error: str | None, value: float | None = None) -> Row:
        """Return the pair's row in the journal."""
        instrument = self._meter.instrument
        return {
            "image_id": pair.image,
            "status": status.value,
            "error": error,
            "baseline": pair.baseline,
            "baseline_image_id": pair.other,
            "metric": VECTOR if instrument.kind == "features" else instrument.kind,
            "value": value,
            "instrument_id": instrument.instrument_id,
        }

    def __call__(self, batch: Sequence[tuple[int, _Pair]]) -> list[Row]:
        pairs = [pair for _, pair in batch]
        rows: list[Row | None] = [None] * len(pairs)
        tasks: dict[int, Task] = {}
        for place, pair in enumerate(pairs):
            try:
                tasks[place] = self._task(pair)
            except SourceUnavailable:
                raise
            except ImageError as error:
                rows[place] = self.row(pair, Status.UNREADABLE, f"the reference image: {error.what}")
            except CorpusError as error:
                rows[place] = self.row(pair, Status.ERROR, f"the reference image: {error.what}")
        for place, reading in zip(tasks, self._meter.read(list(tasks.values())) if tasks else (), strict=True):
            rows[place] = self._finished(pairs[place], reading)
        return [row for row in rows if row is not None]

    def _task(self, pair: _Pair) -> Task:
        picture = self._pixels(pair.image)
        task = self._compared(pair, picture)
        if pair.image in self._regions:
            task = dataclasses.replace(task, region=self._outside(self._regions[pair.image], picture.shape[0]))
        return task

    def _outside(self, mask: str, side: int) -> Mask:
        """Return the pixels outside the concept's region, which is scaled as its picture was."""
        outside: Mask = ~white(self._reference(mask, side))
        return outside

    def _compared(self, pair: _Pair, picture: Pixels) -> Task:
        if pair.baseline == Baseline.PROMPT:
            return Task(picture, prompt=pair.case.prompt)
        if pair.baseline == Baseline.REFERENCE:
            reference = self._reference(pair.case.item or "", picture.shape[0])
            return Task(reference) if self._meter.instrument.kind == "features" else Task(picture, reference)
        return Task(picture, self._pixels(pair.other) if pair.other is not None else None)

    def _pixels(self, image: int) -> Pixels:
        return decode_stored(self._pictures[image]["image"]["bytes"])

    def _reference(self, item: str, side: int) -> Pixels:
        """Return the corpus image as the model sees it, so that a resize is no loss of quality."""
        scaled = to_model_input(self._read_item(item), side)
        return ((scaled / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)

    def _finished(self, pair: _Pair, reading: Reading) -> Row:
        if reading.error is not None:
            return self.row(pair, Status.UNREADABLE, reading.error)
        if reading.vector is not None:
            if not np.isfinite(reading.vector).all():
                return self.row(pair, Status.DEGENERATE, "the feature vector is not finite")
            self.vectors[vector_name(pair.image, pair.baseline)] = np.ascontiguousarray(reading.vector)
            return self.row(pair, Status.OK, None)
        if reading.value is None or math.isnan(reading.value):
            return self.row(pair, Status.DEGENERATE, "the value is not a number")
        return self.row(pair, Status.OK, None, reading.value)
