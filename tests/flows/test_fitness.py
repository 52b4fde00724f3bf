"""A machine that would compute something else than the run was planned with is told so, and computes nothing."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from audit.errors import EnvironmentProblem
from audit.plan.installation import installation
from tasks import context, fitness, pool_process
from tasks.context import Run, Settings
from tasks.fitness import MachineRefused, require_fit
from tasks.runners import require_runner
from tests.flows.audits import plan_run, tiny_spec


@pytest.fixture
def run(tmp_path: Path, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    run_id = plan_run(tiny_spec(tmp_path, tiny_copy), tmp_path / "runs")
    fitness._problem.cache_clear()
    context.forget()
    yield Run(run_id, str(tmp_path / "runs"), Settings(device="cpu"))
    fitness._problem.cache_clear()
    context.forget()


def refused(run: Run, expected: dict[str, str]) -> str:
    with pytest.raises(MachineRefused) as caught:
        require_fit(run, expected)
    assert not any(run.journal.keys(kind) for kind in ("erase", "generate"))
    return str(caught.value)


def test_the_machine_that_planned_the_run_is_fit(run: Run) -> None:
    require_fit(run, installation(run.spec))


def test_another_version_and_other_code_are_named(run: Run) -> None:
    expected = {**installation(run.spec), "torch": "1.0", "the code of generate units": "0" * 64}
    said = refused(run, expected)
    assert "torch is " in said and "the run has 1.0" in said and "the code of generate units is " in said


def test_weights_that_are_not_here_are_named(run: Run, tiny_copy: Path, tmp_path: Path) -> None:
    expected = installation(run.spec)
    shutil.move(tiny_copy, tmp_path / "elsewhere")
    assert f"backbone {tiny_copy} is missing (there is no such model folder)" in refused(run, expected)


def test_a_storage_root_that_is_not_shared_is_named(run: Run, tmp_path: Path) -> None:
    expected = installation(run.spec)
    elsewhere = Run(run.run_id, str(tmp_path / "another"), run.settings)
    with pytest.raises(MachineRefused, match="the storage root must be one that all machines share"):
        require_fit(elsewhere, expected)


class Assigning:
    """What Ray tells a process to which it has given these GPUs."""

    def __init__(self, *gpus: str) -> None:
        self._gpus = list(gpus)

    def get_accelerator_ids(self) -> dict[str, list[str]]:
        return {"GPU": self._gpus, "TPU": []}

    def get_node_id(self) -> str:
        return "node-7"


@pytest.fixture
def assign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Assigning], None]:
    """Ray gives this process GPUs, and torch sees none here."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr("ray.is_initialized", lambda: True)
    return lambda context: monkeypatch.setattr("ray.get_runtime_context", lambda: context)


def test_a_node_whose_gpu_is_gone_does_not_compute_on_its_cpu_instead(
    run: Run, assign: Callable[[Assigning], None]
) -> None:
    assign(Assigning("0"))
    best_device = dataclasses.replace(run, settings=Settings())
    with pytest.raises(MachineRefused, match="a process was given a GPU, and torch finds none") as caught:
        require_fit(best_device, installation(run.spec))
    assert caught.value.node == "node-7"
    assert "nvidia-smi" in str(caught.value.next_step) and "--device cpu" in str(caught.value.next_step)


def test_a_process_of_a_pool_whose_gpu_is_gone_does_not_either(
    run: Run, assign: Callable[[Assigning], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    assign(Assigning())
    monkeypatch.setattr(pool_process, "_gpus", 2)
    with pytest.raises(MachineRefused, match="torch finds none") as caught:
        require_fit(dataclasses.replace(run, settings=Settings()), installation(run.spec))
    assert "--gpus-per-unit" not in str(caught.value.next_step)
    require_fit(run, installation(run.spec))  # with --device cpu


def test_a_node_computes_on_its_cpu_when_asked_to_or_when_it_got_no_gpu(
    run: Run, assign: Callable[[Assigning], None]
) -> None:
    assign(Assigning("0"))
    require_fit(run, installation(run.spec))  # with --device cpu
    assign(Assigning())
    require_fit(dataclasses.replace(run, settings=Settings()), installation(run.spec))


def test_a_runner_without_its_extra_is_refused_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if "ray" in name else found(name))
    with pytest.raises(EnvironmentProblem, match="the Ray runner needs ray and prefect_ray") as caught:
        require_runner(Settings(runner="ray", address="ray://127.0.0.1:1"))
    assert "pip install 'erasure-audit[ray]'" in str(caught.value.next_step)
