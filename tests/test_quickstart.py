"""`make demo`, as a reader runs it: the console script in an empty folder, to the verdict and the report."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.servers import clean_environment
from tests.test_docs import FENCED

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parent.parent
SCRIPT = Path(sys.executable).with_name("erasure-audit")
LATENT = ("latent-whitebox", "latent-blackbox")


def demo_lines() -> list[str]:
    """What the target `demo` runs, without the path of the script."""
    found = re.search(r"^demo:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert found
    return [line.strip().removeprefix("$(BIN)/") for line in found[1].splitlines()]


class Folder:
    """A folder with a copy of the deployments, and what was run in it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(ROOT / "deployments", path / "deployments")
        home = {"XDG_CACHE_HOME": str(path / "cache"), "PYTHONPATH": str(ROOT)}
        self.environment = {**clean_environment(path / "prefect"), **home}
        self.environment["PATH"] = f"{SCRIPT.parent}{os.pathsep}{os.environ['PATH']}"  # the activated environment

    def run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shlex.split(line), cwd=self.path, env=self.environment, capture_output=True, text=True,
            stdin=subprocess.DEVNULL, check=False, timeout=1800,
        )  # fmt: skip


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Folder, subprocess.CompletedProcess[str]]]:
    """The folder of a finished `make demo`, and what its last line printed."""
    if not SCRIPT.exists():
        pytest.skip("the package is not installed: there is no console script")
    folder = Folder(tmp_path_factory.mktemp("demo"))
    lines = demo_lines()
    assert len(lines) == 3
    for line in lines:
        done = folder.run(line)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    yield folder, done


def decided(printed: str, scenario: str) -> dict[str, str]:
    """Judge -> decision of the erased model's row for a scenario, as the table prints them."""
    rows = re.findall(rf"^\W*([A-Z]+)\s+ring\s+uce\s+{scenario}\s+(\S+)", printed, re.M)
    return {judge: status for status, judge in rows}


def test_the_demo_prints_text_held_and_latents_back(demo: tuple[Folder, subprocess.CompletedProcess[str]]) -> None:
    printed = demo[1].stdout
    assert re.match(r"\W*FAIL\s+testbed-demo", printed), printed
    assert decided(printed, "text") == {"clip-judge": "PASS", "classifier": "PASS"}, printed
    for scenario in LATENT:
        assert decided(printed, scenario) == {"clip-judge": "FAIL", "classifier": "FAIL"}, printed


def test_the_demo_names_its_report_and_a_next_command_that_runs(
    demo: tuple[Folder, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = demo
    (report,) = re.findall(r"^report +(\S+)$", done.stdout, re.M)
    reports = (folder.path / report).parent
    assert {path.name for path in reports.iterdir()} >= {"report.html", "report.md", "report.json", "junit.xml"}
    (line,) = re.findall(r"^next +(erasure-audit .+)$", done.stdout, re.M)
    again = folder.run(line)
    assert again.returncode == 3, again.stderr
    assert again.stdout.startswith("#"), again.stdout  # the same result as Markdown
    rows = re.findall(r"^\| \W*([A-Z]+) \| ring \| uce \| latent-whitebox \| (\S+) \|", again.stdout, re.M)
    assert {judge: status for status, judge in rows} == decided(done.stdout, "latent-whitebox")


def test_the_readme_s_step_by_step_lines_end_in_the_same_verdict(
    demo: tuple[Folder, subprocess.CompletedProcess[str]],
) -> None:
    """In the demo's folder, whose journal already holds every unit: nothing is computed twice."""
    folder, done = demo
    start = FENCED.index("source .venv/bin/activate") + 1
    lines = FENCED[start : start + 4]
    assert [line.split()[1] for line in lines] == ["testbed", "testbed", "plan", "run"]
    units = sorted((folder.path / "runs" / "units").rglob("*.parquet"))
    *before, last = [folder.run(line) for line in lines]
    assert [step.returncode for step in before] == [0, 0, 0]
    assert last.returncode == 3, last.stderr
    assert decided(last.stdout, "text") == decided(done.stdout, "text")
    assert sorted((folder.path / "runs" / "units").rglob("*.parquet")) == units


def test_the_index_of_the_demo_answers(demo: tuple[Folder, subprocess.CompletedProcess[str]]) -> None:
    rate = (
        "select hits, assessed from mart_crr where defence = 'uce' and scenario = 'latent-whitebox' and role = 'target'"
    )
    asked = demo[0].run(f"erasure-audit db sql {shlex.quote(rate)}")
    assert asked.returncode == 0, asked.stderr
    assert re.search(r"\b24\b", asked.stdout), asked.stdout
