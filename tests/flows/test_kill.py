"""Nothing lost, nothing twice: a run killed at any stage and resumed gives the tables of an uninterrupted one."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest

from audit.journal import Journal
from audit.plan import KINDS
from tests.flows.audits import finish_run, tiny_spec
from tests.flows.servers import cli, prefect_server, process, wait_for

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
VERDICTS = (0, 3, 4)
TABLES = ("mart_crr", "mart_unassessed", "mart_attacks", "mart_round_trip", "mart_measurements", "mart_quality")

STAGES: dict[str, Callable[[Path], object]] = {
    "collect": lambda root: list((root / "runs").glob("*/spec.yaml")),
    "plan": lambda root: list((root / "runs").glob("*/manifest.parquet")),
    **{kind: (lambda root, kind=kind: Journal(str(root)).keys(kind)) for kind in KINDS},  # type: ignore[misc]
    "consolidate": lambda root: list((root / "db").glob("*.duckdb")),
    "report": lambda root: list((root / "db" / "published").glob("*.duckdb")),
}


# Two in every run of the tests: a unit with tensors beside its rows, and the index. The others take minutes together.
USUAL = ("invert", "consolidate")
PARAMETERS = [pytest.param(stage, marks=() if stage in USUAL else pytest.mark.slow) for stage in STAGES]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home", REPOSITORY) as environment:
        yield environment


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    sampler = {"steps": 2, "guidance": 3.0}
    learning = {"iterations": 3, "batch_size": 2, "images": 2, "initial": "o", "held_out": 2}
    scenarios = [
        {"name": "text", "cases": 3, "sampler": sampler},
        {"name": "embedding-whitebox", "cases": 2, "sampler": sampler, "parameters": learning},
        {"name": "latent-whitebox", "cases": 3, "sampler": {"steps": 2, "guidance": 1.0}, "fixed_point_passes": 1},
    ]
    quality = [{"name": "ssim", "kind": "ssim"}]
    return tiny_spec(tmp_path_factory.mktemp("spec"), tiny_folder, scenarios=scenarios, quality=quality)


def tables(root: Path, run_id: str) -> dict[str, Any]:
    """All marts of a run without its id, from the newest published index."""
    query = "select * exclude (run_id) from {} where run_id = ? order by all"
    with duckdb.connect(str(max((root / "db" / "published").glob("*.duckdb"))), read_only=True) as con:
        return {name: con.execute(query.format(name), [run_id]).fetchall() for name in TABLES}


@pytest.fixture(scope="module")
def expected(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("uninterrupted") / "runs"
    return tables(root, finish_run(spec, root))


@pytest.mark.parametrize("stage", PARAMETERS)
def test_a_killed_run_resumes_to_the_same_tables(
    stage: str, server: dict[str, str], spec: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    root, log = tmp_path / "runs", tmp_path / "run.log"
    command = [sys.executable, "-m", "flows.cli", "run", str(spec), "--root", str(root)]
    with process(command, server, log, REPOSITORY) as child:
        wait_for(f"the {stage} stage", lambda: STAGES[stage](root) or child.poll() is not None, 600, log)
        os.killpg(child.pid, signal.SIGKILL)
        child.wait(30)
    (folder,) = (root / "runs").iterdir()

    resumed = cli(server, REPOSITORY, "resume", folder.name, "--root", str(root))

    assert resumed.returncode in VERDICTS, resumed.stderr
    assert tables(root, folder.name) == expected
