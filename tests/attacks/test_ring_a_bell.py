"""Ring-A-Bell: the search finds, repeats, continues and ends; what it cannot find is unassessed."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from audit import run
from audit.attacks import ring_a_bell
from audit.attacks.parameters import RingABellParameters
from audit.attacks.ring_a_bell import Space, State
from audit.attacks.ring_a_bell_unit import best_prompt, encoder_of, space_of, target_of
from audit.compute.models import Models
from audit.compute.stages.attack import run_attack
from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.errors import SpecError
from audit.index.queries import read_result
from audit.index.store import latest
from audit.locations import database_path
from audit.plan.document import KINDS, Draft, Plan, read_plan
from audit.plan.identities import as_json
from audit.progress import Session
from audit.records import Control
from audit.report import html
from audit.report.attacking import attacks
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.weights.references import resolve_model
from tests.flows.audits import finish_run, plan_run, tiny_spec

TESTBED = RingABellParameters.model_validate(RingABellParameters.PRESETS["testbed"])
SETTINGS = TESTBED.model_copy(update={"population": 32, "generations": 12})
SAMPLER = {"steps": 2, "guidance": 3.0}
TINY = {
    "population": 8, "generations": 4, "tokens": 4, "eta": 1.0, "target": "a {phrase}", "pairs": [["a {phrase}", "a"]],
}  # fmt: skip


@dataclasses.dataclass
class Bell:
    """The testbed's text encoder with a target, and every input that it was given."""

    pipeline: Pipeline
    target: torch.Tensor
    space: Space
    seen: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def encode(self, ids: torch.Tensor) -> torch.Tensor:
        self.seen.append(ids)
        return encoder_of(self.pipeline)(ids)

    def search(self, seed: int = 0, settings: RingABellParameters = SETTINGS, **more: Any) -> State:
        return ring_a_bell.search(self.encode, self.target, self.space, settings, seed, **more)


@pytest.fixture(scope="module")
def loaded() -> Pipeline:
    return load_pipeline(resolve_model("testbed"), torch.device("cpu"))


@pytest.fixture
def bell(loaded: Pipeline) -> Bell:
    return Bell(loaded, target_of(loaded, SETTINGS, "ring"), space_of(loaded, SETTINGS.tokens))


def same(first: State, second: State) -> bool:
    return (
        torch.equal(first.genes, second.genes)
        and torch.equal(first.fitness, second.fitness)
        and (first.evaluations, first.history) == (second.evaluations, second.history)
    )


def test_the_search_improves_and_beats_random_prompts_at_equal_evaluations(bell: Bell) -> None:
    state = bell.search(settings=TESTBED)
    assert list(state.history) == sorted(state.history, reverse=True) and len(state.history) == TESTBED.generations
    assert state.history[-1] < 0.6 * state.history[0]
    assert state.evaluations == sum(map(len, bell.seen))
    for seed in range(2):
        drawn = bell.space.random(state.evaluations, torch.Generator().manual_seed(seed))
        best = ring_a_bell.fitness(bell.encode, bell.space.ids(drawn), bell.target, 64).min()
        assert state.history[-1] < float(best)
    again = ring_a_bell.fitness(bell.encode, bell.space.ids(state.genes), bell.target, 7)
    assert torch.allclose(again, state.fitness, rtol=1e-4)


def test_a_seed_gives_one_result_and_an_interrupted_search_the_same(bell: Bell) -> None:
    kept: list[bytes] = []
    torch.manual_seed(1)
    whole = bell.search(3, save=lambda state: kept.append(state.dump()))
    torch.manual_seed(2)  # no global randomness takes part
    assert same(bell.search(3), whole)
    assert same(bell.search(3, state=State.load(kept[4])), whole)
    assert same(bell.search(3, state=State.load(kept[-1])), whole)
    assert not torch.equal(bell.search(4).genes, whole.genes)


def test_a_long_search_stays_a_search_of_its_whole_population() -> None:
    space = Space(torch.arange(3, 50), 0, 1, 2, 8, 4)
    settings = TESTBED.model_copy(update={"population": 10, "generations": 400})
    sizes: list[int] = []
    ring_a_bell.search(
        lambda ids: ids[:, :, None].float(), torch.full((8, 1), 20.0), space, settings, 0,
        save=lambda state: sizes.append(len(state.genes)),
    )  # fmt: skip
    assert min(sizes) >= settings.population // 2
    assert 0.9 * settings.population < sum(sizes) / len(sizes) < 1.1 * settings.population


@pytest.mark.parametrize(
    "state", [float("nan"), float("inf"), -float("inf"), 1e30], ids=["nan", "inf", "-inf", "overflow"]
)
def test_an_encoder_that_gives_no_number_has_no_finite_fitness(state: float) -> None:
    ids = torch.tensor([[0, 1], [1, 1]])
    found = ring_a_bell.fitness(lambda ids: torch.where(ids == 0, state, 1.0)[:, :, None], ids, torch.zeros(2, 1), 1)
    assert found.tolist() == [float("inf"), 2.0]


@pytest.mark.parametrize("budget", [2, 31, 32, 33, 100])
def test_the_budget_is_never_exceeded(bell: Bell, budget: int) -> None:
    settings = SETTINGS.model_copy(update={"evaluations": budget})
    state = bell.search(settings=settings)
    assert state.evaluations == budget == sum(map(len, bell.seen))
    assert torch.isfinite(state.fitness).all()


def test_special_tokens_stand_only_around_what_is_searched_for(bell: Bell) -> None:
    bell.search()
    ids = torch.cat(bell.seen)
    inside = ids[:, 1 : 1 + SETTINGS.tokens]
    tokenizer = bell.pipeline.tokenizer
    assert not torch.isin(inside, torch.tensor(tokenizer.all_special_ids)).any()
    assert (ids[:, 0] == tokenizer.bos_token_id).all() and (ids[:, 1 + SETTINGS.tokens] == tokenizer.eos_token_id).all()
    assert (ids[:, 2 + SETTINGS.tokens :] == tokenizer.pad_token_id).all()
    assert ids.shape[1] == tokenizer.model_max_length
    with pytest.raises(ValueError, match="special"):
        Space(torch.tensor([tokenizer.eos_token_id]), 0, tokenizer.eos_token_id, 1, 8, 2)


def test_the_answer_is_measured_as_the_text_that_a_user_types(bell: Bell) -> None:
    state = bell.search()
    found = best_prompt(bell.pipeline, bell.encode, bell.target, state, lambda text: False)
    assert found is not None
    states = bell.pipeline.encode_text([found.text])[0]
    assert float((bell.target - states).square().sum()) == pytest.approx(found.fitness, rel=1e-4)
    assert best_prompt(bell.pipeline, bell.encode, bell.target, state, lambda text: True) is None


@pytest.mark.parametrize("preset", ["official", "official-k38", "official-k77"])
def test_official_searches_without_token_0_mutate_the_best_and_take_it_as_it_is_written(
    bell: Bell, preset: str
) -> None:
    official = RingABellParameters.model_validate(RingABellParameters.PRESETS[preset])
    assert (official.population, official.generations, official.mutation, official.crossover) == (200, 3000, 0.25, 0.5)
    assert (official.tokens, official.eta) == ({"official": 16, "official-k38": 38, "official-k77": 75}[preset], 3.0)
    every, searched = space_of(bell.pipeline, 6).allowed, space_of(bell.pipeline, 6, official.first_id).allowed
    assert searched.tolist() == [i for i in every.tolist() if i != 0]
    settings = SETTINGS.model_copy(update={"mutation": 1.0, "crossover": 0.0, "keep_best": official.keep_best})
    state = bell.search(settings=settings)
    assert list(state.history) != sorted(state.history, reverse=True)  # the best one was lost
    kept = bell.search(settings=settings.model_copy(update={"keep_best": True}))
    assert list(kept.history) == sorted(kept.history, reverse=True)
    found = best_prompt(bell.pipeline, bell.encode, bell.target, state, lambda text: False, answers=official.answers)
    written = bell.pipeline.tokenizer.decode(state.genes[0].tolist(), skip_special_tokens=True).strip()
    assert found is None or found.text == written


def test_the_concept_vector_is_the_mean_difference() -> None:
    states = torch.arange(24.0).reshape(4, 3, 2)
    vector = ring_a_bell.concept_vector(states[:2], states[2:])
    assert torch.equal(vector, torch.full((3, 2), -12.0))
    assert torch.equal(ring_a_bell.target_states(states[0], vector, 0.5), states[0] - 6)
    with pytest.raises(ValueError, match="pairs"):
        ring_a_bell.concept_vector(states[:2], states[:1])


def spec_of(folder: Path, pipeline: Path, **scenario: Any) -> Path:
    given = {"name": "adversarial-text", "cases": 5, "found": 2, "sampler": SAMPLER, **scenario}
    if "prompts" not in given:
        given["parameters"] = {**TINY, **given.get("parameters", {})}
    return tiny_spec(folder, pipeline, scenarios=[given], controls={"cases": 2}, defences=[
        {"name": "uce", "eraser": {"method": "uce"}},
    ])  # fmt: skip


def drafted(path: Path) -> Draft:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("bell")
    run_id = finish_run(spec_of(folder, tiny_folder), folder / "runs")
    return read_plan(run.open_journal(str(folder / "runs")), run_id), folder / "runs"


def test_one_search_for_each_prompt_serves_every_defence(finished: tuple[Plan, Path]) -> None:
    plan, root = finished
    journal = run.open_journal(str(root))
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    units = list(plan.units_of("attack"))
    assert len(units) == 2 and all(unit.identity.model is None for unit in units)
    cases = [row for row in plan.cases.to_pylist() if row["attack_key"]]
    assert {row["attack_key"] for row in cases} == {unit.key for unit in units}
    assert [row["attack_item"] for row in cases[:5]] == [f"prompt-{i % 2}" for i in range(5)]
    rows = [row for unit in units for row in journal.read("attack", unit.key).to_pylist()]
    assert [row["item"] for row in rows] == ["prompt-0", "random-0", "prompt-1", "random-1"]
    assert {row["status"] for row in rows} == {"ok"} and len({row["prompt"] for row in rows}) == 4
    for row in rows[::2]:
        facts = json.loads(row["report"])
        assert row["prompt"] not in facts["summary"] and f"distance {row['score']:.1f}" in facts["summary"]
        assert facts["distance"]["end"] <= facts["distance"]["start"] and row["evaluations"] >= 8
    made = [row for unit in plan.units_of("generate") for row in journal.read("generate", unit.key).to_pylist()]
    assert {row["status"] for row in made} == {"ok", "degenerate"} or {row["status"] for row in made} == {"ok"}


def test_the_control_of_a_search_is_random_tokens_under_the_same_seeds(finished: tuple[Plan, Path]) -> None:
    plan, root = finished
    journal = run.open_journal(str(root))
    cells = {planned.cell.cell_id: planned.cell for planned in plan.cells}
    by_control = {
        control: [row for row in plan.cases.to_pylist() if cells[row["cell_id"]].defence == "uce" and row["attack_item"]
                  and cells[row["cell_id"]].control is control]
        for control in (None, Control.RANDOM_TOKENS)
    }  # fmt: skip
    assert [row["attack_item"] for row in by_control[Control.RANDOM_TOKENS]] == [f"random-{i % 2}" for i in range(5)]
    seeds = [[row["seed"] for row in rows] for rows in by_control.values()]
    assert seeds[0] == seeds[1]
    for unit in plan.units_of("attack"):
        searched, drawn = journal.read("attack", unit.key).to_pylist()
        assert drawn["score"] > searched["score"] and drawn["evaluations"] == 1
        assert json.loads(drawn["report"])["control"] == "random-tokens"
        assert drawn["prompt"] not in json.loads(drawn["report"])["summary"]


def test_reports_tell_of_the_best_find_and_never_its_text(finished: tuple[Plan, Path]) -> None:
    plan, root = finished
    journal = run.open_journal(str(root))
    found = [row for unit in plan.units_of("attack") for row in journal.read("attack", unit.key).to_pylist()]
    result = read_result(latest(database_path(str(root)).parent / "published"), plan.run_id)
    ((*_, remark),) = attacks(result.attacks).rows
    assert f"distance {min(row['score'] for row in found):.1f} after" in remark
    assert result.attacks[0]["items"] == 2  # without the controls
    page = html.render(result, lambda sample: None)
    assert remark in page and not any(f"{row['prompt'][:60]!r}" in page for row in found)


def test_a_control_that_could_not_be_drawn_is_no_failed_search(
    finished: tuple[Plan, Path], tmp_path: Path, tiny_folder: Path
) -> None:
    searched = run.open_journal(str(finished[1]))
    run_id = plan_run(spec_of(tmp_path, tiny_folder), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    for unit in read_plan(journal, run_id).units_of("attack"):
        table = searched.read("attack", unit.key)
        first, drawn = table.to_pylist()
        drawn |= {"status": "degenerate", "error": "no random tokens", "prompt": None, "score": None, "report": None}
        rows = pa.Table.from_pylist([first, drawn], table.schema)
        journal.write("attack", unit.key, rows, {"identity": as_json(unit.identity)})
    published = run.consolidate(journal, run_id, database_path(str(tmp_path / "runs")))
    result = read_result(published, run_id)
    assert [(row["items"], row["found"], row["error"]) for row in result.attacks] == [(2, 2, None)]


def test_a_search_without_numbers_ends_unassessed(finished: tuple[Plan, Path]) -> None:
    plan, root = finished
    models = Models(resolve_model(plan.spec.backbone), run.open_journal(str(root)), torch.device("cpu"), plan)
    with torch.no_grad():
        models.pipeline.text_encoder.final_layer_norm.weight.fill_(float("nan"))
    unit = next(plan.units_of("attack"))
    table, _ = run_attack(unit.identity, models, lambda item: None, 4)  # type: ignore[arg-type,return-value]
    rows = table.to_pylist()
    assert len(rows) == 2 and all(row["status"] != "ok" and row["prompt"] is None and row["error"] for row in rows)


def test_an_interrupted_unit_goes_on_where_it_stopped(finished: tuple[Plan, Path], tmp_path: Path) -> None:
    plan, root = finished
    journal = run.open_journal(str(root))
    models = Models(resolve_model(plan.spec.backbone), journal, torch.device("cpu"), plan)
    unit = next(plan.units_of("attack"))
    session = Session(folder=tmp_path, checkpoint_seconds=0.0)
    (tmp_path / "prompt-0.search").write_bytes(b"torn")
    table, _ = run_attack(unit.identity, models, lambda item: None, 4, session)  # type: ignore[arg-type,return-value]
    assert table.to_pylist() == journal.read("attack", unit.key).to_pylist()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"preset": "magic"}, "no preset 'magic'"),
        ({"parameters": {"speed": 1}}, "takes: population"),
        ({"parameters": {"mutation": 2}}, "mutation"),
        ({"parameters": {"tokens": 15}}, "asked for 15 tokens, and the backbone's text encoder reads 14"),
        ({"parameters": {"pairs": [["a", "b"]]}}, "must hold {phrase} in its first"),
        ({"parameters": {"target": "a very long target {phrase}"}}, "tokens"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_before_compute(
    scenario: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        drafted(spec_of(tmp_path, tiny_folder, **scenario))
    assert message in f"{caught.value} {caught.value.next_step}"


def test_prompts_of_others_need_no_search(tmp_path: Path, tiny_folder: Path) -> None:
    (tmp_path / "found.csv").write_text("adv_prompt,case_number\nodd words,1\n,2\nmore odd,3\n")
    prompts = {"file": str(tmp_path / "found.csv")}
    plan = drafted(spec_of(tmp_path, tiny_folder, prompts=prompts, cases=3))
    assert not list(plan.units_of("attack"))
    cases = [row for row in plan.cases.to_pylist() if row["prompt_key"]]
    assert [(row["prompt"], row["problem"]) for row in cases[:3]] == [
        ("odd words", None), (None, "row 1: its prompt is empty"), ("more odd", None),
    ]  # fmt: skip
    with pytest.raises(SpecError, match="take no preset"):
        drafted(spec_of(tmp_path, tiny_folder, prompts=prompts, preset="official"))
