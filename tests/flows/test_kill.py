"""Nothing lost, nothing twice: a run interrupted in any stage and resumed gives the tables of an uninterrupted one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch

from audit.index.store import latest
from audit.plan.document import KINDS, read_plan
from audit.storage.journal import Journal
from tests.flows.audits import finish_run, spec_of_every_kind
from tests.flows.servers import cli, prefect_server, process, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
VERDICTS = (0, 3, 4)

# The command line, with a checkpoint of a training after every iteration instead of every minute. What a shell starts in
# the background ignores SIGINT, and so would its children.
PROGRAM = """
import functools, signal, sys
from audit.compute import training_folders
training_folders.Session = functools.partial(training_folders.Session, checkpoint_seconds=0.0)
signal.signal(signal.SIGINT, signal.default_int_handler)
from flows.cli import main
sys.exit(main())
"""

NO_RUNS = {"mart_nudenet_presets"}  # constants: counting rules, the same for every run
# What two runs of one spec do not have in common. `facts` is JSON, and holds how long a training took.
TIMES_AND_IDS = {"mart_runs": {"created_at"}}
EVERYWHERE = {"run_id"}
EMPTY = {"mart_nudenet_rules"}  # without NudeNet among the detectors
ACTS = {"mart_verdicts", "mart_decisions"}  # who decided when: not what was computed


@dataclasses.dataclass(frozen=True)
class Run:
    """An interrupted run: the folder that holds its storage root and its cache folder."""

    folder: Path

    @property
    def root(self) -> Path:
        return self.folder / "runs"

    def has(self, pattern: str) -> bool:
        """Whether a file of the run matches."""
        return any(self.folder.glob(pattern))

    def stored(self, kind: str) -> bool:
        """Whether the journal has a unit of this kind."""
        return bool(Journal(str(self.root)).keys(kind))

    def pending(self) -> int:
        """How many planned units the journal lacks."""
        journal = Journal(str(self.root))
        (run_id,) = journal.runs()
        plan = read_plan(journal, run_id)
        return sum(len(plan.pending(kind, journal)) for kind in KINDS)


@dataclasses.dataclass(frozen=True)
class Stage:
    """When a run is in a stage, and what it still lacks when it is interrupted there."""

    begun: Callable[[Run], object]
    lacks: Callable[[Run], object] = Run.pending


def _lacks(pattern: str) -> Callable[[Run], bool]:
    return lambda run: not run.has(pattern)


TRAININGS = "cache/erasure-audit/trainings/*"
STAGES = {
    "collect": Stage(lambda run: run.has("runs/runs/*/spec.yaml"), _lacks("runs/runs/*/plan.json")),
    "plan": Stage(lambda run: run.has("runs/runs/*/manifest.parquet"), _lacks("runs/runs/*/plan.json")),
    "training": Stage(lambda run: run.has(f"{TRAININGS}/*.pt")),  # the eraser's, which is why nothing is stored yet
    "search": Stage(lambda run: run.has(f"{TRAININGS}/*.search")),
    "learning": Stage(lambda run: run.has(f"{TRAININGS}/embeddings.safetensors")),
    **{kind: Stage(lambda run, kind=kind: run.stored(kind)) for kind in KINDS},  # type: ignore[misc]
    "consolidate": Stage(lambda run: run.has("runs/db/*.duckdb"), _lacks("runs/db/published/*.duckdb")),
    "report": Stage(lambda run: run.has("runs/db/published/*.duckdb"), _lacks("runs/reports/*/report.html")),
}

PARAMETERS = [
    pytest.param(number, stage, id=f"{number.name}-{stage}")
    for number in (signal.SIGKILL, signal.SIGINT)
    for stage in STAGES
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with prefect_server(tmp_path_factory.mktemp("prefect") / "home", REPOSITORY) as environment:
        yield environment


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return spec_of_every_kind(tmp_path_factory.mktemp("spec"))


def comparable(mart: str, row: dict[str, Any]) -> dict[str, Any]:
    """A row without times and the run's id."""
    kept = {name: value for name, value in row.items() if name not in EVERYWHERE | TIMES_AND_IDS.get(mart, set())}
    if mart == "mart_erasures":
        facts = json.loads(kept["facts"])
        del facts["record"]["seconds"]
        kept["facts"] = facts
    return kept


def tables(root: Path, run_id: str) -> dict[str, list[dict[str, Any]]]:
    """Every mart of the newest published index, the rows of one run."""
    with duckdb.connect(str(latest(root / "db" / "published")), read_only=True) as con:
        names = con.execute(
            "select view_name from duckdb_views() where not internal and starts_with(view_name, 'mart_') order by all"
        ).fetchall()
        found = {}
        for (name,) in names:
            if name in ACTS:
                continue
            rows = "" if name in NO_RUNS else f"where run_id = '{run_id}'"
            done = con.execute(f"select * from {name} {rows} order by all")
            columns = [column[0] for column in done.description]
            found[name] = [comparable(name, dict(zip(columns, row, strict=True))) for row in done.fetchall()]
        return found


@pytest.fixture(scope="module")
def expected(spec: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tables of a run that nothing interrupted: in this process and without Prefect, which must not matter."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the other processes: how a sum is split shows in its last digits
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
            run_id = finish_run(spec, folder / "runs")
    finally:
        torch.set_num_threads(threads)
    found = tables(folder / "runs", run_id)
    assert len(found) >= 18
    assert {name for name, rows in found.items() if not rows} == EMPTY
    return found


def interrupted(run: Run, stage: str, number: signal.Signals, environment: dict[str, str], spec: Path) -> list[str]:
    """The words of the command that goes on with a run which was alive in `stage` when its group got the signal."""
    log = run.folder / "run.log"
    command = [sys.executable, "-c", PROGRAM, "run", str(spec), "--root", str(run.root)]
    with process(command, environment, log, REPOSITORY) as child:

        def begun() -> object:
            assert child.poll() is None, f"the run ended before {stage}:\n{log.read_text(errors='replace')[-3000:]}"
            return STAGES[stage].begun(run)

        wait_for(f"the {stage} stage", begun, 600, log, pause=0.01)
        with contextlib.suppress(ProcessLookupError):  # it ended by itself; its exit code tells
            os.killpg(child.pid, number)
        code = ended(child, log)
    text = log.read_text(errors="replace")
    if number is signal.SIGKILL:
        assert code == -signal.SIGKILL, text[-3000:]
        (folder,) = (run.root / "runs").iterdir()
        return ["resume", folder.name, "--root", str(run.root)]
    assert code == 130, text[-3000:]
    assert "Traceback" not in text
    (line,) = [line for line in text.splitlines() if line.startswith("resume with: erasure-audit ")]
    return shlex.split(line)[3:]


def ended(child: subprocess.Popen[bytes], log: Path) -> int:
    """The exit code: SIGKILL's negative number proves that the process was alive when it came."""
    try:
        return child.wait(120)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"the run goes on\n{log.read_text(errors='replace')[-3000:]}") from None


@pytest.mark.parametrize(("number", "stage"), PARAMETERS)
def test_an_interrupted_run_resumes_to_the_same_tables(
    number: signal.Signals, stage: str, server: dict[str, str], spec: Path, expected: dict[str, Any], tmp_path: Path
) -> None:
    run, environment = Run(tmp_path), {**server, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    words = interrupted(run, stage, number, environment, spec)
    assert STAGES[stage].lacks(run), "nothing was left to do: the run was not interrupted in this stage"

    resumed = cli(environment, REPOSITORY, *words)

    assert resumed.returncode in VERDICTS, resumed.stderr
    (run_id,) = Journal(str(run.root)).runs()
    found = tables(run.root, run_id)
    assert sorted(found) == sorted(expected)
    for name in expected:
        assert found[name] == expected[name], name
    if stage in ("training", "search", "learning"):
        assert not run.has(f"{TRAININGS}/*"), "a checkpoint outlived its unit"
