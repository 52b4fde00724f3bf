"""Embeddings of several concepts learned in one loop: fewer UNet calls, the same embeddings, each unit its own."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import safetensors.torch
import torch

from audit import locations, run
from audit.attacks import registry
from audit.attacks.embedding_learner import Learner, learn
from audit.attacks.training_prompts import Prompts
from audit.compute.training_folders import sweep, trained_elsewhere, training_session
from audit.compute.worker import Worker
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.plan.document import Plan, read_plan
from audit.plan.identities import Unit
from audit.progress import Session
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from tasks.context import Run, Settings
from tasks.units import _Stage
from tests.attacks.test_textual_inversion import PARAMETERS, SETTINGS, scenario
from tests.compute.test_training_folders import Lines
from tests.erasers.test_training import Stopping
from tests.flows.audits import plan_run, tiny_spec

CONCEPTS = ("ring", "circle", "moon")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return locations.cache_folder()


def learners(pipeline: Pipeline, calls: list[int], most: int = 64) -> list[Learner]:
    """One for each of three concepts; `calls` receives the rows of their UNet calls."""
    model = noise_model(pipeline.unet)

    def counted(latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        calls.append(len(latents))
        return model(latents, timesteps, states)

    pictures = [
        torch.randn(2, 2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in (3, 4, 5)
    ]
    prompts = Prompts(pipeline, PARAMETERS)
    return [Learner(prompts, counted, latents, PARAMETERS, 7, most) for latents in pictures]


def vectors(made: Learner) -> torch.Tensor:
    return torch.stack([vector.detach() for vector in made.vectors])


@pytest.mark.parametrize(("most", "expected"), [(64, 4), (8, 8), (4, 12), (2, 24), (1, 48)])
def test_concepts_learn_together_what_they_learn_alone(pipeline: Pipeline, most: int, expected: int) -> None:
    calls: list[int] = []
    together = learners(pipeline, calls, most)
    learn(together, [Session()] * 3)
    assert len(calls) == expected and sum(calls) == 4 * 3 * 2 * 2 and max(calls) <= most
    for number, joint in enumerate(together):
        alone = learners(pipeline, [])[number]
        learn([alone], [Session()])
        assert torch.allclose(vectors(joint), vectors(alone), atol=1e-5)
        assert torch.allclose(torch.tensor(joint.losses), torch.tensor(alone.losses), atol=1e-5)
    assert not torch.allclose(vectors(together[0]), vectors(together[1]), atol=1e-3)


def test_learners_that_were_interrupted_at_different_iterations_come_to_the_same_end(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    whole = learners(pipeline, [])
    learn(whole, [Session()] * 3)
    ahead, folder = learners(pipeline, [])[1], tmp_path / "1"
    folder.mkdir()
    session = Session(folder, Stopping(2), checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        learn([ahead], [session])
    calls: list[int] = []
    resumed = learners(pipeline, calls)
    learn(resumed, [Session(), Session(folder), Session()])
    assert calls == [8] + [12] * 3  # two concepts catch up with the one that had made an iteration
    for one, other in zip(whole, resumed, strict=True):
        assert torch.allclose(vectors(one), vectors(other), atol=1e-5)


def planned(folder: Path, pipeline: Path) -> tuple[Plan, Journal]:
    """An audit of three concepts by embeddings learned on the backbone, planned."""
    corpus = []
    for concept in CONCEPTS:
        url = folder / "corpus" / concept
        if not url.exists():
            write_corpus(str(url), concept, 3, "audit")
        corpus.append({"url": str(url), "concept": concept})
    spec = tiny_spec(
        folder,
        pipeline,
        concepts=[{"name": name, "phrase": name} for name in CONCEPTS],
        corpus=corpus,
        scenarios=[scenario("embedding-blackbox")],
        detectors=[{"name": "nude", "kind": "nudenet", "labels": {name: ["FACE_FEMALE"] for name in CONCEPTS}}],
    )
    root = folder / "runs"
    run_id = plan_run(spec, root)
    journal = run.open_journal(str(root))
    return read_plan(journal, run_id), journal


@pytest.fixture
def audit(tmp_path: Path, tiny_folder: Path) -> tuple[Plan, Journal, list[Unit]]:
    plan, journal = planned(tmp_path, tiny_folder)
    units = list(plan.units_of("attack"))
    assert [unit.identity.concept.name for unit in units] == list(CONCEPTS)
    return plan, journal, units


def embeddings(journal: Journal, units: list[Unit]) -> list[torch.Tensor]:
    return [safetensors.torch.load(journal.blob("attack", unit.key))["lr-0.1"] for unit in units]


def test_the_first_unit_takes_the_others_along_and_each_is_journalled_in_its_own_turn(
    audit: tuple[Plan, Journal, list[Unit]], cache: Path, tmp_path: Path, tiny_folder: Path
) -> None:
    plan, journal, units = audit
    worker, listeners = Worker(plan, journal, device="cpu", batch_size=32), [Stopping(-1) for _ in units]
    worker.run(units[0], listeners[0])
    assert journal.keys("attack") == {units[0].key}
    assert {path.name for path in (cache / "trainings").iterdir()} == {unit.key for unit in units[1:]}
    for unit, listener in zip(units[1:], listeners[1:], strict=True):
        worker.run(unit, listener)
    assert [listener.began for listener in listeners] == [[0], [4], [4]]  # nothing was left to learn
    assert not any((cache / "trainings").iterdir())
    alone, own = planned(tmp_path / "alone", tiny_folder)
    single = Worker(alone, own, device="cpu", batch_size=4)  # room for one concept in a UNet call
    for unit in alone.units_of("attack"):
        listener = Stopping(-1)
        single.run(unit, listener)
        assert listener.began == [0]
    for one, other in zip(embeddings(journal, units), embeddings(own, list(alone.units_of("attack"))), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_kill_in_the_common_loop_loses_nothing_of_any_concept(
    audit: tuple[Plan, Journal, list[Unit]], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.compute.training_folders.Session", functools.partial(Session, checkpoint_seconds=0.0))
    plan, journal, units = audit
    with pytest.raises(KeyboardInterrupt):
        Worker(plan, journal, device="cpu", batch_size=32).run(units[0], Stopping(3))
    assert {path.name for path in (cache / "trainings").iterdir()} == {unit.key for unit in units}
    worker = Worker(plan, journal, device="cpu", batch_size=4)
    for unit in units:
        listener = Stopping(-1)
        worker.run(unit, listener)
        assert listener.began == [2]


def test_a_concept_whose_pictures_are_gone_is_left_behind_and_says_so_itself(
    audit: tuple[Plan, Journal, list[Unit]], tmp_path: Path
) -> None:
    plan, journal, units = audit
    for path in (tmp_path / "corpus" / "circle").iterdir():
        path.write_bytes(b"no picture")
    worker = Worker(plan, journal, device="cpu", batch_size=32)
    reports = [worker.run(unit) for unit in units]
    assert [report.rows == report.unassessed for report in reports] == [False, True, False]


def test_only_methods_that_learn_in_a_loop_are_taken_along() -> None:
    p = {"method": "textual-inversion", "parameters": SETTINGS}
    assert [registry.room_for_more(p, rows) for rows in (1, 4, 7, 8, 64)] == [0, 0, 0, 1, registry.MOST_TOGETHER - 1]
    assert registry.room_for_more({"method": "ring-a-bell", "parameters": {}}, 512) == 0


def test_a_call_that_does_not_fit_into_memory_is_made_smaller_and_changes_nothing(pipeline: Pipeline) -> None:
    calls: list[int] = []
    made = learners(pipeline, calls)
    fitting = made[0].predict

    def full(latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        if len(latents) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return fitting(latents, timesteps, states)

    for learner in made:
        learner.predict = full
    learn(made, [Session()] * 3)
    assert max(calls) == 4 and made[0].batch_size == 4
    whole = learners(pipeline, [])
    learn(whole, [Session()] * 3)
    for one, other in zip(made, whole, strict=True):
        assert torch.allclose(vectors(one), vectors(other), atol=1e-5)

    def never(*_: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    (hopeless, *_) = learners(pipeline, [])
    hopeless.predict = never
    with pytest.raises(torch.OutOfMemoryError):
        learn([hopeless], [Session()])


@pytest.mark.parametrize("data", ["torn", "empty", "other rates", "other width"])
def test_a_checkpoint_of_something_else_is_said_and_not_used(pipeline: Pipeline, tmp_path: Path, data: str) -> None:
    made = learners(pipeline, [])[0]
    learn([made], [Session()])
    kept = safetensors.torch.load(made.state())
    if data == "empty":
        kept = {}
    elif data == "other rates":
        kept = {name: tensor for name, tensor in kept.items() if not name.startswith("1.")}
    elif data == "other width":
        kept |= {"0.vector": torch.zeros(1, 3)}
    (tmp_path / "embeddings.safetensors").write_bytes(b"torn" if data == "torn" else safetensors.torch.save(kept))
    anew, lines = learners(pipeline, [])[0], Lines()
    learn([anew], [Session(tmp_path, lines)])
    assert torch.equal(vectors(anew), vectors(made))
    assert len(lines.said) == 1 and "begins anew" in lines.said[0]


def test_a_unit_that_another_process_trains_is_not_taken_along_and_comes_last(
    audit: tuple[Plan, Journal, list[Unit]], cache: Path, tmp_path: Path
) -> None:
    plan, journal, units = audit
    with training_session(units[1]):  # as another process would hold it
        assert trained_elsewhere(units[1]) and not trained_elsewhere(units[0])
        worker = Worker(plan, journal, device="cpu", batch_size=32)
        worker.run(units[0])
        assert {path.name for path in (cache / "trainings").iterdir()} == {unit.key for unit in units[1:]}
        assert not any((cache / "trainings" / units[1].key).iterdir())  # no checkpoint of ours
        stage = _Stage(Run(plan.run_id, str(tmp_path / "runs"), Settings(device="cpu")), "attack", None)
        assert [unit.key for unit in stage.pending()] == [units[2].key, units[1].key]


def test_what_another_process_finished_leaves_no_checkpoints(
    audit: tuple[Plan, Journal, list[Unit]], cache: Path
) -> None:
    plan, journal, units = audit
    Worker(plan, journal, device="cpu", batch_size=32).run(units[0])
    with training_session(units[2]):
        sweep(units)
        assert {path.name for path in (cache / "trainings").iterdir()} == {units[2].key}
    sweep(units[:2])
    assert not any((cache / "trainings").iterdir())


def test_units_that_were_not_brought_forward_are_taken_along_by_the_next(
    audit: tuple[Plan, Journal, list[Unit]], cache: Path, tmp_path: Path
) -> None:
    """The first concept's pictures are gone, so there was no loop."""
    plan, journal, units = audit
    for path in (tmp_path / "corpus" / "ring").iterdir():
        path.write_bytes(b"no picture")
    worker, listeners = Worker(plan, journal, device="cpu", batch_size=32), [Stopping(-1) for _ in units]
    for unit, listener in zip(units, listeners, strict=True):
        worker.run(unit, listener)
    assert [listener.began for listener in listeners] == [[], [0], [4]]
