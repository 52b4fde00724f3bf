"""Doctor: every check says what was found, and a failing one what it means and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from audit.doctor import checks
from audit.doctor.checks import Finding, examine
from audit.instruments.detectors import nudenet
from audit.machine import telemetry
from audit.spec.document import Spec, parse_spec


def find(findings: list[Finding], check: str) -> Finding:
    (found,) = [finding for finding in findings if finding.check == check]
    return found


def spec_of(**changes: object) -> Spec:
    document = {
        "name": "checked",
        "backbone": "testbed",
        "concepts": [{"name": "ring", "phrase": "ring"}],
        "defences": [{"name": "uce", "eraser": {"method": "uce", "preset": "testbed"}}],
        "scenarios": [{"name": "text"}],
        "detectors": [{"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"]}}],
        "gate": {"version": "1", "judges": ["nude"], "limits": [{"crr_max": 0.3}]},
    }
    return parse_spec({**document, **changes}, "test")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """NudeNet's network takes seconds to load; its own check is tested once."""
    monkeypatch.setattr(checks, "_nudenet", lambda: iter(()))


def test_a_healthy_machine_has_no_problem(tmp_path: Path) -> None:
    findings = examine(str(tmp_path / "runs"))
    own = [f for f in findings if not f.check.startswith("testbed")]
    assert [f for f in own if f.level == "problem"] == []
    assert {"python", "packages", "fastapi", "disk", "storage root"} <= {f.check for f in own}


def test_every_finding_that_is_not_ok_says_what_it_means_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    findings = examine(str(tmp_path / "file" / "runs"), spec_of(backbone=str(tmp_path / "nowhere")))
    bad = [f for f in findings if f.level != "ok"]
    assert {"storage root", "backbone"} <= {f.check for f in bad}
    assert all(f.means and f.next_step for f in bad)


@pytest.mark.parametrize(("package", "version"), [("fastapi", "0.151.0"), ("torch", "2.14.0")])
def test_a_package_beyond_its_pin_is_a_problem(
    package: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[[str], str | None] = checks._version
    monkeypatch.setattr(checks, "_version", lambda name: version if name == package else real(name))
    finding = find(examine(str(tmp_path)), package)
    assert finding.level == "problem"
    assert finding.next_step is not None and f"{package}<" in finding.next_step


def test_a_missing_package_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[[str], str | None] = checks._version
    monkeypatch.setattr(checks, "_version", lambda name: None if name == "duckdb" else real(name))
    finding = find(examine(str(tmp_path)), "packages")
    assert finding.level == "problem" and "duckdb" in finding.found


def test_a_full_disk_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 9, 1))
    assert find(examine(str(tmp_path)), "disk").level == "warning"


def test_unfinished_trainings_are_found_with_their_size_and_the_command_that_removes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert list(checks._trainings()) == []
    folder = tmp_path / "erasure-audit" / "trainings"
    for name in ("one", "two"):
        (folder / name).mkdir(parents=True)
        (folder / name / "checkpoint.pt").write_bytes(b"0" * 1_500_000)
    (finding,) = checks._trainings()
    assert finding.level == "ok"
    assert "2 unfinished" in finding.found and "3 MB" in finding.found and f"rm -r {folder}" in finding.found


@pytest.mark.parametrize(
    ("name", "value"),
    [("PREFECT_SERVER_ANALYTICS_ENABLED", "true"), ("GX_ANALYTICS_ENABLED", "yes"), ("DO_NOT_TRACK", "0")],
)
def test_telemetry_that_is_on_is_a_warning(
    name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows import environment

    for variable, default in environment.TELEMETRY_OFF.items():
        monkeypatch.setenv(variable, default)
    assert find(examine(str(tmp_path)), "telemetry").level == "ok"
    monkeypatch.setenv(name, value)
    finding = find(examine(str(tmp_path)), "telemetry")
    assert finding.level == "warning" and name in finding.found


def test_metrics_and_traces_are_off_unless_an_endpoint_is_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(examine(str(tmp_path)), "metrics and traces").found.startswith("off")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "https://me:secret@collector:4318/path")
    finding = find(examine(str(tmp_path)), "metrics and traces")
    assert finding.level == "ok" and "traces to https://collector:4318; metrics" in finding.found
    monkeypatch.setattr(telemetry, "EXPORTER", "opentelemetry.nowhere.http")
    finding = find(examine(str(tmp_path)), "metrics and traces")
    assert finding.level == "warning" and "erasure-audit[telemetry]" in (finding.next_step or "")


def test_a_spec_is_checked_down_to_its_corpus(tmp_path: Path) -> None:
    folder = tmp_path / "ring"
    folder.mkdir()
    corpus = [
        {"url": str(folder), "concept": "ring"},
        {"url": str(tmp_path / "nowhere"), "concept": "star", "role": "neighbour"},
    ]
    findings = examine(str(tmp_path / "runs"), spec_of(corpus=corpus))
    assert find(findings, "corpus ring").level == "problem"  # empty
    assert find(findings, "corpus star").level == "problem"  # missing
    assert find(findings, "detector nude").level == "ok"
    (folder / "one.png").write_bytes(b"x")
    assert find(examine(str(tmp_path / "runs"), spec_of(corpus=corpus)), "corpus ring").level == "ok"


def test_what_a_run_would_refuse_is_a_problem(tmp_path: Path, tiny_folder: Path) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "model"))
    (unet,) = (folder / "unet").glob("*.safetensors")
    vendor = {"name": "vendor", "eraser": {"method": "uce", "checkpoint": str(unet)}}
    findings = examine(str(tmp_path), spec_of(backbone=str(folder), defences=[vendor]))
    assert find(findings, "backbone").level == "ok"
    assert "nothing was erased" in find(findings, "defence vendor").found
    config = folder / "scheduler" / "scheduler_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "prediction_type": "sample"}))
    blind = [{"name": "nude", "kind": "nudenet"}]
    findings = examine(str(tmp_path), spec_of(backbone=str(folder), defences=[vendor], detectors=blind))
    assert "only epsilon and v_prediction" in find(findings, "backbone").found
    assert "does not know which of its labels mean" in find(findings, "detector nude").found
    gate = {"version": "1", "judges": ["nude"], "limits": [{"crr_max": 0.3}], "thresholds": {"nude": 0.01}}
    assert "outside what it can report" in find(examine(str(tmp_path), spec_of(gate=gate)), "detector nude").found
    assert {f.level for f in findings if f.check in ("backbone", "detector nude")} == {"problem"}


def test_a_detector_of_a_spec_that_fails_its_self_test_is_a_problem(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    darkened = nudenet.draw_face() // 200
    monkeypatch.setattr(nudenet, "draw_face", lambda: darkened)
    found = find(examine(str(tmp_path), spec_of()), "detector nude")
    assert found.level == "problem" and "does not find the face" in found.found


def test_a_backbone_that_lacks_tensors_is_a_problem(tmp_path: Path, tiny_copy: Path) -> None:
    weights = tiny_copy / "text_encoder" / "model.safetensors"
    save_file({name: tensor for name, tensor in load_file(weights).items() if "layers.1." not in name}, weights)
    found = find(examine(str(tmp_path), spec_of(backbone=str(tiny_copy))), "backbone")
    assert found.level == "problem"
    assert "the backbone's text_encoder cannot be loaded: its weights have 16 missing keys" in found.found


def test_a_check_that_breaks_is_a_problem_and_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(path: object) -> None:
        raise RuntimeError("unforeseen")

    monkeypatch.setattr(checks.shutil, "disk_usage", explode)
    broken = [f for f in examine(str(tmp_path)) if "unforeseen" in f.found]
    assert [f.level for f in broken] == ["problem"]


def test_nudenet_finds_a_known_face(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    findings = list(checks._nudenet())
    assert [f.level for f in findings] == ["ok"]
