"""The package of docs/extending.md, as a wheel in a fresh virtual environment: it is found, audited with, and named."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit.plan.document import read_plan
from audit.run import open_journal
from audit.testbed.scenes import write_corpus
from tests.flows.audits import WAIVED

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/extending.md").read_text()
FILES = dict(re.findall(r"^`([\w./-]+)`:\n\n```\w+\n(.*?)^```$", PAGE, re.S | re.M))
PLUGIN = {"distribution": "acme-erasure", "version": "1.2.0", "method_version": "1"}
AUDIT = """
import sys
from pathlib import Path
from tests.flows.audits import finish_run
print(finish_run(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def test_each_method_of_the_page_is_short_and_whole() -> None:
    methods = {name: text for name, text in FILES.items() if name.endswith(".py")}
    assert sorted(methods) == [f"acme_erasure/{name}.py" for name in ("ink", "late_null", "project_out")]
    for name, text in methods.items():
        assert len(text.splitlines()) <= 80
        compile(text, name, "exec")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment of its own in which the wheel is installed, beside what this one has."""
    folder = tmp_path_factory.mktemp("acme")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    (folder / "acme_erasure/__init__.py").write_text("")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", "dist", "."], cwd=folder, check=True
    )
    (wheel,) = (folder / "dist").glob("acme_erasure-1.2.0-*.whl")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    (site,) = (folder / "venv/lib").glob("python3*/site-packages")
    (site / "running.pth").write_text(f"{ROOT}\n{sysconfig.get_path('purelib')}\n")
    subprocess.run([*pip, "install", "--no-deps", "--no-index", "--target", site, wheel], check=True)
    return python


def run(python: Path, *arguments: object) -> str:
    """What a command of the environment prints; it may end with a verdict's exit code."""
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(python.parent), "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        [python, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert done.returncode in (0, 3, 4), done.stderr
    return done.stdout


def spec(folder: Path) -> Path:
    """The smallest audit that uses all three methods, with the section of the page about specs."""
    (said,) = re.findall(r"## In a spec\n\n```yaml\n(.*?)^```$", PAGE, re.S | re.M)
    write_corpus(str(folder / "ring"), "ring", 2, "audit")
    document = {
        "name": "acme",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "corpus": [{"url": str(folder / "ring"), "concept": "ring"}],
        "scenarios": [{"name": "text", "cases": 2, "sampler": {"steps": 2, "guidance": 3.0}}],
        "controls": {"cases": 2},
        "gate": {"version": "1", "judges": ["ink"], "limits": [{"crr_max": 0.9}], **WAIVED},
        **yaml.safe_load(said),
    }
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


@pytest.mark.slow
def test_the_methods_of_an_installed_wheel_are_audited_with_and_named(python: Path, tmp_path: Path) -> None:
    listed = json.loads(run(python, "-m", "flows.cli", "methods", "--json"))
    ours = {entry["name"]: entry for entry in listed if entry["distribution"] == "acme-erasure"}
    assert sorted(ours) == ["ink", "late-null", "project-out"] and all(e["problem"] is None for e in ours.values())
    assert ours["project-out"]["presets"] == {"gentle": {"strength": 0.5}, "mirror": {"strength": 2.0}}

    root = tmp_path / "runs"
    run_id = run(python, "-c", AUDIT, spec(tmp_path), root).split()[-1]
    _require_identities(read_plan(open_journal(str(root)), run_id))

    reports = tmp_path / "reports"
    run(python, "-m", "flows.cli", "report", run_id, "--root", root, "--reports", reports)
    result = json.loads(next(reports.rglob("*.json")).read_text())
    assert result["provenance"]["methods"]["guards"] == {
        "late-null": {"version": "1", "distribution": "acme-erasure", "distribution_version": "1.2.0"}
    }
    for page in (next(reports.rglob("*.html")), next(reports.rglob("*.md"))):
        words = " ".join(re.sub(r"<[^>]+>|\|", " ", page.read_text()).split())
        for line in ("guards late-null 1", "detectors ink 3", "erasers project-out 1"):
            assert f"{line} acme-erasure 1.2.0" in words, (page, line)
        assert "project-out 1 of acme-erasure 1.2.0" in words  # beside what the eraser changed
        assert "acme-erasure 1.2.0, numpy" in words  # the instrument's packages


def _require_identities(plan: Any) -> None:
    """Every unit that one of the methods makes says whose it is."""
    (erased,) = plan.units_of("erase")
    assert erased.identity["plugin"] == PLUGIN
    guarded = [guard for unit in plan.units_of("generate") for guard in unit.identity["guards"]]
    assert guarded and all(guard["plugin"] == PLUGIN for guard in guarded)
    detected = [unit.identity["instrument"] for unit in plan.units_of("detect")]
    assert detected and all(one["package"].startswith("acme-erasure 1.2.0, numpy ") for one in detected)
