"""How deep the code is: our own calls between the command and the networks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.audits import tiny_spec
from tests.flows.servers import clean_environment

pytestmark = [pytest.mark.slow, pytest.mark.server, pytest.mark.timeout(1800)]
REPOSITORY = Path(__file__).resolve().parents[2]
MOST = {"generate": 13, "invert": 14}

# Writes the deepest stack of each stage, as `file:function` from the command to the UNet, our own frames alone.
PROGRAM = """
import json, sys, traceback
from pathlib import Path
from diffusers import UNet2DConditionModel
from flows.cli import main

root, stacks, forward = Path.cwd(), {}, UNet2DConditionModel.forward

def counted(self, *arguments, **options):
    found = traceback.extract_stack()
    own = [frame for frame in found if Path(frame.filename).is_relative_to(root)]
    names = [f"{Path(frame.filename).relative_to(root)}:{frame.name}" for frame in own]
    names = [name for name in names if name.partition("/")[0] in ("audit", "flows", "tasks")]
    stage = next(name for name in names if "/stages/" in name)
    stacks[stage] = max(stacks.get(stage, []), names, key=len)
    return forward(self, *arguments, **options)

UNet2DConditionModel.forward = counted
code = main(sys.argv[2:])
Path(sys.argv[1]).write_text(json.dumps(stacks))
sys.exit(code)
"""


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> dict[str, list[str]]:
    folder = tmp_path_factory.mktemp("frames")
    spec, found = tiny_spec(folder, tiny_folder), folder / "stacks.json"
    command = [sys.executable, "-c", PROGRAM, str(found), "run", str(spec), "--root", str(folder / "runs")]
    environment = {**clean_environment(folder / "home"), "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3, 4), done.stderr
    read: dict[str, list[str]] = json.loads(found.read_text())
    return read


@pytest.mark.parametrize("stage", MOST)
def test_few_of_our_own_calls_lie_between_the_command_and_the_unet(stacks: dict[str, list[str]], stage: str) -> None:
    stack = stacks[f"audit/compute/stages/{stage}.py:run_{stage}"]
    assert stack[0] == "flows/cli.py:main"
    assert len(stack) <= MOST[stage], "\n".join(stack)
