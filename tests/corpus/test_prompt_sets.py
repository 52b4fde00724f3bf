"""Prompt sets: what is read under which names, what a bad row costs, and that the plan holds all of it."""

from __future__ import annotations

import copy
import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from audit.corpus.prompts import SHIPPED, PromptSet, read_prompt_set
from audit.errors import SpecError
from audit.index.store import latest
from audit.plan.document import Plan, read_plan
from audit.spec.document import parse_spec
from audit.spec.prompts import PromptSource
from audit.storage.journal import Journal
from audit.testbed.captions import CLASSES, WORDS
from audit.weights.references import ModelRef, resolve_model
from tests.flows.audits import finish_run, tiny_spec
from tests.plan.resolved import resolved_of, stated_plan
from tests.plan.test_planner import INSTRUMENT, SPEC

HEADERS = {
    "i2p": ("prompt", "sd_seed", "sd_guidance_scale", "sd_image_width", "sd_image_height"),
    "esd": ("", "prompt", "evaluation_seed", "evaluation_guidance", "case_number"),
    "attack": ("Sensitive Prompt", "seed", "guidance"),
}


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    return path


def read(path: Path, **more: Any) -> PromptSet:
    return read_prompt_set(PromptSource(file=str(path), **more))


@pytest.fixture(scope="module")
def backbone(tiny_folder: Path) -> ModelRef:
    return resolve_model(str(tiny_folder))


def plan_with(backbone: ModelRef, prompts: dict[str, Any], cases: int, **changes: Any) -> Plan:
    document = copy.deepcopy(SPEC)
    document["scenarios"] = [
        {"name": "text", "cases": cases, "prompts": prompts, "sampler": {"steps": 10, "guidance": 5.0}}
    ]
    document["controls"] = {"cases": 2}
    spec = parse_spec({**document, **changes}, "test")
    return stated_plan(resolved_of(spec, backbone, instrument=INSTRUMENT), check_rows=True)


def target_rows(plan: Plan, defence: str = "uce") -> list[dict[str, Any]]:
    (cell,) = (p.cell for p in plan.cells if p.cell.subject == "ring" and p.cell.defence == defence
               and p.cell.scenario == "text")  # fmt: skip
    return [row for row in plan.cases.to_pylist() if row["cell_id"] == cell.cell_id]


def test_published_spellings_of_the_columns_parse_to_the_same_rows(tmp_path: Path) -> None:
    i2p = write_csv(tmp_path / "i2p.csv", HEADERS["i2p"], [("a ring", 7, 7.5, 512, 512), ("a hoop", 8, 9, 512, 768)])
    esd = write_csv(tmp_path / "esd.csv", HEADERS["esd"], [(5, "a ring", 7, "7.5", 10), (6, "a hoop", "8.0", 9, 11)])
    attack = write_csv(tmp_path / "attack.csv", HEADERS["attack"], [("a ring", 7, 7.5), ("a hoop", 8, 9.0)])
    frame = {"prompt": ["a ring", "a hoop"], "sd_seed": [7.0, 8.0], "sd_guidance_scale": [7.5, 9.0]}
    pq.write_table(pa.table(frame), tmp_path / "i2p.parquet")
    sets = [read(path) for path in (i2p, esd, attack, tmp_path / "i2p.parquet")]
    assert [[(r.prompt, r.seed, r.guidance, r.problem) for r in s.rows] for s in sets] == [
        [("a ring", 7, 7.5, None), ("a hoop", 8, 9.0, None)]
    ] * 4
    assert [s.join_key for s in sets] == ["row", "case_number", "row", "row"]
    assert [r.key for r in sets[1].rows] == ["10", "11"]
    assert [r.size for r in sets[0].rows] == [(512, 512), (512, 768)]


def test_a_set_in_utf_16_is_read_and_an_unread_column_leaves_the_sampler_its_guidance(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_bytes("prompt,seed,guidance\nein Ring für dich,3,9\n".encode("utf-16"))
    (row,) = read(path, columns={"guidance": None}).rows
    assert (row.prompt, row.seed, row.guidance, row.problem) == ("ein Ring für dich", 3, None, None)


BAD_ROWS: dict[str, tuple[tuple[Any, ...], str]] = {
    "empty prompt": (("1", " ", 1, 5), "its prompt is empty"),
    "NaN prompt": (("1", "nan", 1, 5), "its prompt is empty"),
    "control characters": (("1", "a \x07 ring", 1, 5), "control characters"),
    "too long": (("1", "ring " * 40, 1, 5), r"its prompt has \d+ tokens, and the backbone's text encoder reads 16"),
    "no seed": (("1", "ring", "", 5), "its seed is empty"),
    "text as seed": (("1", "ring", "seven", 5), "its seed 'seven' is not a number"),
    "half a seed": (("1", "ring", "1.5", 5), "not a whole number"),
    "negative seed": (("1", "ring", -1, 5), r"its seed '-1' is not in 0\.\."),
    "a seed too large": (("1", "ring", 2**64, 5), r"is not in 0\.\."),
    "a float that lost its digits": (("1", "ring", "1.0e17", 5), "not a whole number"),
    "NaN seed": (("1", "ring", "nan", 5), "not a finite number"),
    "NaN guidance": (("1", "ring", 1, "nan"), "its guidance 'nan' is not a finite number"),
    "infinite guidance": (("1", "ring", 1, "inf"), "not a finite number"),
    "guidance out of range": (("1", "ring", 1, 0), r"its guidance '0' is not in 1\.\.30"),
    "no key": (("", "ring", 1, 5), "its key is empty"),
    "a key given twice": (("0", "hoop", 1, 5), "its key '0' stands in row 0 already"),
    "the same picture twice": (("1", "ring", 0, 5), "are those of row 0"),
    "too few fields": (("1", "ring"), "it has 2 fields and the header 4"),
    "too many fields": (("1", "ring", 1, 5, 6), "it has 5 fields and the header 4"),
}
HEADER = ("case_number", "prompt", "evaluation_seed", "evaluation_guidance")
GOOD = [("0", "ring", 0, 5), ("9", "ring", 9, 5)]


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_a_bad_row_stays_planned_with_its_reason_and_costs_no_other(
    row: tuple[Any, ...], problem: str, tmp_path: Path, backbone: ModelRef
) -> None:
    path = write_csv(tmp_path / "set.csv", HEADER, [GOOD[0], row, GOOD[1]])
    plan = plan_with(backbone, {"file": str(path)}, 3)
    rows = target_rows(plan)
    assert [r["problem"] is None for r in rows] == [True, False, True]
    assert re.search(problem, rows[1]["problem"]), rows[1]["problem"]
    assert rows[1]["problem"].startswith("row 1: ")
    (unusable,) = plan.prompt_sets["text"]["unusable"]
    assert unusable["row"] == 1 and unusable["problem"] == rows[1]["problem"]
    assert len({r["image_id"] for r in rows}) == 3


def test_bytes_that_are_no_text_cost_their_row_only(tmp_path: Path, backbone: ModelRef) -> None:
    path = tmp_path / "latin.csv"
    path.write_bytes(b"case_number,prompt,seed\n0,ring,0\n1,r\xfcng,1\n2,ring,2\n")
    rows = target_rows(plan_with(backbone, {"file": str(path)}, 3))
    assert [r["problem"] for r in rows] == [None, "row 1: its prompt is not UTF-8 text", None]


def test_nulls_and_wrong_types_in_parquet_cost_their_rows_only(tmp_path: Path) -> None:
    frame = {"prompt": ["ring", None, "hoop"], "seed": [1.0, 2.0, None]}
    pq.write_table(pa.table(frame), tmp_path / "set.parquet")
    assert [r.problem for r in read(tmp_path / "set.parquet").rows] == [
        None, "row 1: its prompt is empty", "row 2: its seed is empty",
    ]  # fmt: skip
    pq.write_table(pa.table({"prompt": [1, 2]}), tmp_path / "numbers.parquet")
    assert [r.problem for r in read(tmp_path / "numbers.parquet").rows] == [
        f"row {i}: its prompt is a number, not text" for i in (0, 1)
    ]


def test_forbidden_pairings_are_never_sampled_and_not_even_kept(tmp_path: Path, backbone: ModelRef) -> None:
    path = write_csv(tmp_path / "set.csv", ("prompt", "seed"), [("ring", 0), ("a nude child", 1), ("nude statue", 2)])
    plan = plan_with(backbone, {"file": str(path)}, 3)
    rows = target_rows(plan)
    assert [r["prompt"] for r in rows] == ["ring", None, "nude statue"]
    assert "minors" in rows[1]["problem"]
    assert "nude child" not in json.dumps(plan.document())
    assert all(p.sensitive for p in plan.cells if p.cell.scenario == "text" and p.cell.subject == "ring")


def test_seed_and_guidance_of_a_row_are_in_the_plan_and_in_the_identity(tmp_path: Path, backbone: ModelRef) -> None:
    rows = [(i, "ring", 100 + i, guidance) for i, guidance in enumerate((5, 7.5, 1, 7.5, 5))]
    path = write_csv(tmp_path / "set.csv", HEADER, rows)
    plan = plan_with(backbone, {"file": str(path)}, 5)
    cases = target_rows(plan)
    assert [(c["prompt_key"], c["seed"], c["guidance"]) for c in cases] == [
        ("0", 100, 5.0), ("1", 101, 7.5), ("2", 102, 1.0), ("3", 103, 7.5), ("4", 104, 5.0),
    ]  # fmt: skip
    units = {unit.key: unit for unit in plan.units_of("generate")}
    for case in cases:
        unit = units[case["unit_key"]]
        assert unit.identity.sampler.guidance == case["guidance"]
        assert case["image_id"] in unit.identity.images
    assert plan.prompt_sets["text"]["join_key"] == "case_number"
    for row, value in ((1, "8"), (2, "hoop")):
        changed = [list(r) for r in rows]
        changed[4][3 if row == 1 else 1] = value
        other = target_rows(plan_with(backbone, {"file": str(write_csv(path, HEADER, changed))}, 5))  # type: ignore[arg-type]
        assert [a["image_id"] == b["image_id"] for a, b in zip(cases, other, strict=True)] == [True] * 4 + [False]


def test_a_rows_own_size_is_sampled_where_the_models_can(tmp_path: Path, backbone: ModelRef) -> None:
    header = ("prompt", "sd_seed", "sd_image_width", "sd_image_height")
    sizes = [(16, 16), (32, 32), (32, 16), (24, 18), (64, 64)]
    path = write_csv(tmp_path / "set.csv", header, [("ring", i, *size) for i, size in enumerate(sizes)])
    plan = plan_with(backbone, {"file": str(path)}, 5)
    rows = target_rows(plan)
    units = {unit.key: unit.identity.sampler for unit in plan.units_of("generate")}
    own = [(units[r["unit_key"]].width, units[r["unit_key"]].height) for r in rows[:3]]
    assert own == [(None, None), (32, 32), (32, 16)]
    assert [r["problem"] for r in rows[:3]] == [None] * 3
    assert "multiples of 4" in rows[3]["problem"] and "more than twice" in rows[4]["problem"]
    guarded = [{"name": "uce", "eraser": {"method": "uce"}, "guards": [{"name": "negative-prompt"}]}]
    rows = target_rows(plan_with(backbone, {"file": str(path)}, 5, defences=guarded))
    assert [r["problem"] is None for r in rows] == [True, True, False, False, False]


def test_a_filter_keeps_rows_that_cannot_be_read(tmp_path: Path) -> None:
    rows = [("ring", "violence, hate"), ("hoop", "hate"), ("torn",), ("star", "Violence")]
    path = write_csv(tmp_path / "set.csv", ("prompt", "categories"), rows)
    found = read(path, where={"categories": "violence"}).rows
    assert [(r.number, r.prompt) for r in found] == [(0, "ring"), (2, None), (3, "star")]


REFUSED: dict[str, tuple[bytes | None, dict[str, Any], str]] = {
    "absent": (None, {}, "cannot be read: No such file"),
    "no prompt column": (b"text,seed\nring,1\n", {}, "no prompt column; it has 'text', 'seed'"),
    "two prompt columns": (b"prompt,adv_prompt\na,b\n", {}, "several columns of prompts"),
    "a column twice": (b"prompt,prompt\na,b\n", {}, "the column 'prompt' twice"),
    "a column that is not there": (b"prompt\na\n", {"columns": {"seed": "s"}}, "no column 's'"),
    "a filter that is not there": (b"prompt\na\n", {"where": {"kind": "x"}}, "no column 'kind' to filter by"),
    "a filter that nothing passes": (b"prompt,kind\na,b\n", {"where": {"kind": "x"}}, "no row .* passes"),
    "no rows": (b"prompt\n", {}, "has no rows"),
    "empty": (b"", {}, "no prompt column"),
    "binary": (bytes(range(128, 256)) * 9, {}, "its header is not UTF-8|no prompt column"),
}


@pytest.mark.parametrize(("data", "more", "message"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_cannot_be_used_is_one_clear_error(
    data: bytes | None, more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "set.csv"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(SpecError, match=message) as raised:
        read(path, **more)
    assert raised.value.where == str(path) and raised.value.next_step


def test_a_damaged_parquet_file_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "set.parquet").write_bytes(b"PAR1" + bytes(40))
    with pytest.raises(SpecError, match="cannot be read"):
        read(tmp_path / "set.parquet")


def test_more_cases_than_rows_are_refused(tmp_path: Path, backbone: ModelRef) -> None:
    path = write_csv(tmp_path / "set.csv", ("prompt", "concept"), [("ring", "ring"), ("star", "star")])
    with pytest.raises(SpecError, match=r"asks for 3 cases of 'ring' and the prompt set set\.csv has 1 rows"):
        plan_with(backbone, {"file": str(path)}, 3)


def test_fewer_cases_than_rows_are_drawn_alike_for_every_defence(backbone: ModelRef) -> None:
    plan = plan_with(backbone, {"set": "testbed-simple"}, 6)
    keys = [[row["prompt_key"] for row in target_rows(plan, defence)] for defence in ("none", "uce")]
    assert keys[0] == keys[1] and len(set(keys[0])) == 6
    assert keys[0] != [str(i) for i in range(400, 406)]  # not the first of the ring's rows
    assert {row["prompt"].split()[-1] for row in target_rows(plan)} == {"ring"}


def test_neighbours_have_the_sets_own_prompts_or_the_templates(tmp_path: Path, backbone: ModelRef) -> None:
    def neighbours(plan: Plan) -> set[str]:
        cells = {p.cell.cell_id for p in plan.cells if p.cell.subject == "circle"}
        return {row["prompt"] for row in plan.cases.to_pylist() if row["cell_id"] in cells}

    rows = [("a hoop", "ring", 1), *[("a disc", "circle", i) for i in range(3)]]
    path = write_csv(tmp_path / "set.csv", ("prompt", "concept", "seed"), rows)
    assert neighbours(plan_with(backbone, {"file": str(path)}, 1)) == {"a disc"}
    path = write_csv(tmp_path / "other.csv", ("prompt", "concept", "seed"), rows[:1])
    assert neighbours(plan_with(backbone, {"file": str(path)}, 1)) == {"a photo of a circle"}


def test_a_run_samples_what_it_can_and_counts_the_rest_as_unassessed(tmp_path: Path, tiny_folder: Path) -> None:
    header = (*HEADER, "width", "height")
    rows = [(0, "ring", 0, 3, 16, 16), (1, "", 1, 3, 16, 16), (2, "hoop", 2, 1, 32, 16), (3, "ring", 3, 3, 9, 16)]
    path = write_csv(tmp_path / "set.csv", header, rows)  # type: ignore[arg-type]
    scenario = {"name": "text", "cases": 4, "prompts": {"file": str(path)}, "sampler": {"steps": 2}}
    run_id = finish_run(tiny_spec(tmp_path, tiny_folder, scenarios=[scenario]), tmp_path / "runs")
    journal = Journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    made = {r["image_id"]: r for u in plan.units_of("generate") for r in journal.read("generate", u.key).to_pylist()}
    found = [made[row["image_id"]] for row in target_rows(plan)]
    assert [row["status"] for row in found] == ["ok", "unreadable", "ok", "unreadable"]
    assert found[1]["error"] == "row 1: its prompt is empty" and "9 x 16 pixels" in found[3]["error"]
    assert Image.open(io.BytesIO(found[2]["image"]["bytes"])).size == (32, 16)
    assert found[0]["unet_calls"] == 4 and found[2]["unet_calls"] == 2  # guidance 3 and 1
    published = latest(tmp_path / "runs" / "db" / "published")
    assert published is not None
    with duckdb.connect(str(published), read_only=True) as con:
        cases = con.execute("select prompt_key, guidance, problem is null from cases where prompt_key is not null")
        assert sorted(cases.fetchall())[::2] == [
            ("0", 3.0, True), ("1", 3.0, False), ("2", 1.0, True), ("3", 3.0, False),
        ]  # fmt: skip
        assert con.execute(
            "select planned, assessed from mart_crr where defence = 'uce' and scenario = 'text'"
        ).fetchall() == [(4, 2)]


def test_a_stored_plan_keeps_the_sets_facts(tmp_path: Path, backbone: ModelRef) -> None:
    path = write_csv(tmp_path / "set.csv", HEADER, GOOD)
    plan = plan_with(backbone, {"file": str(path)}, 2)
    plan.write(Journal(str(tmp_path / "runs")))
    path.unlink()  # a worker needs the plan only
    again = read_plan(Journal(str(tmp_path / "runs")), "run")
    assert again.prompt_sets == plan.prompt_sets and again.cases.equals(plan.cases)
    assert len(plan.prompt_sets["text"]["sha256"]) == 64


BENIGN = sorted(SHIPPED.glob("*-benign.csv"))


@pytest.mark.parametrize("path", BENIGN, ids=lambda path: path.stem)
def test_benign_sets_show_every_subject_before_any_comes_again(path: Path) -> None:
    found = read_prompt_set(PromptSource.model_validate({"set": path.stem}))
    assert [row.problem for row in found.rows] == [None] * len(found.rows)
    subjects = [str(row.concept) for row in found.rows]
    different = list(dict.fromkeys(subjects))
    assert subjects == different * (len(subjects) // len(different))
    assert all(str(row.concept) in str(row.prompt) for row in found.rows)
    assert len({row.seed for row in found.rows}) == len({row.prompt for row in found.rows}) == len(found.rows)
    if path.stem.startswith("testbed"):
        assert set(subjects) == set(CLASSES)
        assert {word for row in found.rows for word in str(row.prompt).split()} <= set(WORDS)


@pytest.mark.parametrize("path", sorted(set(SHIPPED.glob("*.csv")) - set(BENIGN)), ids=lambda path: path.stem)
def test_shipped_sets_are_whole(path: Path) -> None:
    found = read_prompt_set(PromptSource.model_validate({"set": path.stem}))
    assert [row.problem for row in found.rows] == [None] * len(found.rows)
    assert (found.join_key, found.columns["concept"]) == ("case_number", "concept")
    kind = path.stem.rpartition("-")[2]
    counts = Counter(row.concept for row in found.rows)
    assert set(counts.values()) == {100 if kind == "simple" else 50} and len(counts) == 10
    for row in found.rows:
        named = str(row.concept) in str(row.prompt).lower().replace(",", "").split()
        assert named is (kind == "simple"), row
    if path.stem.startswith("testbed"):
        assert set(counts) == set(CLASSES)
        assert {word for row in found.rows for word in str(row.prompt).split()} <= set(WORDS)
