"""A training inside a run that is killed half-way goes on from its checkpoint, and leaves nothing when it is done."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import safetensors.torch

from audit import locations, run
from audit.attacks.parameters import RingABellParameters
from audit.compute import worker
from audit.compute.training_folders import training_session
from audit.plan.document import Plan, read_plan
from audit.plan.identities import Unit
from audit.progress import Session, Silent
from audit.storage.journal import Journal
from tests.erasers.conftest import quick, same
from tests.erasers.test_training import Stopping
from tests.flows.audits import plan_run, tiny_spec
from tests.synthetic import unit

UNIT = unit("erase", parameters={"iterations": 4})


class Lines(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return locations.cache_folder()


def planned(folder: Path, pipeline: Path, root: Path) -> tuple[Plan, Journal, Unit]:
    eraser = {"method": "esd-x", "parameters": {**quick("esd-x"), "templates": ["{phrase}"]}}
    run_id = plan_run(tiny_spec(folder, pipeline, defences=[{"name": "esd", "eraser": eraser}]), root)
    journal = run.open_journal(str(root))
    plan = read_plan(journal, run_id)
    return plan, journal, next(iter(plan.units_of("erase")))


def test_a_training_killed_inside_a_run_goes_on_from_its_checkpoint(
    tmp_path: Path, tiny_folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.compute.training_folders.Session", functools.partial(Session, checkpoint_seconds=0.0))
    plan, journal, trained = planned(tmp_path, tiny_folder, tmp_path / "interrupted")
    with pytest.raises(KeyboardInterrupt):
        worker.Worker(plan, journal, device="cpu").run(trained, Stopping(3))
    assert trained.key not in journal.keys("erase")
    assert [path.name for path in (cache / "trainings").iterdir()] == [trained.key]
    listener = Stopping(-1)
    worker.Worker(plan, journal, device="cpu").run(trained, listener)
    assert listener.began == [2]
    assert trained.key in journal.keys("erase") and not any((cache / "trainings").iterdir())

    plan, whole, same_unit = planned(tmp_path, tiny_folder, tmp_path / "whole")
    worker.Worker(plan, whole, device="cpu").run(same_unit)
    assert same_unit.key == trained.key
    resumed, uninterrupted = (safetensors.torch.load(made.blob("erase", trained.key)) for made in (journal, whole))
    assert same(resumed, uninterrupted)


def test_two_processes_never_write_the_same_checkpoint(cache: Path) -> None:
    first, second = Lines(), Lines()
    with training_session(UNIT, first) as held:
        assert held.folder == cache / "trainings" / UNIT.key and first.said == []
        with training_session(UNIT, second) as other:
            assert other.folder is None and "another process" in second.said[0]
        assert held.folder.is_dir()
    assert not held.folder.exists()


def test_a_genetic_search_keeps_checkpoints_as_training_does(cache: Path) -> None:
    parameters = RingABellParameters().model_dump(mode="json")
    with training_session(unit("attack", parameters=parameters)) as session:
        assert session.folder is not None and session.folder.is_dir()


def test_a_failure_keeps_the_checkpoints_and_a_cache_that_cannot_be_written_keeps_none(cache: Path) -> None:
    with pytest.raises(RuntimeError), training_session(UNIT) as session:
        raise RuntimeError
    assert session.folder is not None and session.folder.is_dir()
    session.folder.rmdir()
    session.folder.parent.rmdir()
    (cache / "trainings").write_text("a file")
    listener = Lines()
    with training_session(UNIT, listener) as session:
        assert session.folder is None and "cannot be written" in listener.said[0]


def test_what_does_not_train_keeps_nothing(cache: Path) -> None:
    still = (unit("erase", parameters={"guide": ""}), unit("erase", checkpoint="a" * 64, claim="uce"), unit("generate"))
    for one in still:
        with training_session(one) as session:
            assert session.folder is None
    assert not cache.exists()
