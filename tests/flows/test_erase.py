"""The erase flow, as a GPU worker runs it: an artefact in a folder, and one message for a mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.servers import clean_environment

pytestmark = [pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
_RUN = """
import sys
from flows.erase import erase
print(erase(sys.argv[1], ["abc"], sys.argv[2], backbone=sys.argv[3], device="cpu", settings=["stored=float32"]))
"""


def run(folder: Path, method: str, backbone: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _RUN, method, str(folder / "out"), str(backbone)]
    environment = clean_environment(folder / "home")
    return subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)


def test_the_flow_makes_an_artefact(tiny_folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "uce", tiny_folder)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip().splitlines()[-1])
    assert path.is_file() and (path.parent / "README.md").is_file()


def test_the_flow_refuses_a_method_that_would_train_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    done = run(tmp_path, "xattn", tiny_folder)
    assert done.returncode != 0
    assert "did you mean esd-x?" in done.stderr
    assert not (tmp_path / "out").exists()
