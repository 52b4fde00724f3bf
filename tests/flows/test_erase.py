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
from audit.errors import AuditError
from flows.erase import erase
for method in ("xattn", "uce"):
    try:
        print(erase(method, ["abc"], sys.argv[1], backbone=sys.argv[2], device="cpu", settings=["stored=float32"]))
    except AuditError as error:
        print(error)
"""


def test_the_flow_makes_an_artefact_and_refuses_a_method_that_would_train_nothing(
    tiny_folder: Path, tmp_path: Path
) -> None:
    """Both in one process, because each starts a server of its own."""
    command = [sys.executable, "-c", _RUN, str(tmp_path / "out"), str(tiny_folder)]
    environment = clean_environment(tmp_path / "home")
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "did you mean esd-x?" in done.stdout
    path = Path(done.stdout.strip().splitlines()[-1])
    assert path.is_file()
    assert {made.name for made in path.parent.iterdir()} == {path.name, "README.md"}  # the refusal left nothing
