"""A chain of edits and erasures that is killed in its middle, and goes on with another runner, ends in the same tables."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit import locations
from audit.plan.document import Plan, read_plan
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from tests.flows.audits import tiny_spec
from tests.flows.servers import cli, prefect_server, process, wait_for
from tests.flows.test_kill import PROGRAM, REPOSITORY, VERDICTS, ended, tables

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]
RUNNERS = {"inline": (), "processes": ("--runner", "processes", "--workers", "2")}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home", REPOSITORY) as environment:
        yield environment


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cycles of a trained eraser, so that a kill finds something half done in every link."""
    folder = tmp_path_factory.mktemp("spec")
    write_corpus(str(folder / "corpus" / "arrow"), "arrow", 3, "audit")
    erasing = {"iterations": 15, "batch_size": 1, "steps": 2, "pool": 2}
    cycles = {
        "name": "cycles", "control_concept": "arrow", "cycles": 2, "steps": 15, "cases": 2, "neighbour_cases": 1,
        "benign_cases": 2, "parameters": {"batch_size": 1, "images": 2}, "sampler": {"steps": 2, "guidance": 3.0},
    }  # fmt: skip
    return tiny_spec(
        folder,
        Path("testbed"),
        concepts=[{"name": "ring", "phrase": "ring", "neighbours": ["star"]}],
        corpus=[
            {"url": str(folder / "corpus" / "ring"), "concept": "ring"},
            {"url": str(folder / "corpus" / "arrow"), "concept": "arrow", "role": "control"},
        ],
        defences=[{"name": "esd-x", "eraser": {"method": "esd-x", "preset": "testbed", "parameters": erasing}}],
        scenarios=[cycles],
        detectors=[{"name": "classifier", "kind": "classifier", "model": "testbed/classifier"}],
        quality=[{"name": "ssim", "kind": "ssim"}],
        gate={
            "version": "1",
            "judges": ["classifier"],
            "limits": [{"crr_max": 0.3}],
            "retention_waived": "two steps draw nothing that could survive",
            "damage_waived": "two steps draw nothing that could be damaged",
        },
        unit_size=2,
    )


@pytest.fixture(scope="module")
def expected(server: dict[str, str], spec: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("undisturbed")
    done = cli(
        {**server, "XDG_CACHE_HOME": str(folder / "cache")},
        REPOSITORY,
        "run",
        str(spec),
        "--root",
        str(folder / "runs"),
    )
    assert done.returncode in VERDICTS, done.stderr
    (run_id,) = Journal(str(folder / "runs")).runs()
    found = tables(folder / "runs", run_id)
    stages = {(row["defence"], row["subject"], row["stage_no"]) for row in found["mart_stages"]}
    assert {stage for defence, subject, stage in stages if (defence, subject) == ("esd-x", "ring")} == set(range(5))
    assert {row["stage_no"] for row in found["mart_retention"]} == set(range(5))
    return found


def links(plan: Plan) -> dict[str, str]:
    """The units of the chain's second cycle: name -> key."""
    _, again, _ = plan.units_of("erase")
    edit = next(unit for unit in plan.units_of("attack") if again.key in unit.depends)
    return {"erasing again": again.key, "editing again": edit.key}


def planned(root: Path) -> Plan | None:
    journal = Journal(str(root))
    return next((read_plan(journal, run_id) for run_id in journal.runs()), None)


@pytest.mark.parametrize(
    ("link", "first", "then"),
    [("erasing again", "inline", "processes"), ("editing again", "processes", "inline")],
)
def test_a_chain_that_is_killed_goes_on_with_another_runner_to_the_same_tables(
    link: str, first: str, then: str, server: dict[str, str], spec: Path, expected: dict[str, Any], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    root, log = tmp_path / "runs", tmp_path / "run.log"
    environment = {**server, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    command = [sys.executable, "-c", PROGRAM, "run", str(spec), "--root", str(root), *RUNNERS[first]]
    with process(command, environment, log, REPOSITORY) as child:

        def alive() -> bool:
            assert child.poll() is None, f"the run ended before {link}:\n{log.read_text(errors='replace')[-3000:]}"
            return True

        plan = wait_for("the plan", lambda: alive() and planned(root), 600, log, pause=0.05)
        folder = locations.trainings_folder() / links(plan)[link]
        # A process of the pool keeps its checkpoints once a minute, as a user's does: this training begins anew.
        begun = (lambda: any(folder.glob("*.pt"))) if first == "inline" else folder.exists
        wait_for(link, lambda: alive() and begun(), 600, log, pause=0.01)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        assert ended(child, log) == -signal.SIGKILL
    journal, kind = Journal(str(root)), "erase" if link == "erasing again" else "attack"
    assert links(plan)[link] not in journal.keys(kind), "nothing was left of this link: the run was killed too late"

    resumed = cli(environment, REPOSITORY, "resume", plan.run_id, "--root", str(root), *RUNNERS[then])

    assert resumed.returncode in VERDICTS, resumed.stderr
    found = tables(root, plan.run_id)
    assert sorted(found) == sorted(expected)
    for name in expected:
        assert found[name] == expected[name], name
    assert not any(locations.trainings_folder().glob("*")), "a checkpoint outlived its unit"
