"""The stage that rules on cases: one row a case, and what a filter cannot do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from audit.compute.stages.filter import Filtering, run_filter
from audit.corpus.images import encode_png
from audit.diffusion.placeholder_tokens import Vocabulary
from audit.filters.protocol import Filter, PictureFilter, Pixels, PromptFilter, Ruling
from audit.plan.identities import FilterIdentity
from audit.records import ResolvedGuard
from audit.storage.journal import SCHEMAS, Journal
from tests.synthetic import Run, case, generate_row, key_of

GENERATE = key_of("generate")


class Prompts(PromptFilter):
    name, version = "prompts", "1"

    def __init__(self, block: Callable[[str], bool]) -> None:
        self._block = block

    def rule(self, prompts: Sequence[str]) -> list[Ruling]:
        return [Ruling(self._block(prompt), {"length": len(prompt)}) for prompt in prompts]


class Brightness(PictureFilter):
    """Blocks bright pictures, and breaks on a black one."""

    name, version = "brightness", "1"

    def rule(self, pictures: Sequence[Pixels]) -> list[Ruling]:
        means = [float(picture.mean()) for picture in pictures]
        if 0.0 in means:
            raise OSError("nothing to see")
        return [Ruling(mean > 100, {"mean": mean}) for mean in means]


def ruled(folder: Path, filter: Filter, cases: Sequence[Any], pictures: Sequence[dict[str, Any]] = ()) -> list[Any]:
    journal = Journal(str(folder))
    if pictures:
        rows = pa.Table.from_pylist(list(pictures), SCHEMAS["generate"])
        journal.write("generate", GENERATE, rows, {})
    identity = FilterIdentity(GENERATE, ResolvedGuard(filter.name, {}), "c" * 64)
    table, blob = run_filter(Filtering(identity, filter, 7, cases), journal, Vocabulary(), 4, 0)
    assert blob is None and table.schema == SCHEMAS["filter"]
    return table.to_pylist()


def picture(image: int, level: int, **fields: Any) -> dict[str, Any]:
    png = encode_png(np.full((8, 8, 3), level, np.uint8))
    row = generate_row({"image_id": image, "invert_key": None, "item": None})
    return {**row, "image": {"bytes": png, "path": None}, **fields}


def test_a_filter_of_prompts_reads_no_picture(tmp_path: Path) -> None:
    cases = [case(1), case(2, prompt="star"), case(3, prompt=None), case(4, problem="too long")]
    rows = ruled(tmp_path, Prompts(lambda prompt: "ring" in prompt), cases)  # no picture is journalled at all
    assert [(row["status"], row["blocked"], row["error"]) for row in rows] == [
        ("ok", True, None),
        ("ok", False, None),
        ("ok", False, None),
        ("unreadable", None, "too long"),
    ]
    assert {row["filter_id"] for row in rows} == {7}
    assert (
        rows[0]["report"]
        == '{"blocked": true, "facts": {}, "filter": "prompts", "measures": {"length": 4}, "version": "1"}'
    )


def test_a_picture_on_which_a_filter_breaks_is_neither_blocked_nor_let_pass(tmp_path: Path) -> None:
    pictures = [
        picture(1, 200),
        picture(2, 0),
        picture(3, 50),
        {**picture(4, 0), "status": "degenerate", "error": "black", "image": None},
        {**picture(5, 0), "status": "error", "error": "boom", "image": None},
    ]
    rows = ruled(tmp_path, Brightness(), [case(n) for n in range(1, 6)], pictures)
    assert [(row["image_id"], row["status"], row["blocked"]) for row in rows] == [
        (1, "ok", True),
        (2, "error", None),
        (3, "ok", False),
        (4, "degenerate", None),
        (5, "error", None),
    ]
    assert rows[1]["error"] == "filter brightness: OSError: nothing to see"
    assert rows[3]["error"] == "black"


@pytest.mark.parametrize(
    "ruling",
    [True, None, Ruling(None), Ruling(True, {"cosine": float("nan")})],
    ids=["bool", "none", "empty", "nan"],  # type: ignore[arg-type]
)
def test_what_is_no_ruling_rules_nothing(tmp_path: Path, ruling: Any) -> None:
    class Wrong(PromptFilter):
        name, version = "wrong", "1"

        def rule(self, prompts: Sequence[str]) -> list[Ruling]:
            return [ruling] * len(prompts)

    (row,) = ruled(tmp_path, Wrong(), [case(1)])
    assert (row["status"], row["blocked"]) == ("error", None)


def test_a_failed_filter_unit_is_tried_again() -> None:
    """A row with status `error` makes a unit a failed one, as in every stage."""
    run = Run()
    assert "filter" not in {unit["kind"] for unit in run.units.values()}
    assert SCHEMAS["filter"].field("status").nullable is False
