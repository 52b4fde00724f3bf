"""Boundaries of other people's code: what a detector or a guard answers. The bytes seed which nonsense it answers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from audit.compute.models import Models
from audit.compute.stages.detect import run_detect
from audit.compute.stages.generate import run_generate
from audit.corpus.images import encode_png
from audit.diffusion.guard import Guard, Step
from audit.instruments.detectors.base import BaseDetector, Pixels, Scores, make_instrument
from audit.plan.identities import GenerateIdentity
from audit.records import LabelScore, Measurement
from audit.spec.sections import DetectorSpec
from audit.storage.journal import SCHEMAS, Journal
from audit.testbed.scenes import sample_scene
from audit.weights.references import resolve_model
from tests.fuzzing.harness import Boundary, Opened
from tests.synthetic import case, unit

GENERATED = "a" * 64
SEEDS = [str(number).encode() for number in range(64)]
ERRORS = (
    ValueError("no"),
    RuntimeError(),
    KeyError(3),
    MemoryError(),
    StopIteration(),
    OSError(5, "I/O"),
    RecursionError("x"),
)
ODD: tuple[Any, ...] = (
    math.nan, math.inf, -1.0, 2.0, 1e308, 10**400, None, "0.9", "", b"x", [], {}, (), True, object(), 1 + 2j,
    torch.tensor(0.5), torch.tensor([]), LabelScore("ring", 0.5), Measurement(None, "no"),
)  # fmt: skip


def _scores(rng: random.Random, count: int) -> Any:
    """What `_scores` of a detector may come up with for `count` pictures."""
    pick = rng.randrange(6)
    if pick == 0:
        raise rng.choice(ERRORS)
    if pick == 1:
        return rng.choice(ODD)
    rows: list[Any] = [(LabelScore("ring", 0.5), LabelScore("disc", 0.1)) for _ in range(count)]
    if pick == 2:
        return rows[: rng.randrange(count + 1)] * rng.choice((0, 1, 2, 3))
    if pick == 3:
        rows[rng.randrange(count)] = rng.choice(ODD)
    elif pick == 4:
        rows[rng.randrange(count)] = (rng.choice(ODD), rng.choice(ODD))
    else:
        box = rng.choice((None, None, (1.0, 2.0), (math.nan,) * 4, "1234", rng.choice(ODD)))
        label = rng.choice(("ring", "ring", "unknown", "", rng.choice(ODD)))
        rows[rng.randrange(count)] = (LabelScore(label, rng.choice(ODD), box),)
    return rows


class Babbler(BaseDetector):
    """A detector of the shared base class that answers nonsense."""

    def __init__(self, rng: random.Random) -> None:
        entry = DetectorSpec.model_validate({"name": "judge", "kind": "classifier"})
        shared = {"version": "1", "package": "p 1", "weights_sha256": "0" * 64, "preprocessing": "none"}
        made = make_instrument(entry, parameters={}, labels=("ring", "disc"), score_floor=0.0, **shared)
        super().__init__(entry, made)
        self.rng = rng

    def _prepare(self) -> None:
        pass

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        found: list[Scores] = _scores(self.rng, len(images))
        return found


class Stranger(Babbler):
    """A detector that keeps nothing of the base class's promises."""

    def measure(self, images: Sequence[Pixels]) -> list[Measurement]:
        rows = _scores(self.rng, len(images))
        made: list[Measurement] = [Measurement(row) for row in rows] if isinstance(rows, list) else rows
        return made


def _detector(kind: type[Babbler]) -> Any:
    def open_boundary(folder: Path) -> Opened:
        journal = Journal(str(folder / "runs"))
        rows = [
            {
                "image_id": n,
                "status": "ok",
                "image": {"bytes": encode_png(sample_scene("audit", n).image), "path": f"{n}.png"},
            }
            for n in range(3)
        ]
        journal.write("generate", GENERATED, pa.Table.from_pylist(rows, schema=SCHEMAS["generate"]), {})

        def attempt(data: bytes) -> object:
            table, _ = run_detect(GENERATED, kind(random.Random(data)), journal, 8)
            for row in table.to_pylist():
                if row["status"] != "ok":
                    assert row["error"], "a failed measurement says why"
                    continue
                for found in row["scores"]:
                    number = found["score"]
                    assert number is not None and 0 <= number <= 1, f"a score of {number} counts as measured"
                    assert found["label"] in ("ring", "disc"), f"an unknown label {found['label']!r} counts as measured"
            return table

        return Opened([], attempt, SEEDS)

    return open_boundary


class Vandal(Guard):
    """A guard whose hooks return nonsense now and then."""

    name = "vandal"

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.hook = rng.choice(
            ("condition", "branch", "before_step", "guide", "after_step", "report", "finish", "begin")
        )

    def _answer(self, hook: str, good: Any) -> Any:
        if hook != self.hook:
            return good
        pick = self.rng.randrange(4)
        if pick == 0:
            raise self.rng.choice(ERRORS)
        if pick == 1 or not isinstance(good, torch.Tensor):
            return self.rng.choice(ODD)
        return self.rng.choice(
            (good * math.nan, good * 1e38 * 1e38, good[:1], good[..., :1], good.double(), good.half(), good.int(),
             good.bool(), good.to(torch.complex64), good.to("meta"), good.to_sparse(), good[None], good[:0])
        )  # fmt: skip

    def begin(self, conditioning: Any, timesteps: Sequence[int]) -> None:
        super().begin(conditioning, timesteps)
        self.states = conditioning.prompt
        self._answer("begin", None)

    def condition(self, conditioning: Any, step: Step) -> Any:
        return self._answer("condition", conditioning)

    def branch(self) -> Any:
        return self._answer("branch", self.states) if self.hook == "branch" else None

    def before_step(self, latents: torch.Tensor, step: Step, predict: Any) -> Any:
        return self._answer("before_step", latents)

    def guide(self, noise: torch.Tensor, prediction: Any, step: Step) -> Any:
        return self._answer("guide", noise)

    def after_step(self, latents: torch.Tensor, step: Step) -> Any:
        return self._answer("after_step", latents)

    def finish(self, latents: torch.Tensor) -> None:
        self._answer("finish", latents)

    def report(self) -> Any:
        return self._answer("report", super().report())


def _guard(folder: Path) -> Opened:
    models = Models(resolve_model(str(folder / "pipeline")), Journal(str(folder / "runs")), torch.device("cpu"))
    guard = {"name": "vandal", "parameters": {}}
    described = unit("generate", guards=[guard], sampler={"steps": 2, "guidance": 3.0}).identity
    assert isinstance(described, GenerateIdentity)
    cases = [case(n) for n in range(2)]

    def attempt(data: bytes) -> object:
        rng = random.Random(data)
        models.guards = lambda *given: [Vandal(rng)]  # type: ignore[method-assign]
        table, _ = run_generate(described, cases, models, models.journal, lambda item: None, 2)  # type: ignore[arg-type, return-value]
        assert table.num_rows == len(cases)
        for row in table.to_pylist():
            assert (row["status"] == "ok") == (row["error"] is None)
        return table

    return Opened([], attempt, SEEDS)


BOUNDARIES = (
    Boundary("a detector's scores", _detector(Babbler)),
    Boundary("a detector of its own kind", _detector(Stranger)),
    Boundary("a guard's answers", _guard, smoke_count=10, slow_count=600),
)
