"""The order in which a spread run computes: a unit begins when what it needs is there, and never when it cannot be."""

from __future__ import annotations

import copy
import dataclasses
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NoReturn
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.futures import PrefectConcurrentFuture, PrefectFuture
from prefect.states import Completed

from audit.compute.worker import UnitReport, Worker
from audit.diffusion.devices import require_device
from audit.errors import EnvironmentProblem
from audit.machine import threads
from audit.plan.document import Plan, read_plan
from audit.plan.identities import Unit
from audit.plan.installation import installation
from audit.plan.stored_tables import StoredTable, TableWriter
from audit.plan.tables import UNIT_COLUMNS, UNITS_SCHEMA
from audit.progress import Silent
from audit.storage.journal import Journal
from flows.cli import main
from flows.commands import run as commands
from tasks import context, spread, stages
from tasks.context import Run, Settings
from tasks.fitness import MachineRefused, refusal
from tasks.opening import open_run
from tasks.runners import Processes, require_runner
from tests.bench.sleeping import blank_rows
from tests.flows.audits import plan_run, tiny_spec

MANY = 1_000  # units


class Quiet:
    """A stage's progress that shows nothing: outside of a flow there is nowhere to show it."""

    def __init__(self, *about: object) -> None:
        pass

    def show(self, done: int) -> None:
        pass

    def end(self) -> None:
        pass


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Path, str, Plan]:
    folder = tmp_path_factory.mktemp("spread")
    run_id = plan_run(tiny_spec(folder, tiny_folder, unit_size=1), folder / "runs")
    return folder / "runs", run_id, read_plan(Journal(str(folder / "runs")), run_id)


@pytest.fixture
def run(planned: tuple[Path, str, Plan], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(spread, "StageProgress", Quiet)
    root, run_id, _ = planned
    return Run(run_id, str(root), Settings())


def test_every_unit_begins_after_what_it_depends_on(run: Run, planned: tuple[Path, str, Plan]) -> None:
    pending, flying, done = spread._Pending(run), [], list[str]()
    while (unit := pending.next()) is not None or flying:
        if unit is not None:
            assert set(unit.depends) <= set(done)
            flying.append(unit)
        if unit is None or len(flying) > 3:  # some units are always under way, and the last to begin ends first
            ended = flying.pop()
            done.append(ended.key)
            pending.available(ended.key)
            pending.stages[ended.kind].settle()
    assert pending.exhausted
    assert sorted(done) == sorted(planned[2].units["key"].to_pylist())


def test_what_depends_on_a_failed_unit_is_not_tried_and_everything_else_is(run: Run) -> None:
    pending = spread._Pending(run)
    (broken,) = run.plan.units_of("erase")
    tried = set[str]()
    while (unit := pending.next()) is not None:
        tried.add(unit.key)
        (pending.abandon if unit.key == broken.key else pending.available)(unit.key)

    def needs(key: str) -> bool:
        depends = dict(zip(run.plan.units["key"].to_pylist(), run.plan.units["depends"].to_pylist(), strict=True))
        return key == broken.key or any(needs(other) for other in depends[key])

    expected = {key for key in run.plan.units["key"].to_pylist() if key == broken.key or not needs(key)}
    assert tried == expected
    failures = [failure for stage in pending.stages.values() for failure in stage.failures]
    assert len(failures) == run.plan.units.num_rows - len(tried) > 0
    assert all(failure.message.startswith("not tried: unit ") for failure in failures)


def test_rows_that_an_earlier_try_left_are_enough_to_go_on_with(run: Run) -> None:
    (erase,) = run.plan.units_of("erase")
    run.journal.write("erase", erase.key, blank_rows("erase", 1, "error"), {"identity": {}})
    assert erase.key in run.journal.listing("erase").failed
    pending = spread._Pending(run)
    waiting = {row for rows in pending._waiting.values() for row in rows}
    pending.abandon(erase.key)
    assert waiting - set(pending._needs)  # they begin
    assert not any(stage.failures for stage in pending.stages.values())


def test_a_machine_that_cannot_compute_ends_a_run_on_its_processes() -> None:
    with pytest.raises(EnvironmentProblem, match="this machine cannot compute the run: torch is older") as caught:
        Processes.exclude(object(), refusal("torch is older"))  # type: ignore[arg-type]
    assert "start a new run" in str(caught.value.next_step)


def test_a_lost_gpu_ends_a_run_on_processes_with_the_command_that_goes_on(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The unit is not journalled, and nothing says that the run was planned with something else."""
    unit = next(run.plan.units_of("erase"))

    def gone() -> None:
        raise RuntimeError("CUDA error: unspecified launch failure")

    def lost(self: Worker, unit: Unit, listener: object = None) -> UnitReport:
        require_device(RuntimeError("CUDA error: unspecified launch failure"), answers=gone)
        raise AssertionError("the device answers")

    monkeypatch.setattr(Worker, "run", lost)
    with pytest.raises(MachineRefused) as refused:
        stages._UNITS["erase"].fn(run, unit, installation(run.spec))
    with pytest.raises(EnvironmentProblem, match="the GPU stopped answering: RuntimeError: CUDA error") as caught:
        Processes.exclude(object(), copy.copy(refused.value))  # type: ignore[arg-type]
    assert "erasure-audit resume" in str(caught.value.next_step) and not run.journal.keys("erase")


def test_a_cluster_whose_last_gpu_is_lost_says_what_helps_with_that() -> None:
    from tasks.ray_runner import RayRunner

    class Empty:
        _excluded, _asked, _address = set[str](), None, "ray://head:10001"

        def slots(self) -> int:
            return 0

    for own, said in ((None, "install on every node"), ("look at nvidia-smi", "look at nvidia-smi")):
        with pytest.raises(EnvironmentProblem, match="no node of the Ray cluster can compute this run: gone") as caught:
            RayRunner.exclude(Empty(), refusal("gone", own))  # type: ignore[arg-type]
        assert str(caught.value.next_step).startswith(said)


class Deserted:
    """A cluster that has lost all its nodes."""

    falls_together = False

    def slots(self) -> int:
        return 0

    def submit(self, task: object, parameters: dict[str, object]) -> NoReturn:
        raise AssertionError("nowhere to compute")

    def exclude(self, refused: MachineRefused) -> None:
        raise AssertionError("nobody refused")

    def mend(self, error: BaseException) -> bool:
        return False


def test_a_cluster_without_nodes_is_waited_for_and_then_given_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spread, "LOOK_SECONDS", 0.01)
    monkeypatch.setattr(spread, "PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr(spread, "reporter", lambda: Silent())  # there is no flow whose log could be written
    dispatch = spread._Dispatch(run, Deserted(), spread._Pending(run), {}, frozenset())
    with pytest.raises(EnvironmentProblem, match="no machine that could compute a unit came") as caught:
        dispatch.run()
    assert "erasure-audit resume" in str(caught.value.next_step)


class ThreeThreads:
    """A runner of three slots that counts what it holds, and begins nothing until it holds `enough`."""

    falls_together = False

    def __init__(self, enough: int) -> None:
        self._enough, self._filled, self._lock = enough, threading.Event(), threading.Lock()
        self._threads = ThreadPoolExecutor(3)
        self.held = self.most = self.ended = 0

    def slots(self) -> int:
        return 3

    def submit(self, task: object, parameters: dict[str, Any]) -> PrefectFuture[UnitReport]:
        with self._lock:
            self.held += 1
            self.most = max(self.most, self.held)
        if self.held >= self._enough:
            self._filled.set()
        wrapped = self._threads.submit(self._compute, parameters["unit"])
        return PrefectConcurrentFuture(task_run_id=uuid4(), wrapped_future=wrapped)

    def _compute(self, unit: Unit) -> State[UnitReport]:
        self._filled.wait(60.0)
        with self._lock:
            self.held -= 1
            self.ended += 1
        return Completed(data=UnitReport(unit.kind, unit.key, 1, 0, 0, 0, 0.0))

    def exclude(self, refused: MachineRefused) -> None:
        raise AssertionError("nobody refused")

    def mend(self, error: BaseException) -> bool:
        return False


def test_a_runner_never_holds_more_than_two_units_for_each_slot(
    planned: tuple[Path, str, Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many units the run has: they wait here and not in a scheduler, whose memory they would fill."""
    root, run_id, plan = planned
    monkeypatch.setattr(spread, "StageProgress", Quiet)
    erase = next(row for row in plan.units.to_pylist() if row["kind"] == "erase")
    columns = {name: [value] * MANY for name, value in erase.items()}
    writer = TableWriter(UNITS_SCHEMA, 1000)
    writer.add({**columns, "key": [f"{number:064x}" for number in range(MANY)]})
    units = StoredTable.of_bytes(writer.close(), UNITS_SCHEMA, UNIT_COLUMNS)
    many = Run(run_id, str(root), Settings())
    context.forget()
    many.keep(dataclasses.replace(plan, units=units))
    runner = ThreeThreads(enough=6)
    try:
        pending = spread._Pending(many)
        spread._Dispatch(many, runner, pending, {"erase": stages._UNITS["erase"]}, frozenset()).run()
    finally:
        context.forget()

    assert pending.stages["erase"].report().computed == runner.ended == MANY
    assert runner.most == 6


def test_processes_stay_within_the_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a core of a machine with many is one process, not one for each core."""
    monkeypatch.setattr(threads, "affinity", lambda: 64)
    monkeypatch.setattr(threads, "cpu_quota", lambda: 0.5)
    with Processes(None) as processes:
        assert processes.slots() == 1


def test_compiling_is_chosen_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASURE_AUDIT_COMPILE", "cuda-graphs")
    assert Settings().compile_with == "cuda-graphs"
    monkeypatch.setenv("ERASURE_AUDIT_COMPILE", "nvcc")
    with pytest.raises(ValueError, match="'inductor' or 'cuda-graphs'"):
        Settings()


def test_a_runner_of_the_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ERASURE_AUDIT_RUNNER", "ray")
    monkeypatch.delenv("ERASURE_AUDIT_RAY_ADDRESS", raising=False)
    assert Settings().runner == "ray"
    with pytest.raises(EnvironmentProblem, match="needs the address of a cluster"):
        require_runner(Settings())
    monkeypatch.setenv("ERASURE_AUDIT_RUNNER", "dask")
    with pytest.raises(ValueError, match="'inline', 'processes' or 'ray'"):
        Settings()


CLUSTER = "ray://head-node:10001"


@pytest.mark.parametrize("runner", ["inline", "processes"])
def test_the_address_of_the_environment_is_for_the_ray_runner_alone(
    runner: Literal["inline", "processes"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERASURE_AUDIT_RAY_ADDRESS", CLUSTER)
    require_runner(Settings(runner=runner))
    assert Settings(runner="ray").address == CLUSTER
    assert Settings(runner="ray", address="ray://other:1").address == "ray://other:1"
    with pytest.raises(EnvironmentProblem, match="only of use to the Ray runner"):
        require_runner(Settings(runner=runner, address=CLUSTER))


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ([], {}, ("inline", None)),
        (["--runner", "ray"], {}, ("ray", CLUSTER)),
        (["--runner", "ray", "--address", "ray://other:1"], {}, ("ray", "ray://other:1")),
        ([], {"ERASURE_AUDIT_RUNNER": "ray"}, ("ray", CLUSTER)),
        (["--runner", "inline"], {"ERASURE_AUDIT_RUNNER": "ray"}, ("inline", None)),
    ],
)
def test_a_command_takes_the_address_of_the_environment_where_it_runs_on_ray(
    arguments: list[str], variables: dict[str, str], expected: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = list[tuple[str, str | None]]()

    def audit(spec: object, root: object, run_id: object, settings: Callable[[], Settings], *more: object) -> int:
        taken.append((settings().runner, settings().address))
        return 0

    monkeypatch.setattr(commands, "_audit", audit)
    monkeypatch.setattr("tasks.runners.require_runner", lambda settings: None)
    for name, value in {"ERASURE_AUDIT_RAY_ADDRESS": CLUSTER, **variables}.items():
        monkeypatch.setenv(name, value)
    assert main(["resume", "RUN", *arguments]) == 0
    assert taken == [expected]


def test_a_helper_computes_in_its_own_process_whatever_the_environment_says_of_runs(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ERASURE_AUDIT_RUNNER", "ray")  # without an address, and here without a Prefect server
    assert open_run(None, run.root, run.run_id, None, concludes=False).run_id == run.run_id
    with pytest.raises(EnvironmentProblem, match="needs the address of a cluster"):
        open_run(None, run.root, run.run_id, None)


@pytest.mark.parametrize("address", ["head-node", "http://head:1", "ray://head:x", "ray://"])
def test_what_is_no_address_is_refused_at_once(address: str) -> None:
    from tasks.ray_runner import RayRunner

    with (
        pytest.raises(EnvironmentProblem, match="is no address of a Ray cluster"),
        RayRunner.connected(Settings(runner="ray", address=address)),
    ):
        pass


def test_an_address_that_does_not_answer_is_one_message() -> None:
    from tasks.ray_runner import RayRunner

    with (
        pytest.raises(EnvironmentProblem, match="the Ray cluster does not answer: Connection refused"),
        RayRunner.connected(Settings(runner="ray", address="ray://127.0.0.1:1")),
    ):
        pass
