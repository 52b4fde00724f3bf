"""Textual inversion on the smallest pipeline: it learns, row by row as alone, goes on where it stopped, and is planned once."""

from __future__ import annotations

import datetime as dt
import itertools
import json
from pathlib import Path
from typing import Any, NoReturn

import pytest
import safetensors.torch
import torch

from audit import run
from audit.attacks import registry
from audit.attacks.embedding_learner import Learner, learn
from audit.attacks.parameters import TextualInversionParameters
from audit.attacks.textual_inversion import result_of
from audit.attacks.training_prompts import Prompts
from audit.checkpoints import ErasedModel
from audit.checkpoints.receler_adapter import nested
from audit.compute.stages.attack import run_attack
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.errors import SpecError
from audit.index.queries import read_result
from audit.index.store import latest
from audit.plan.document import Draft, read_plan
from audit.plan.forecast import calls_of
from audit.progress import Session
from audit.records import Control, Status
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.storage.errors import SourceUnavailable
from audit.testbed.scenes import write_corpus
from flows.cli import main
from tests.checkpoints.files import adapters
from tests.flows.audits import finish_run, plan_run, tiny_spec

SETTINGS: dict[str, Any] = {
    "iterations": 4,
    "batch_size": 2,
    "learning_rates": [0.01, 0.1],
    "tokens": 2,
    "initial": "o",
    "images": 2,
    "held_out": 4,
    "templates": ["a {attack}", "{attack} b"],
}
PARAMETERS = TextualInversionParameters.model_validate(SETTINGS)


def learner(pipeline: Pipeline, most: int = 8, **changes: Any) -> Learner:
    """A learner whose UNet calls have at most `most` rows."""
    p = PARAMETERS.model_copy(update=changes)
    latents = torch.randn(2, 2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(3))
    return Learner(Prompts(pipeline, p), noise_model(pipeline.unet), latents, p, 7, most)


def learned(made: Learner, session: Session | None = None) -> torch.Tensor:
    learn([made], [session or Session()])
    return torch.stack([vector.detach() for vector in made.vectors])


def test_every_rate_learns_as_it_would_alone_however_rows_are_packed(pipeline: Pipeline) -> None:
    together = learned(learner(pipeline))
    assert torch.allclose(together, learned(learner(pipeline, most=1)), atol=1e-5)
    for number, rate in enumerate(PARAMETERS.learning_rates):
        alone = learned(learner(pipeline, learning_rates=(rate,)))
        assert torch.allclose(together[number], alone[0], atol=1e-6)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


@pytest.mark.parametrize("most", [1, 4, 7, 12])
def test_no_unet_call_has_more_rows_than_the_batch_size(pipeline: Pipeline, most: int) -> None:
    calls: list[int] = []

    def counting(rows: int) -> Learner:
        made = learner(pipeline, rows, batch_size=6, held_out=8)
        model = made.predict

        def counted(latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            assert len(latents) == len(timesteps) == len(states)
            calls.append(len(latents))
            return model(latents, timesteps, states)

        made.predict = counted
        return made

    whole = counting(64)
    expected = learned(whole)
    losses = [row.score for row in result_of(whole).rows]
    calls.clear()
    small = counting(most)
    assert torch.allclose(learned(small), expected, atol=1e-5)
    assert max(calls) <= most and sum(calls) == 4 * 2 * 6
    assert torch.allclose(torch.tensor(small.losses), torch.tensor(whole.losses), atol=1e-5)
    calls.clear()
    assert [row.score for row in result_of(small).rows] == pytest.approx(losses, abs=1e-5)
    assert max(calls) <= most and sum(calls) == 3 * 8


def test_only_the_embedding_moves_and_the_loss_falls(pipeline: Pipeline) -> None:
    before = {name: tensor.clone() for name, tensor in pipeline.text_encoder.state_dict().items()}
    made = learner(pipeline, iterations=60, learning_rates=(0.05,), batch_size=4, held_out=16)
    learn([made], [Session()])
    result = result_of(made)
    best = next(row for row in result.rows if row.item == "best")
    assert best.score is not None and best.score < best.report["held_out_loss_initial"]
    assert result.tensors["best"].shape == (2, 16)
    assert all(torch.equal(before[name], tensor) for name, tensor in pipeline.text_encoder.state_dict().items())
    assert all(p.grad is None for module in (pipeline.unet, pipeline.text_encoder) for p in module.parameters())


def test_the_best_rate_has_the_lowest_held_out_loss_and_a_diverged_one_never_wins(pipeline: Pipeline) -> None:
    made = learner(pipeline)
    learn([made], [Session()])
    with torch.no_grad():
        made.vectors[1].fill_(float("nan"))
    result = result_of(made)
    rows = {row.item: row for row in result.rows}
    assert rows["best"].report["chosen"] == "lr-0.01" and rows["best"].score == rows["lr-0.01"].score
    assert rows["lr-0.1"].status is Status.DEGENERATE and set(result.tensors) == {"best", "lr-0.01"}
    with torch.no_grad():
        made.vectors[0].fill_(float("nan"))
    rows = {row.item: row for row in result_of(made).rows}
    assert {row.status for row in rows.values()} == {Status.DEGENERATE}


def test_an_embedding_that_beats_no_initial_word_found_nothing(pipeline: Pipeline) -> None:
    made = learner(pipeline)
    learn([made], [Session()])
    with torch.no_grad():
        for vector in made.vectors:
            vector.copy_(made.prompts.initial)  # as good as the word itself, and no better
    result = result_of(made)
    rows = {row.item: row for row in result.rows}
    assert rows["best"].status is Status.DEGENERATE and "best" not in result.tensors
    assert rows["best"].error is not None and "no lower than with the initial word 'o'" in rows["best"].error
    assert rows["best"].score == pytest.approx(rows["best"].report["held_out_loss_initial"], rel=1e-5)
    assert rows["best"].report["chosen"] in rows and "summary" not in rows["best"].report
    assert rows["lr-0.01"].status is rows["lr-0.1"].status is Status.OK  # learned, and of no use


def test_an_interrupted_search_goes_on_to_the_same_embedding(pipeline: Pipeline, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    class Killer:
        def begin(self, stage: str, total: int | None, done: int) -> None:
            self.began = done

        def update(self, stage: str, done: int) -> None:
            if done == 3 and not self.began:
                raise Killed

        def end(self, stage: str) -> None: ...

        def note(self, text: str) -> None: ...

    listener = Killer()
    session = Session(tmp_path, listener, checkpoint_seconds=0.0)
    with pytest.raises(Killed):
        learned(learner(pipeline), session)
    resumed = learned(learner(pipeline), session)
    assert listener.began == 2
    assert torch.allclose(resumed, learned(learner(pipeline)), atol=1e-7)
    (tmp_path / "embeddings.safetensors").write_bytes(b"torn")
    assert torch.allclose(learned(learner(pipeline), Session(tmp_path)), resumed, atol=1e-7)


def scenario(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "cases": 2, "parameters": SETTINGS, "sampler": {"steps": 2, "guidance": 3.0}, **fields}


def both(folder: Path, pipeline: Path, **fields: Any) -> Path:
    return tiny_spec(
        folder, pipeline, scenarios=[scenario(f"embedding-{box}", **fields) for box in ("whitebox", "blackbox")]
    )


def draft(path: Path) -> Draft:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


def test_white_box_learns_through_the_erased_model_and_black_box_once_on_the_backbone(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run_id = plan_run(both(tmp_path, tiny_folder), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    (erase,) = plan.units_of("erase")
    units = {unit.identity.model: unit for unit in plan.units_of("attack")}
    assert set(units) == {None, erase.key} and units[erase.key].depends == (erase.key,)
    worker, blobs = run.worker(plan, journal, device="cpu"), []
    for unit in (erase, *units.values()):
        assert worker.run(unit).errors == 0  # whether random weights give the concept back is another matter
    for unit in units.values():
        table = journal.read("attack", unit.key)
        assert table["item"].to_pylist() == ["best", "lr-0.01", "lr-0.1"]
        assert sum(c or 0 for c in table["unet_calls"].to_pylist()) == calls_of(unit).expected
        blobs.append(safetensors.torch.load(journal.blob("attack", unit.key))["lr-0.1"])
    assert blobs[0].shape == (2, 16) and not torch.equal(blobs[0], blobs[1])


def with_control(
    folder: Path, pipeline: Path, concept: str = "arrow", pictures: int = 3, called: str = "arrow", **fields: Any
) -> Path:
    """Both boxes, beside an arrow that is learned from pictures of its own."""
    write_corpus(str(folder / "corpus" / "arrow"), "arrow", pictures, "audit")
    corpus = [
        {"url": str(folder / "corpus" / "ring"), "concept": "ring"},
        {"url": str(folder / "corpus" / "arrow"), "concept": called, "role": "control"},
    ]
    fields = {"control_concept": concept, "cases": 3, **fields}
    scenarios = [scenario(f"embedding-{box}", **fields) for box in ("whitebox", "blackbox")]
    nude = {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"], called: ["FACE_MALE"]}}
    return tiny_spec(folder, pipeline, scenarios=scenarios, corpus=corpus, controls={"cases": 2}, detectors=[nude])


def test_a_concept_that_was_never_learned_is_the_control_of_an_embedding(tmp_path: Path, tiny_folder: Path) -> None:
    """Learned alike: white box through each defence's model, black box once; it decides nothing."""
    run_id = finish_run(with_control(tmp_path, tiny_folder), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    (erase,) = plan.units_of("erase")
    units = [(unit.identity.concept.name, unit.identity.model) for unit in plan.units_of("attack")]
    assert sorted(units, key=str) == sorted(itertools.product(("ring", "arrow"), (None, erase.key)), key=str)
    cells = {(p.cell.scenario, p.cell.defence): p.cell for p in plan.cells if p.cell.control is Control.UNLEARNED}
    assert sorted(cells) == sorted(itertools.product(("embedding-blackbox", "embedding-whitebox"), ("none", "uce")))
    for cell in cells.values():
        rows = [row for row in plan.cases.to_pylist() if row["cell_id"] == cell.cell_id]
        assert (cell.concept, cell.subject, len(rows)) == ("ring", "arrow", 2)
        ring = [row for row in plan.cases.to_pylist() if row["cell_id"] == cell.cell_id - 1][:2]
        assert [row["seed"] for row in rows] == [row["seed"] for row in ring]
        assert not {row["attack_key"] for row in rows} & {row["attack_key"] for row in ring}
    for concept in ("ring", "arrow"):
        which = ["--concept", concept, "--scenario", "embedding-blackbox", "--defence", "uce", "--item", "lr-0.1"]
        out = tmp_path / f"{concept}.safetensors"
        assert main(["export-embedding", run_id, "--root", str(tmp_path / "runs"), "--out", str(out), *which]) == 0
        assert [*safetensors.torch.load_file(out)] == [f"<{concept}>"]
    published = latest(tmp_path / "runs" / "db" / "published")
    assert published is not None
    result = read_result(published, run_id)
    beside = [row for row in result.crr if row.control == Control.UNLEARNED]
    assert {(row.scenario, row.defence) for row in beside} == set(cells)
    searched = {(row["concept"], row["is_control"]) for row in result.attacks}
    assert searched == {("ring", False), ("arrow", True)}
    assert not {row.cell_id for row in beside} & {decision.cell_id for decision in result.verdict.decisions}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"concept": "star"}, "control_concept: no corpus entry of role control has the concept 'star'"),
        ({"concept": "ring"}, "the backbone knows 'ring', which this spec audits"),
        ({"pictures": 1}, "learns from 2 images of 'arrow' and the corpus has 1"),
        ({"parameters": {}, "embedding": "x.safetensors"}, "here nothing is learned"),
        ({"concept": "o", "called": "o", "parameters": {**SETTINGS, "initial": "o"}}, "attacks by text"),
    ],
)
def test_a_control_that_cannot_be_learned_is_refused_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        plan_run(with_control(tmp_path, tiny_folder, **fields), tmp_path / "runs")
    assert caught.value.next_step


def test_white_box_learning_goes_through_recelers_adapters(
    tmp_path: Path, tiny_folder: Path, pipeline: Pipeline
) -> None:
    noise = torch.Generator().manual_seed(1)
    shapes = {name: tensor.shape for name, tensor in adapters(pipeline.unet.state_dict()).items()}
    flat = {name: 0.3 * torch.randn(shape, generator=noise) for name, shape in shapes.items()}
    folder = tmp_path / "receler"
    folder.mkdir()
    torch.save(nested(flat), folder / "eraser_weights.pt")
    (folder / "eraser_config.json").write_text(json.dumps({"eraser_type": "adapter", "eraser_rank": 4}))
    defence = {"name": "receler", "eraser": {"method": "receler", "checkpoint": str(folder)}}
    spec = tiny_spec(tmp_path, tiny_folder, defences=[defence], scenarios=[scenario("embedding-whitebox")])
    run_id = plan_run(spec, tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    (erase,) = plan.units_of("erase")
    worker.run(erase)
    (unit,) = (unit for unit in plan.units_of("attack") if unit.identity.model == erase.key)

    def embedding() -> torch.Tensor:
        _, blob = run_attack(unit.identity, worker.models, worker._read_corpus, 8)
        assert blob is not None
        return safetensors.torch.load(blob)["lr-0.1"]

    erased = worker.models._model(erase.key, "float32")
    assert isinstance(erased, ErasedModel) and erased.adapters is not None
    through = embedding()
    erased.adapters.enabled = False
    around = embedding()
    assert torch.equal(around, embedding()) and not torch.allclose(through, around, atol=1e-3)


def test_storage_that_does_not_answer_ends_the_unit_and_is_no_result_of_the_attack(
    tmp_path: Path, tiny_folder: Path
) -> None:
    run_id = plan_run(tiny_spec(tmp_path, tiny_folder, scenarios=[scenario("embedding-blackbox")]), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    plan = read_plan(journal, run_id)
    (unit,) = plan.units_of("attack")

    def silent(item: str) -> NoReturn:
        raise SourceUnavailable("the object storage does not answer")

    models = run.worker(plan, journal, device="cpu").models
    with pytest.raises(SourceUnavailable):
        run_attack(unit.identity, models, silent, 2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {**SETTINGS, "initial": "object"}}, "no single token"),
        ({"parameters": {**SETTINGS, "images": 9}}, "learns from 9 images"),
        ({"parameters": {**SETTINGS, "tokens": 15}}, "tokens"),
        ({"parameters": {**SETTINGS, "rate": 1}}, "takes: .*iterations"),
        ({"preset": "strongest"}, "presets: diffusers"),
        ({"templates": ["a photo"]}, "must contain"),
        ({"embedding": "x.safetensors"}, "takes no preset or parameters"),
    ],
    ids=["initial", "images", "too long", "unknown", "preset", "template", "both"],
)
def test_mistakes_are_refused_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        plan_run(both(tmp_path, tiny_folder, **fields), tmp_path / "runs")
    assert caught.value.next_step


def test_the_concepts_own_word_is_no_beginning(tmp_path: Path, tiny_folder: Path) -> None:
    path = tiny_spec(
        tmp_path,
        tiny_folder,
        concepts=[{"name": "ring", "phrase": "ring", "synonyms": ["o"]}],
        scenarios=[scenario("embedding-blackbox")],
    )
    with pytest.raises(SpecError, match="attacks by text"):
        draft(path)


def test_presets_are_valid_and_rates_are_tried_once() -> None:
    for preset in TextualInversionParameters.PRESETS:
        registry.parse("textual-inversion", {}, preset)
    with pytest.raises(SpecError, match="tried once"):
        registry.parse("textual-inversion", {"learning_rates": [0.1, 0.1]})
