"""The README and the deployments say what the code does: commands can be typed and run, targets and specs exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main

from audit.spec.document import load_spec
from audit.storage.journal import Journal
from flows.cli import app, main
from tests.synthetic import Run

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FENCED = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]
INLINE = [" ".join(line.split()) for line in re.findall(r"`(erasure-audit [^`]+)`", README)]
# What the README's lines begin with, and the exit code that they end with here: no weights but the testbed's are at hand.
CHEAP = {
    "erasure-audit testbed scenes": 0,
    "erasure-audit plan deployments/specs/demo.yaml": 0,
    "erasure-audit plan deployments/specs/m-erasurebench-sd14.yaml": 2,  # priced, and what it lacks is listed
    "erasure-audit doctor": 2,
    "erasure-audit inspect CHECKPOINT": 0,
    "erasure-audit db sql": 0,
}
ELSEWHERE = {
    "make ": "its targets are looked up below",
    "source ": "the tests run in the environment that it switches on",
    "erasure-audit run deployments/specs/demo.yaml": "takes minutes: tests/test_quickstart.py",
    "erasure-audit plan deployments/specs/sd14.yaml --measure": "times Stable Diffusion's UNet on a corpus in a bucket",
    "erasure-audit run deployments/specs/sd14.yaml": "needs Stable Diffusion's weights",
    "erasure-audit tune irece deployments/specs/tune-testbed.yaml": "audits 18 candidates: tests/tuning/test_tune_command.py",
    "erasure-audit export-embedding RUN_ID": "needs a run that learned one: tests/attacks",
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The click command that `words` name, and the words that are left."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", [line for line in [*FENCED, *INLINE] if line.startswith("erasure-audit")])
def test_every_command_of_the_readme_can_be_typed(line: str) -> None:
    """Its options and its arguments are parsed as the command line parses them; nothing is run."""
    command, rest = resolve(shlex.split(line)[1:])
    assert not hasattr(command, "commands"), f"{line}: no such command"
    command.make_context(line, list(rest))


@pytest.mark.parametrize(
    "line", ["erasure-audit db publish here there", "erasure-audit run", "erasure-audit doctor --fast"]
)
def test_a_command_that_cannot_be_typed_is_noticed(line: str) -> None:
    command, rest = resolve(shlex.split(line)[1:])
    with pytest.raises(Exception, match=r"unexpected extra argument|Missing parameter|No such option"):
        command.make_context(line, list(rest))


@pytest.mark.parametrize("line", FENCED)
def test_every_line_of_the_readme_is_run_somewhere(line: str) -> None:
    assert len([start for start in (*CHEAP, *ELSEWHERE) if line.startswith(start)]) == 1


def test_the_readme_s_lines_that_need_only_the_testbed_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other in one folder, as a reader would type them."""
    shutil.copytree(ROOT / "deployments", tmp_path / "deployments")
    monkeypatch.chdir(tmp_path)
    Run().write(Journal("runs"))
    assert main(["db", "rebuild"]) == 0
    printed = {}
    for start, code in CHEAP.items():
        lines = [line for line in FENCED if line.startswith(start)]
        assert lines, start
        for line in lines:
            capsys.readouterr()
            words = shlex.split(line.replace("CHECKPOINT", str(ROOT / "audit/testbed/erased/esd-x-ring")))
            found = main(words[1:])
            told = capsys.readouterr()
            assert found == code, f"{line}\n{told.out}\n{told.err}"
            printed[start] = told.out
    assert len(list((tmp_path / "demo/corpus/ring").glob("*.png"))) == 32
    assert len(list((tmp_path / "demo/corpus/arrow").glob("*.png"))) == 16
    for start in ("erasure-audit plan deployments/specs/demo.yaml", "erasure-audit plan deployments/specs/m-erasure"):
        (told_by,) = [out for line, out in printed.items() if line.startswith(start)]
        assert re.search(r"^UNet calls +[\d,]+", told_by, re.M), told_by
    assert re.search(r"PROBLEM +backbone", printed["erasure-audit doctor"])
    assert "esd-x" in printed["erasure-audit inspect CHECKPOINT"]


def test_every_command_is_in_the_readme() -> None:
    top: Any = typer.main.get_command(app)
    assert len(top.commands) > 5
    assert [name for name in top.commands if f"erasure-audit {name}" not in README] == []


@pytest.mark.parametrize("line", [line for line in FENCED if line.startswith("make ")])
def test_every_make_target_of_the_readme_exists(line: str) -> None:
    assert set(line.split()[1:]) <= TARGETS


@pytest.mark.parametrize("path", sorted((ROOT / "deployments" / "specs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid(path: Path) -> None:
    assert load_spec(path).name


def test_links_and_pictures_of_the_readme_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert [target for target in targets if not (ROOT / target).exists()] == []
