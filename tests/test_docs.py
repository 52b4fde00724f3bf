"""The README and the deployments say what the code does: commands can be typed, targets and specs exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from audit.spec import load_spec
from flows.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FENCED = [
    line for block in re.findall(r"```bash\n(.*?)```", README, re.S) for line in block.splitlines() if line.strip()
]
INLINE = [" ".join(line.split()) for line in re.findall(r"`(erasure-audit [^`]+)`", README)]
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
