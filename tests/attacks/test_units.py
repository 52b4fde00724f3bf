"""Attack units from the plan to the report: what is found enters prompts, what is not found is unassessed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline

from audit import run
from audit.attacks.embedding_files import check_embedding, write_embedding
from audit.compute.stages.attacked import Refused, prompt_of
from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.diffusion.placeholder_tokens import Vocabulary
from audit.errors import SpecError
from audit.index.checks import run_checks
from audit.index.queries import read_result
from audit.index.store import latest
from audit.plan.document import KINDS, Draft, Plan, read_plan
from audit.plan.forecast import calls_of
from audit.plan.identities import Unit
from audit.report.attacking import attacks
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.storage.journal import SCHEMAS, Journal
from audit.weights.references import resolve_model
from flows.cli import main
from tests import synthetic
from tests.flows.audits import finish_run, plan_run, tiny_spec

SAMPLER = {"steps": 2, "guidance": 3.0}


def vectors(count: int = 2, width: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def spec_with_file(folder: Path, pipeline: Path, **scenario: Any) -> Path:
    path = folder / "learned_embeds.safetensors"
    if not path.exists():
        write_embedding(path, "<ring>", vectors())
    given = {"name": "embedding-blackbox", "cases": 3, "embedding": str(path), "sampler": SAMPLER, **scenario}
    return tiny_spec(folder, pipeline, scenarios=[{"name": "text", "cases": 2, "sampler": SAMPLER}, given])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, Path]:
    folder = tmp_path_factory.mktemp("attack")
    run_id = finish_run(spec_with_file(folder, tiny_folder), folder / "runs")
    journal = run.open_journal(str(folder / "runs"))
    return read_plan(journal, run_id), journal, folder / "runs"


def test_one_unit_serves_the_backbone_and_every_defence(finished: tuple[Plan, Journal, Path]) -> None:
    plan, journal, _ = finished
    (unit,) = plan.units_of("attack")
    assert unit.rows == 1 and unit.depends == () and unit.identity.model is None
    cases = [row for row in plan.cases.to_pylist() if row["attack_key"]]
    assert {row["attack_key"] for row in cases} == {unit.key} and len(cases) == 2 * 3
    generated = {row["unit_key"] for row in cases}
    assert all(unit.key in made.depends for made in plan.units_of("generate") if made.key in generated)
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    assert calls_of(unit).high == 0


def test_the_embedding_makes_other_pictures_than_its_prompt_without_it(finished: tuple[Plan, Journal, Path]) -> None:
    plan, journal, _ = finished
    (unit,) = plan.units_of("attack")
    case = next(case for made in plan.units_of("generate") for case in plan.cases_of(made.key) if case.attack_key)
    vocabulary = Vocabulary()
    prompt = prompt_of(case, journal, vocabulary)
    assert isinstance(prompt, str) and prompt.startswith("a photo of a <learned-")
    assert torch.equal(vocabulary.vectors(prompt.split()[-1]), vectors())
    rows = journal.read("generate", case.unit_key).to_pylist()
    assert [row["status"] for row in rows] == ["ok"] * len(rows)
    assert unit.key != case.unit_key


def test_the_index_and_the_report_say_what_was_searched_for(finished: tuple[Plan, Journal, Path]) -> None:
    plan, _, root = finished
    published = latest(root / "db" / "published")
    assert published is not None
    result = read_result(published, plan.run_id)
    (row,) = result.attacks
    assert (row["attack_method"], row["concept"], row["items"], row["found"]) == ("embedding-file", "ring", 1, 1)
    assert row["defences"] == "none, uce" and row["scenarios"] == "embedding-blackbox"
    assert attacks(result.attacks).rows[0][:5] == (
        "ring",
        "embedding-blackbox",
        "embedding-file 1",
        "backbone",
        "1 of 1",
    )
    with duckdb.connect(str(published), read_only=True) as con:
        assert con.execute("select count(*) from attacks").fetchall() == [(1,)]


def written(journal: Journal, plan: Plan, **row: Any) -> Unit:
    """The plan's attack unit, journalled with a row as given."""
    (unit,) = plan.units_of("attack")
    full = {**dict.fromkeys(SCHEMAS["attack"].names), "item": unit.identity.items[0], "status": "ok", **row}
    import pyarrow as pa

    journal.write("attack", unit.key, pa.Table.from_pylist([full], SCHEMAS["attack"]), {"identity": {}})
    return unit


@pytest.mark.parametrize("status", ["error", "degenerate", "unreadable", "blocked"])
def test_what_an_attack_could_not_find_is_carried_on_and_never_assessed(
    tmp_path: Path, tiny_folder: Path, status: str
) -> None:
    run_id = plan_run(spec_with_file(tmp_path, tiny_folder), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    unit = written(journal, plan, status=status, error="it diverged")
    worker = run.worker(plan, journal, device="cpu")
    needing = [made for made in plan.units_of("generate") if unit.key in made.depends]
    for made in needing:
        report = worker.run(made)
        assert report.unassessed == report.rows
        rows = journal.read("generate", made.key).to_pylist()
        assert {(row["status"], row["error"]) for row in rows} == {(status, "attack: it diverged")}
    assert len(needing) == 2


def test_an_attack_that_was_mended_meanwhile_is_used_by_the_worker_that_saw_it_fail(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run_id = plan_run(spec_with_file(tmp_path, tiny_folder), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    unit = written(journal, plan, status="error", error="the source did not answer")
    worker = run.worker(plan, journal, device="cpu")
    made = next(made for made in plan.units_of("generate") if unit.key in made.depends)
    assert worker.run(made).errors == made.rows
    written(journal, plan, prompt="a ring")  # by another worker
    assert worker.run(made).errors == 0
    assert {row["status"] for row in journal.read("generate", made.key).to_pylist()} == {"ok"}


def test_a_found_prompt_replaces_the_mark_or_is_the_prompt(tmp_path: Path, tiny_folder: Path) -> None:
    run_id = plan_run(spec_with_file(tmp_path, tiny_folder), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    unit = written(journal, plan, prompt="odd words")
    case = synthetic.case(0, prompt="a photo of {attack}", attack_key=unit.key, attack_item="best")
    assert prompt_of(case, journal, Vocabulary()) == "a photo of odd words"
    assert prompt_of(dataclasses.replace(case, prompt=None), journal, Vocabulary()) == "odd words"
    assert prompt_of(dataclasses.replace(case, attack_key=None), journal, Vocabulary()) == "a photo of {attack}"
    assert isinstance(prompt_of(dataclasses.replace(case, attack_item="other"), journal, Vocabulary()), Refused)


def test_an_attack_that_failed_before_its_pictures_were_made_again_is_found_by_a_check(
    finished: tuple[Plan, Journal, Path], tmp_path: Path
) -> None:
    plan, _, root = finished
    published = latest(root / "db" / "published")
    assert published is not None
    path = tmp_path / "index.duckdb"
    path.write_bytes(published.read_bytes())
    name = "assessed_despite_attack"
    (before,) = [check for check in run_checks(path, plan.run_id) if check.name == name]
    with duckdb.connect(str(path)) as con:
        con.execute("update attacks set status = 'error'")
    (after,) = [check for check in run_checks(path, plan.run_id) if check.name == name]
    assert (before.status, after.status) == ("passed", "failed")


def draft(path: Path) -> Draft:
    spec, now = load_spec(path), dt.datetime.now(dt.UTC)
    return draft_plan(spec, now).draft


BAD_FILES = [
    pytest.param(lambda path: write_embedding(path, "<ring>", vectors(width=8)), "width 8", id="width"),
    pytest.param(lambda path: write_embedding(path, "a</w>", vectors()), "vocabulary", id="vocabulary"),
    pytest.param(lambda path: write_embedding(path, "<ring>", vectors() * float("nan")), "NaN", id="nan"),
    pytest.param(lambda path: write_embedding(path, "<ring>", vectors(16)), "tokens", id="too long"),
    pytest.param(lambda path: path.write_bytes(b"no file of tensors"), "neither safetensors nor", id="neither"),
    pytest.param(lambda path: torch.save({"a": vectors(), "b": vectors()}, path), "holds 2 tensors", id="two"),
    pytest.param(lambda path: torch.save(vectors(), path), "holds a Tensor", id="tensor"),
    pytest.param(lambda path: torch.save({"<a>": "text"}, path), "no vectors", id="text"),
    pytest.param(lambda path: torch.save({"<a>": Path("x")}, path), "neither safetensors nor", id="object"),
]


def bad_file(folder: Path, save: Any, name: str) -> Path:
    path = folder / ("bad.bin" if name in ("two", "tensor", "text", "object") else "bad.safetensors")
    save(path)
    return path


@pytest.mark.parametrize(("save", "message"), BAD_FILES)
def test_a_scenario_without_one_usable_file_is_refused_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path, save: Any, message: str, request: pytest.FixtureRequest
) -> None:
    bad = bad_file(tmp_path, save, request.node.callspec.id)
    with pytest.raises(SpecError, match=message) as caught:
        draft(spec_with_file(tmp_path, tiny_folder, embedding=str(bad)))
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("token", "known"),
    [("drop", True), ("Drop", True), ("drop</w>", True), ("<|endoftext|>", True), ("<drop>", False), ("qxz", False)],
)
def test_a_word_of_the_model_is_no_name_of_a_learned_token(tmp_path: Path, token: str, known: bool) -> None:
    backbone, path = resolve_model("testbed"), tmp_path / "learned_embeds.safetensors"
    width = json.loads((backbone.path / "text_encoder" / "config.json").read_text())["hidden_size"]
    write_embedding(path, token, vectors(width=width))
    if not known:
        assert check_embedding(path, backbone).token == token
        return
    with pytest.raises(SpecError, match="a word of this model's vocabulary") as caught:
        check_embedding(path, backbone)
    assert "<concept>" in (caught.value.next_step or "")


def two_concepts(folder: Path, pipeline: Path, bad: Path) -> Path:
    """A spec that brings a good embedding for 'ring' and `bad` for 'star'."""
    path = spec_with_file(folder, pipeline)
    document = yaml.safe_load(path.read_text())
    document["concepts"] = [{"name": name, "phrase": name} for name in ("ring", "star")]
    document["scenarios"][1]["embedding"] = {"ring": document["scenarios"][1]["embedding"], "star": str(bad)}
    document["detectors"][0]["labels"] = {"ring": ["FACE_FEMALE"], "star": ["FACE_FEMALE"]}
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.parametrize(("save", "message"), BAD_FILES)
def test_a_bad_file_costs_its_concept_alone(
    tmp_path: Path, tiny_folder: Path, save: Any, message: str, request: pytest.FixtureRequest
) -> None:
    bad = bad_file(tmp_path, save, request.node.callspec.id)
    plan = draft(two_concepts(tmp_path, tiny_folder, bad))
    cells = {p.cell.cell_id: p.cell for p in plan.cells if p.cell.scenario == "embedding-blackbox"}
    rows = [row for row in plan.cases.to_pylist() if row["cell_id"] in cells]
    problems = {"ring": [], "star": []}
    for row in rows:
        problems[cells[row["cell_id"]].concept].append(row["problem"])
    assert problems["ring"] == [None] * 2 * 3  # both defences
    assert len(problems["star"]) == 2 * 3 and all(message in said and str(bad) in said for said in problems["star"])
    assert len(list(plan.units_of("attack"))) == 1


def test_the_cases_of_a_bad_file_are_counted_unassessed_to_the_end(
    tmp_path: Path, tiny_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = bad_file(tmp_path, lambda path: write_embedding(path, "<ring>", vectors(width=8)), "width")
    spec = two_concepts(tmp_path, tiny_folder, bad)
    assert main(["plan", str(spec), "--root", str(tmp_path / "runs"), "--json"]) == 0
    (said,) = json.loads(capsys.readouterr().out)["warnings"]
    assert "6 cases of 'star'" in said and "embedding-blackbox" in said and "width 8" in said
    root = tmp_path / "runs"
    run_id = finish_run(spec, root)
    published = latest(root / "db" / "published")
    assert published is not None
    result = run.conclude(run.open_journal(str(root)), run_id, published)
    counts = {
        (row.concept, row.defence): (row.planned, row.assessed, row.unassessed)
        for row in result.crr
        if row.scenario == "embedding-blackbox"
    }
    assert counts["star", "uce"] == counts["star", "none"] == (3, 0, 3)
    assert sum(counts["ring", "uce"]) == 6 and counts["ring", "uce"][2] == 0
    assert result.verdict.status.value == "INCONCLUSIVE"
    assert [check.name for check in run_checks(published, run_id) if check.status != "passed"] == []


def test_an_absent_file_joins_what_is_missing_and_stops_the_run(tmp_path: Path, tiny_folder: Path) -> None:
    spec = load_spec(two_concepts(tmp_path, tiny_folder, tmp_path / "nowhere.bin"))
    found = draft_plan(spec, dt.datetime.now(dt.UTC))
    (gap,) = found.missing
    assert (gap.kind, gap.where) == ("embedding", str(tmp_path / "nowhere.bin")) and gap.next_step
    assert found.draft.cases["problem"].null_count == found.draft.cases.num_rows
    with pytest.raises(SpecError, match="cannot be read"):
        run.unstored_plan(spec, "r", "2026-01-01T00:00:00+00:00", MANIFEST_SCHEMA.empty_table())


def test_another_file_is_another_unit_and_a_changed_one_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    path = spec_with_file(tmp_path, tiny_folder)
    run_id = plan_run(path, tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    (unit,) = plan.units_of("attack")
    write_embedding(tmp_path / "learned_embeds.safetensors", "<ring>", vectors(seed=1))
    with pytest.raises(Exception, match="changed since this run was planned"):
        run.worker(plan, journal, device="cpu").run(unit)
    assert next(draft(path).units_of("attack")).key != unit.key


def test_an_embedding_is_exported_as_diffusers_reads_it(
    finished: tuple[Plan, Journal, Path], tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, _, root = finished
    out = tmp_path / "new" / "ring.safetensors"
    command = ["export-embedding", plan.run_id, "--root", str(root), "--out", str(out)]
    assert main([*command, "--defence", "uce", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["token"], told["vectors"], told["width"], told["attacked_model"]) == ("<ring>", 2, 16, None)
    pipe = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None)
    pipe.load_textual_inversion(str(out))
    ids = pipe.tokenizer(pipe.maybe_convert_prompt("<ring>", pipe.tokenizer), add_special_tokens=False)["input_ids"]
    assert torch.equal(pipe.text_encoder.get_input_embeddings().weight[ids], vectors())
    assert main(command) == 2 and "exists already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--concept", "disc"], "no embedding of this run is meant"),
        (["--scenario", "embedding-whitebox"], "no embedding of this run is meant"),
        (["--token", "ring"], "not of the form <word>"),
        (["--token", "<|endoftext|>"], "not of the form <word>"),
        (["--item", "lr-1"], "use one of: best"),
        (["--out", "ring.bin"], "does not end in"),
    ],
)
def test_an_export_that_cannot_be_made_says_why(
    finished: tuple[Plan, Journal, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    plan, _, root = finished
    out = tmp_path / "ring.safetensors"
    command = ["export-embedding", plan.run_id, "--root", str(root), "--out", str(out), *options]
    assert main(command) == 2 and message in capsys.readouterr().err
    assert not out.exists()
