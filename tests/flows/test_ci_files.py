"""The GitHub action and the GitLab job: their scripts run as they stand, and call the command line by options that it has."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from flows.cli import app

FOLDER = Path(__file__).parents[2] / "deployments" / "ci"
# Writes its arguments, one a line, and a report, and ends as it is told to.
PROGRAM = """#!/bin/bash
printf '%s\\n' "$@" > "$TOLD"
echo "## a summary"
if [ "$CODE_TO_END_WITH" != 2 ]; then mkdir -p out && touch out/report.sarif; fi
exit "$CODE_TO_END_WITH"
"""
HOSTILE = '$(touch pwned) "; touch pwned; `touch pwned`'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    program = tmp_path / "bin" / "erasure-audit"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    program.chmod(0o755)
    return tmp_path


def ran(place: Path, shell: list[str], script: str, code: int, variables: dict[str, str]) -> tuple[int, str, list[str]]:
    """Exit code, output, and the arguments that the command line got."""
    environment = {
        "PATH": f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "TOLD": str(place / "told"),
        "CODE_TO_END_WITH": str(code),
        "GITHUB_STEP_SUMMARY": str(place / "summary"),
        "GITHUB_OUTPUT": str(place / "output"),
        **variables,
    }
    done = subprocess.run(
        [*shell, "-c", script], cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""
    told = place / "told"
    return done.returncode, done.stdout, told.read_text().splitlines() if told.exists() else []


def parsed(arguments: list[str]) -> dict[str, Any]:
    """The arguments as the command line understands them. Raises for an option that it does not have."""
    command: Any = typer.main.get_command(app)
    gate = command.commands[arguments[0]]
    given: dict[str, Any] = gate.make_context("gate", arguments[1:]).params
    return given


def action() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / "github-action" / "action.yml").read_text())
    return document


def step(name: str) -> dict[str, Any]:
    (found,) = [step for step in action()["runs"]["steps"] if step.get("name") == name]
    return dict(found)


def given(**inputs: str) -> dict[str, str]:
    """The variables of the deciding step, filled from inputs as the runner fills them."""
    defaults = {name: entry.get("default", "") for name, entry in action()["inputs"].items()}
    assert set(inputs) <= set(defaults)
    values = {**defaults, **inputs}
    return {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda found: values[found[1]], text)
        for name, text in step("Decide")["env"].items()
    }


BASH = ["bash", "--noprofile", "--norc", "-eo", "pipefail"]  # as a runner starts it


@pytest.mark.parametrize("code", [0, 2, 3, 4, 5])
def test_the_action_decides_writes_the_summary_and_ends_as_the_gate_did(place: Path, code: int) -> None:
    inputs = {
        "run-id": "ring-2", "against": "release-1", "root": "s3://audits/prod", "spec-file": "audits/ring.yaml",
        "policy": "policy.yaml", "margin": "0.1", "record": "false", "reports": "out",
    }  # fmt: skip
    ended, printed, told = ran(place, BASH, step("Decide")["run"], code, given(**inputs))
    assert (ended, printed) == (0, "")
    assert (place / "summary").read_text() == "## a summary\n"
    options = parsed(told)
    named = {"run_id": "ring-2", "against": "release-1", "root": "s3://audits/prod", "spec_file": "audits/ring.yaml"}
    assert {name: options[name] for name in named} == named
    assert (str(options["policy"]), options["margin"], options["no_record"]) == ("policy.yaml", 0.1, True)
    assert (options["reports"], options["output"]) == ("out", "summary")
    outputs = dict(line.split("=") for line in (place / "output").read_text().splitlines())
    assert outputs == {"exit-code": str(code), **({} if code == 2 else {"sarif": "true"})}
    last = step("End as the gate did")
    assert last["env"] == {"CODE": "${{ steps.gate.outputs.exit-code }}"}
    assert ran(place, BASH, last["run"], 0, {"CODE": outputs["exit-code"]})[0] == code


def test_without_inputs_the_gate_alone_decides_on_record(place: Path) -> None:
    told = ran(place, BASH, step("Decide")["run"], 0, given(**{"run-id": "ring-2"}))[2]
    assert told == ["gate", "--reports", "erasure-audit-reports", "--format", "summary", "--", "ring-2"]


def test_no_input_is_part_of_a_script(place: Path) -> None:
    for one in action()["runs"]["steps"]:
        assert "${{" not in one.get("run", "")
    told = ran(place, BASH, step("Decide")["run"], 0, given(**{"run-id": HOSTILE, "against": HOSTILE, "root": "-x"}))[2]
    assert parsed(told)["run_id"] == parsed(told)["against"] == HOSTILE
    assert not (place / "pwned").exists()


def test_the_action_uses_inputs_and_outputs_that_it_declares_and_installs_its_own_version() -> None:
    document = action()
    text = (FOLDER / "github-action" / "action.yml").read_text()
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(document["inputs"])
    ids = {one["id"] for one in document["runs"]["steps"] if "id" in one}
    assert set(re.findall(r"steps\.([\w-]+)\.", text)) == ids
    assert all("shell" in one for one in document["runs"]["steps"] if "run" in one)
    (source,) = step("Install erasure-audit")["env"].values()
    root = (FOLDER / "github-action" / source.replace("${{ github.action_path }}/", "")).resolve()
    assert (root / "pyproject.toml").exists() and (root / "constraints.txt").exists()
    assert [one["uses"].partition("@")[0] for one in document["runs"]["steps"] if "uses" in one] == [
        "actions/setup-python",
        "github/codeql-action/upload-sarif",
    ]


@pytest.mark.parametrize("code", [0, 3])
def test_the_gitlab_job_ends_as_the_gate_did_and_keeps_its_texts(place: Path, code: int) -> None:
    job = yaml.safe_load((FOLDER / "gitlab-ci.yml").read_text())[".erasure-audit-gate"]
    (script,) = job["script"]
    named = {"RUN_ID": HOSTILE, "AGAINST": "release-1", "SPEC_FILE": "ring.yaml", "POLICY": "p.yaml", "MARGIN": "0.1"}
    assert {f"AUDIT_{name}" for name in (*named, "RECORD", "SOURCE")} == set(job["variables"])
    variables = {**job["variables"], **{f"AUDIT_{name}": value for name, value in named.items()}, "AUDIT_RECORD": "no"}
    ended, printed, told = ran(place, ["sh", "-e"], script, code, variables)
    assert (ended, printed) == (code, "## a summary\n")
    options = parsed(told)
    assert (options["run_id"], options["against"], options["no_record"]) == (HOSTILE, "release-1", True)
    assert (options["spec_file"], str(options["policy"]), options["margin"]) == ("ring.yaml", "p.yaml", 0.1)
    artifacts = job["artifacts"]
    assert artifacts["when"] == "always" and artifacts["reports"]["junit"] in artifacts["paths"]
    assert {Path(path).parent.name for path in artifacts["paths"]} == {options["reports"]}
    assert not any(path.endswith(".html") for path in artifacts["paths"]) and not (place / "pwned").exists()
    bare = ran(place, ["sh", "-e"], script, 0, {**job["variables"], "AUDIT_RUN_ID": "ring-2"})[2]
    assert bare == ["gate", "--reports", "erasure-audit-reports", "--format", "summary", "--", "ring-2"]
