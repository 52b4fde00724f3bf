"""`erasure-audit tune` from the shipped spec to the file that it writes, on the testbed with few steps and pictures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from audit.spec.document import load_spec
from audit.spec.sections import Guard
from audit.testbed.scenes import write_corpus

# Whole audits in processes of their own; a busy machine takes several times as long as a free one.
pytestmark = pytest.mark.timeout(2400)

ROOT = Path(__file__).parents[2]


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The path of the shipped spec with four steps instead of 25, with a small corpus and calibration split."""
    document = load_spec(ROOT / "deployments" / "specs" / "tune-testbed.yaml").model_dump(mode="json")
    for section, split in (("corpus", "audit"), ("calibration", "calibration")):
        url = tmp_path / section
        write_corpus(str(url), "ring", 2, split)
        document[section] = [{**document[section][0], "url": str(url)}]
    eraser = document["defences"][0]["eraser"]
    eraser["checkpoint"] = str(ROOT / eraser["checkpoint"])
    scenario = document["scenarios"][0]
    scenario |= {"cases": 2, "fixed_point_passes": 1, "quality_gate": {"residual_max": 100.0, "psnr_min_db": 1.0}}
    scenario["sampler"]["steps"] = 4
    document["controls"]["cases"] = 2
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(document))
    return path


def tune(spec: Path, out: Path, *further: str) -> str:
    """What the command prints; two candidates are tried."""
    command = [sys.executable, "-m", "flows.cli", "tune", "irece", str(spec), "--concept", "ring", "--defence", "esd-x"]
    command += ["--sweep", "t_star=501,251", "--sweep", "tau=0.4", "--cases", "2", "--device", "cpu"]
    command += ["--out", str(out), "--root", str(spec.parent / "runs"), *further]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.mark.slow
def test_tune_prints_the_frontier_and_writes_the_guard_with_its_evidence(spec: Path, tmp_path: Path) -> None:
    out = tmp_path / "tuned.yaml"
    printed = tune(spec, out)
    document = yaml.safe_load(out.read_text())
    guard, evidence = Guard.model_validate(document["guard"]), document["evidence"]
    assert guard.name == "irece" and guard.parameters in ({"t_star": 501, "tau": 0.4}, {"t_star": 251, "tau": 0.4})
    assert [p["parameters"]["t_star"] for p in evidence["candidates"]] == [501, 251]
    assert all(
        (p["planned"], p["assessed"], p["unassessed"], p["pairs"]) == (2, 2, 0, 2) for p in evidence["candidates"]
    )
    assert evidence["splits"]["calibration"]["pictures"] == evidence["splits"]["corpus"]["pictures"] == 2
    for column in ("t_star", "tau", "CRR", "worst case", "judge", "PSNR dB", "SSIM"):
        assert column in printed
    assert f"chosen     t_star {guard.parameters['t_star']}, tau 0.4" in printed and f"written    {out}" in printed
    # The same sweep again reuses every picture; standard output is the document and nothing else.
    again = json.loads(tune(spec, tmp_path / "again.yaml", "--json"))
    assert again == yaml.safe_load((tmp_path / "again.yaml").read_text())
    assert again["guard"] == document["guard"]
    assert again["evidence"]["candidates"] == evidence["candidates"]
