"""Files of `deployments/` that no test can run: their form, and that every command in them exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

FOLDER = Path(__file__).parents[2] / "deployments"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("name", ["prefect-server.service", "audit-worker@.service"])
def test_units_are_well_formed(name: str, tmp_path: Path) -> None:
    text = (FOLDER / "systemd" / name).read_text()
    home = tmp_path / "home"
    (home / ".venv" / "bin").mkdir(parents=True)
    program = home / ".venv" / "bin" / "prefect"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    placed = tmp_path / name.replace("@", "@0")
    placed.write_text(text.replace("/srv/erasure-audit", str(home)))
    done = subprocess.run(["systemd-analyze", "verify", str(placed)], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if placed.name in line] == []


def test_compose_starts_a_server_on_loopback_a_database_and_a_worker_with_a_gpu() -> None:
    services = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    assert set(services) == {"postgres", "server", "worker-0"}
    assert services["server"]["ports"] == ["127.0.0.1:4200:4200"]
    worker = services["worker-0"]
    assert worker["deploy"]["resources"]["reservations"]["devices"][0]["capabilities"] == ["gpu"]
    assert worker["stop_signal"] == "SIGINT"
    for name, service in services.items():
        assert set(service.get("depends_on", {})) <= set(services) - {name}


def test_the_kubernetes_template_uses_every_variable_and_asks_for_a_gpu() -> None:
    text = (FOLDER / "kubernetes" / "base-job-template.json").read_text()
    template: dict[str, Any] = json.loads(text)
    used = set(re.findall(r"\{\{ (\w+) \}\}", json.dumps(template["job_configuration"])))
    assert used == set(template["variables"]["properties"])
    pod = template["job_configuration"]["job_manifest"]["spec"]
    assert pod["backoffLimit"] == 0
    assert pod["template"]["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/gpu": "{{ gpus }}"}


def test_the_image_has_every_extra_that_a_deployment_may_use() -> None:
    """A flow on a Ray cluster, telemetry by variables of `worker.env`, and the PDF of the monthly report."""
    (extras,) = re.findall(r"'\.\[(.+)\]'", (FOLDER / "Dockerfile").read_text())
    declared = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"pdf", "ray", "telemetry"} <= set(extras.split(",")) <= set(declared)
