"""The processes of `--runner processes`: what each of them sees while it computes a unit."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import cast

import pytest
import torch

from audit.compute.worker import UnitReport, Worker
from audit.machine import threads
from audit.plan.identities import Unit
from audit.plan.installation import installation
from flows.temporary_server import prefect_api
from tasks import pool_process, runners, stages
from tasks.context import Run, Settings
from tests.flows.audits import plan_run, tiny_spec
from tests.flows.servers import clean_environment, prefect_settings

TOGETHER_SECONDS = 240.0  # until two processes have imported everything, on a machine that others keep busy


class Witness:
    """A worker that computes nothing and reports what its process sees, once two processes have a unit."""

    device = torch.device("cuda", 0)  # which torch would have found

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def run(self, unit: Unit, listener: object = None) -> UnitReport:
        (self._folder / f"{os.getpid()}.process").touch()
        deadline = time.monotonic() + TOGETHER_SECONDS
        while len(list(self._folder.glob("*.process"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        seen = {name: os.environ.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", threads.COUNT)}
        return UnitReport(unit.kind, json.dumps({**seen, "torch": str(torch.get_num_threads())}), 0, 0, 0, 0, 0.0)


@dataclasses.dataclass(frozen=True)
class WitnessedRun(Run):
    """A planned run whose units are given to a witness."""

    folder: str = ""

    @property
    def worker(self) -> Worker:
        return cast("Worker", Witness(Path(self.folder)))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, prefect_home: Path) -> list[dict[str, str]]:
    """What two processes see while each computes a unit, on a machine with the GPUs 4 and 7 and seven cores for this run."""
    folder = tmp_path_factory.mktemp("pool")
    root = str(folder / "runs")
    run = WitnessedRun(plan_run(tiny_spec(folder, tiny_folder), root), root, Settings(), folder=str(folder))
    unit = next(run.plan.units_of("erase"))
    parameters: dict[str, object] = {"run": run, "unit": unit, "expected": installation(run.plan.spec)}
    with (
        pytest.MonkeyPatch.context() as patch,
        prefect_settings(clean_environment(prefect_home)),
        prefect_api(meanwhile=lambda: None),
    ):
        patch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
        patch.setattr(runners, "_gpus", lambda: 2)
        patch.setenv(threads.COUNT, "7")  # as a control group's quota has it set
        patch.setattr(threads, "_settled", {threads.COUNT})
        patch.setattr(threads, "usable_cores", lambda: 7)
        with runners.Processes(2) as processes:
            futures = [processes.submit(stages._UNITS["erase"], parameters) for _ in range(2)]
            reports: list[UnitReport] = [future.result() for future in futures]
    return [json.loads(report.key) for report in reports]


def test_a_process_takes_its_gpu_and_threads_back_after_prefect_has_set_its_parents_variables(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (pool_process.VISIBLE, threads.COUNT):
        monkeypatch.setenv(name, "4,7")  # and put back after the test
    monkeypatch.setattr(pool_process, "_own", {})
    monkeypatch.setattr(pool_process.multiprocessing.current_process(), "_name", "ForkProcess-2")
    count = torch.get_num_threads()
    try:
        pool_process._take_gpu(2)
        pool_process._take_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(count)
    os.environ.update({pool_process.VISIBLE: "4,7", threads.COUNT: "7"})
    pool_process.restore_environment()
    assert (os.environ[pool_process.VISIBLE], os.environ[threads.COUNT]) == ("7", "1")


@pytest.mark.slow
@pytest.mark.server
def test_each_process_keeps_a_gpu_of_its_own_where_the_environment_names_several(seen: list[dict[str, str]]) -> None:
    """Prefect gives each task the environment of the parent, in which all of them are visible."""
    assert sorted(variables["CUDA_VISIBLE_DEVICES"] for variables in seen) == ["4", "7"]


@pytest.mark.slow
@pytest.mark.server
def test_processes_share_the_cores(seen: list[dict[str, str]]) -> None:
    assert [(variables["torch"], variables[threads.COUNT]) for variables in seen] == [("3", "3")] * 2
