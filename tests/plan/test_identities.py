"""The stored form of unit identities: byte for byte what their keys were made of, and nothing else is read."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from audit import identity
from audit.errors import JournalError
from audit.files import ForeignError
from audit.plan.document import KINDS, read_plan
from audit.plan.identities import as_json, from_json
from audit.plan.stored_tables import StoredTable, TableWriter
from audit.plan.tables import CASES_SCHEMA, UNIT_COLUMNS, UNITS_SCHEMA
from audit.records import Attempt, Case
from audit.run import open_journal
from tests.flows.audits import plan_run, tiny_spec
from tests.test_identity import plan_of

# Identities as they stand in plans, of each form.
STORED = (
    '{"backbone":"a0","code":"c","concept":{"name":"ring","neighbours":["square","moon"],"phrase":"ring","synonyms":["hoop"]},'
    '"kind":"erase","method":"uce","parameters":{"erase_scale":4.0,"guide":null,"preserve_neighbours":true,"stored":"float32",'
    '"templates":["a photo of a {phrase}","a {phrase}"],"tokens":2}}',
    '{"backbone":"a0","checkpoint":"absent-e5","claim":"uce","code":"c","kind":"erase"}',
    '{"backbone":"a0","code":"c","concept":{"name":"ring","neighbour_phrases":{"disc":"a disc"},"neighbours":["disc"],'
    '"phrase":"ring","synonyms":[]},"images":["i"],"items":["best","lr-0.1"],"kind":"attack","method":"textual-inversion",'
    '"model":"e","parameters":{"learning_rates":[0.1],"iterations":5},"seed":0,"version":"1"}',
    '{"backbone":"a0","code":"c","items":["i"],"kind":"invert","method":"fixed-point","model":null,"passes":10,'
    '"perturbation":{"kind":"image-noise","strength":4.0},"prompt":"","steps":20,"tolerance":0.0001}',
    '{"backbone":"a0","code":"c","items":["i"],"kind":"invert","method":"o-belm","model":"e","passes":null,'
    '"perturbation":null,"prompt":"a ring","steps":20,"tolerance":null}',
    '{"backbone":"a0","code":"c","guards":[],"images":[1],"kind":"generate","model":null,"sampler":null,"source":"noise-pixels"}',
    '{"backbone":"a0","code":"c","guards":[{"name":"irece","parameters":{"mask":"full","phrases":["ring"],"sides":[16]}}],'
    '"images":[9045990189185560795,2],"kind":"generate","model":"e","sampler":{"dtype":"float32","guidance":7.0,"height":64,'
    '"steps":20,"width":128},"source":"prompt"}',
    '{"backbone":"a0","code":"c","guards":[],"images":[1],"kind":"generate","model":null,"personalisation":{"base":null,'
    '"kind":"lora","sha256":"f"},"sampler":{"dtype":"bfloat16","guidance":7.5,"steps":20},"source":"prompt"}',
    '{"backbone":"a0","code":"c","guards":[],"images":[1],"kind":"generate","model":"e","personalisation":{"attack":"d",'
    '"item":"step-5"},"sampler":{"dtype":"float32","guidance":7.5,"steps":20},"source":"prompt"}',
    '{"backbone":"a0","code":"c","guards":[],"images":[1],"kind":"generate","model":null,"perturbation":null,"sampler":{'
    '"dtype":"float32","guidance":1.0,"steps":20},"solver":"ddim","source":"latent"}',
    '{"code":"c","generate":"g","instrument":{"detector":"","instrument_id":3736350909722532785,"kind":"clip-zero-shot",'
    '"labels":["disc","ring"],"package":"torch","parameters":"{}","preprocessing":"none","score_floor":0.0,"threshold":0.0,'
    '"version":"1","weights_sha256":"w"},"kind":"detect"}',
    '{"baselines":["g"],"code":"c","generate":"h","instrument":{"instrument":"","instrument_id":4,"kind":"psnr","metrics":['
    '"psnr"],"package":"numpy","parameters":"{}","preprocessing":"none","version":"1","weights_sha256":""},"kind":"quality",'
    '"pairs":[[3,"backbone",9],[3,"reference",null]]}',
)  # fmt: skip
# Keys of one plan by kind, and its pictures, with a code digest that does not change.
KEYS = {
    "erase": "efd40b11fc5f11b4",
    "attack": "f8648e271899f0b0",
    "invert": "35372db47feb4b83",
    "generate": "77719b8bbe6f9cd5",
    "filter": "2fbc1edbbfe53208",
    "detect": "244e7b473955c192",
    "quality": "8cff87c1be552d63",
}
PICTURES = "068544d693af2f40"


@pytest.mark.parametrize("text", STORED)
def test_an_identity_is_written_as_it_was_read(text: str) -> None:
    stored = json.loads(text)
    assert identity.canonical(as_json(from_json(stored["kind"], stored))) == identity.canonical(stored)


def test_the_keys_of_a_plan_are_the_recorded_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change here computes everything anew. Where that is meant, record the new keys."""
    monkeypatch.setattr(identity, "code_digest", lambda kind: f"code of {kind}")
    plan = plan_of()
    units = plan.units.select(["kind", "key"]).to_pylist()
    found = {kind: identity.key(sorted(u["key"] for u in units if u["kind"] == kind))[:16] for kind in KINDS}
    assert found == KEYS
    assert identity.key(plan.cases["image_id"].to_pylist())[:16] == PICTURES


def test_every_identity_of_a_plan_has_the_key_that_it_was_planned_with() -> None:
    plan = plan_of()
    for unit in (unit for kind in KINDS for unit in plan.units_of(kind)):
        assert identity.key(as_json(unit.identity)) == unit.key


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        ("detect", 7, "a unit's identity is no JSON object"),
        ("detect", {"instrument": None}, "the identity of a unit of kind 'detect': instrument: "),
        ("detect", {"brush": 1}, "brush: Unexpected"),
        ("generate", {}, "the identity of a unit of kind 'generate': "),  # of a detect unit
    ],
)
def test_what_is_no_identity_is_said(kind: str, change: Any, message: str) -> None:
    stored = json.loads(STORED[-2])
    with pytest.raises(ForeignError, match=message):
        from_json(kind, {**stored, **change} if isinstance(change, dict) else change)


def test_a_run_whose_unit_has_a_foreign_identity_is_said_to_be_damaged(tmp_path: Path, tiny_folder: Path) -> None:
    root = tmp_path / "runs"
    plan = read_plan(open_journal(str(root)), plan_run(tiny_spec(tmp_path, tiny_folder), root))
    writer = TableWriter(UNITS_SCHEMA, 100)
    writer.add({**plan.units.table().to_pydict(), "identity": ['{"kind":"erase"}'] * plan.units.num_rows})
    units = StoredTable.of_bytes(writer.close(), UNITS_SCHEMA, UNIT_COLUMNS)
    foreign = dataclasses.replace(plan, units=units)
    with pytest.raises(
        JournalError, match=r"plan of run .* is damaged: the identity of a unit of kind 'invert'"
    ) as error:
        next(foreign.units_of("invert"))
    assert error.value.next_step == "start it again: erasure-audit run SPEC"


def test_a_case_has_a_field_for_each_column_of_the_table() -> None:
    names = [field.name for field in dataclasses.fields(Case)]
    assert names == CASES_SCHEMA.names
    assert {field.name for field in dataclasses.fields(Attempt)} - {*names} == {"size"}
