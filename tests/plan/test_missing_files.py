"""plan where files are missing: the whole forecast, every missing thing in one list, and nothing that can be run."""

from __future__ import annotations

import datetime as dt
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from audit import run
from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.errors import AuditError, CheckpointError, MissingInstrument, SpecError
from audit.instruments import quality
from audit.plan.document import Draft, Plan
from audit.plan.planner import build_plan
from audit.plan.preflight.unusable import Checked
from audit.plan.rate_files import read_rates
from audit.plan.resolve import resolve
from audit.plan.resolved import ABSENT, Missing, is_absent
from audit.run import draft_plan
from audit.spec.document import load_spec, parse_spec
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.weights.references import resolve_model
from flows.cli import main

SPEC = Path(__file__).parents[2] / "deployments" / "specs" / "m-erasurebench-sd14.yaml"
COMMIT = "0" * 40
NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ATTACKS = (
    "text", "adversarial-text", "embedding-whitebox", "embedding-blackbox", "latent-whitebox", "latent-blackbox",
)  # fmt: skip


def shipped(**changes: Any) -> dict[str, Any]:
    """The shipped spec with models and a corpus that no machine has; without its unlearned class where concepts change."""
    document = load_spec(SPEC).model_dump(mode="json")
    if "concepts" in changes:
        document["controls"]["unlearned"] = []
    document |= {"backbone": f"nobody/backbone@{COMMIT}", **changes}
    for detector in document["detectors"]:
        detector["model"] = f"nobody/{detector['name']}@{COMMIT}"
    for entry in () if "quality" in changes else document["quality"]:
        entry["model"] = f"nobody/network@{COMMIT}" if entry["model"] else None
    for entry in document["corpus"]:
        entry["url"] = f"/nowhere/{entry['concept']}"
    return document


def small(**changes: Any) -> dict[str, Any]:
    """The same with a fifth of its cases, which is planned in a fraction of the time."""
    document = shipped(**changes)
    for scenario in document["scenarios"]:
        scenario["cases"] = 20
    return document


def write(folder: Path, document: dict[str, Any]) -> str:
    path = folder / "spec.yaml"
    path.write_text(json.dumps(document))
    return str(path)


def test_the_shipped_benchmark_is_priced_completely_without_any_of_its_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps({"origin": "one H-something in bf16", "seconds_per_call": 0.01}))
    spec = write(tmp_path, shipped())
    assert main(["plan", spec, "--root", str(tmp_path / "root"), "--rates", str(rates), "--json"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    target = [cell for cell in found["cells"] if cell["role"] == "target"]
    assert len(target) == 10 * 6 * len(ATTACKS) and all(cell["planned"] == 100 for cell in target)
    assert {cell["scenario"] for cell in target} == set(ATTACKS)
    assert found["size"]["erase_units"] == 30
    assert found["unet_calls"]["low"] < found["unet_calls"]["expected"] < found["unet_calls"]["high"]
    assert found["seconds"]["expected"] == pytest.approx(found["unet_calls"]["expected"] * 0.01, rel=1e-3)
    assert found["device_hours"] == pytest.approx(found["seconds"]["expected"] / 3600, rel=1e-2)
    assert found["rate_basis"] == f"one H-something in bf16 ({rates})"
    assert [gap["kind"] for gap in found["missing"]] == ["corpus"] * 12 + ["model"] * 4
    unlearned = [gap for gap in found["missing"] if gap["where"].startswith("/nowhere/unseen-object")]
    assert [gap["kind"] for gap in unlearned] == ["corpus"]
    assert all(gap["what"] and gap["where"] and gap["next_step"] for gap in found["missing"])
    for gap in found["missing"]:
        assert gap["where"] in printed.err and gap["next_step"] in printed.err
    assert "Traceback" not in printed.err and not (tmp_path / "root").exists()


def test_the_forecast_for_a_person_says_what_is_assumed_and_sums_alike_cells(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", write(tmp_path, small()), "--root", str(tmp_path / "root"), "--rate", "0.01"]) == 2
    printed = capsys.readouterr()
    assert "device hours" in printed.out and "0.01 s a call, as stated by --rate" in printed.out
    assert "sizes are those of Stable Diffusion v1.x" in printed.out
    assert "next  erasure-audit run" not in printed.out
    assert printed.out.count("latent-whitebox") == 2  # what it takes, and what it can prove
    assert "scenario latent-whitebox: whoever attacks controls start noise (white box)" in printed.out
    assert "16 things are missing or unusable" in printed.err and printed.err.count("error: ") == 1


def test_prompt_and_embedding_files_may_be_missing_beside_everything_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = small()
    named = {scenario["name"]: scenario for scenario in document["scenarios"]}
    names = [concept["name"] for concept in document["concepts"]]
    named["text"] |= {"prompts": {"file": "/nowhere/prompts.csv"}}
    named["adversarial-text"] |= {"prompts": {"file": "/nowhere/found.parquet"}, "preset": None, "parameters": {}}
    named["embedding-blackbox"] |= {"embedding": {name: f"/nowhere/{name}.bin" for name in names}, "preset": None}
    named["embedding-blackbox"]["parameters"] = {}
    assert main(["plan", write(tmp_path, document), "--root", str(tmp_path / "root"), "--json"]) == 2
    printed = capsys.readouterr()
    found = json.loads(printed.out)
    missing = {gap["where"]: gap["kind"] for gap in found["missing"]}
    assert missing["/nowhere/prompts.csv"] == missing["/nowhere/found.parquet"] == "prompts"
    assert all(missing[f"/nowhere/{name}.bin"] == "embedding" for name in names)
    assert len(missing) == 12 + 4 + 2 + len(names)
    target = [cell for cell in found["cells"] if cell["role"] == "target"]
    assert len(target) == 10 * 6 * len(ATTACKS) and all(cell["planned"] == 20 for cell in target)
    assert printed.err.count("error: ") == 1 and "/nowhere/prompts.csv" in printed.err


def test_a_face_recogniser_of_the_hub_may_be_missing_too(tmp_path: Path) -> None:
    document = small()
    named = f"nobody/faces@{COMMIT}/r50.onnx"
    document["detectors"].append(
        {"name": "faces", "kind": "face", "parameters": {"recogniser": named, "references": {"cat": "/nowhere"}}}
    )
    forecast = draft_plan(parse_spec(document, "test"), NOW)
    assert any("r50.onnx is not in the local Hugging Face cache" in gap.what for gap in forecast.missing)


def test_run_refuses_what_plan_can_only_forecast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = load_spec(write(tmp_path, shipped()))
    manifest = MANIFEST_SCHEMA.empty_table()
    with pytest.raises(CheckpointError, match="not in the local Hugging Face cache"):
        run.plan(spec, Journal(str(tmp_path / "root")), "r", "2026-01-01T00:00:00+00:00", manifest)
    assert not list((tmp_path / "root").rglob("plan.json"))


def test_every_stand_in_is_in_the_digests_and_cannot_be_loaded(tmp_path: Path) -> None:
    document = shipped(concepts=[{"name": "ring", "phrase": "ring"}])
    document["corpus"] = [{"url": str(tmp_path / "ring"), "concept": "ring"}]
    document["defences"] = [
        {"name": "vendor", "eraser": {"method": "esd-x", "checkpoint": str(tmp_path / "vendor.safetensors")}},
        {"name": "egloce", "guards": [{"name": "egloce", "parameters": {"energy": f"nobody/energy@{COMMIT}"}}]},
    ]
    write_corpus(str(tmp_path / "ring"), "ring", 3, "audit")
    forecast = draft_plan(parse_spec(document, "test"), NOW)
    assert {(gap.kind, gap.where.split(" ")[0]) for gap in forecast.missing} == {
        ("model", f"nobody/backbone@{COMMIT}"),
        ("model", f"nobody/clip@{COMMIT}"),
        ("model", f"nobody/grounding-dino@{COMMIT}"),
        ("model", f"nobody/energy@{COMMIT}"),
        ("model", f"nobody/network@{COMMIT}"),
        ("checkpoint", str(tmp_path / "vendor.safetensors")),
        ("corpus", str(tmp_path / "ring")),
    }
    assert "the spec asks for 100 images of 'ring' and the corpus has 3 different ones" in {
        g.what for g in forecast.missing
    }
    assert is_absent(forecast.draft.backbone["sha256"]) and forecast.backbone is None
    assert all(is_absent(instrument.weights_sha256) for instrument in forecast.draft.instruments)
    units = list(forecast.draft.units_of("generate"))
    assert units and all(is_absent(unit.identity.backbone) for unit in units)
    erase = [unit.identity for unit in forecast.draft.units_of("erase")]
    assert [is_absent(identity.checkpoint) for identity in erase] == [True]
    used = forecast.draft.cases.filter(forecast.draft.cases["item"].is_valid())["item"].to_pylist()
    assert sum(not item.startswith(ABSENT) for item in set(used)) == 3


def test_networks_neighbours_and_images_to_learn_from_may_be_missing_too() -> None:
    networks = [f"nobody/{name}@{COMMIT}" for name in ("dino", "fit", "features")]
    document = shipped(
        quality=[
            {"name": "fit", "kind": "clip-score", "model": networks[1]},
            {"name": "space", "kind": "features", "model": networks[2]},
        ],
        concepts=[{"name": "cat", "phrase": "cat", "neighbours": ["dog"]}],
        corpus=[
            {"url": "/nowhere/cat", "concept": "cat"},
            {"url": "/nowhere/dog", "concept": "dog", "role": "neighbour"},
        ],
    )
    next(s for s in document["scenarios"] if s["name"] == "embedding-whitebox")["parameters"] = {"images": 200}
    next(d for d in document["detectors"] if d["kind"] == "grounding-dino")["model"] = networks[0]
    document["gate"]["limits"] = [{"crr_max": 0.1}]
    forecast = draft_plan(parse_spec(document, "test"), NOW)
    missing = {gap.where.split(" ")[0] for gap in forecast.missing}
    assert missing >= {*networks, "/nowhere/cat", "/nowhere/dog"}
    assert all(is_absent(instrument.weights_sha256) for instrument in forecast.draft.quality)
    learned = {len(unit.identity.images) for unit in forecast.draft.units_of("attack")}
    assert 200 in learned and list(forecast.draft.units_of("quality"))


def test_packages_and_weights_of_instruments_without_a_model_folder_may_be_missing_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nudenet" else found(name))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # no AlexNet there, whether or not lpips is installed
    document = shipped(concepts=[{"name": "cat", "phrase": "cat"}], quality=[{"name": "alike", "kind": "lpips"}])
    document["corpus"] = [{"url": "/nowhere/cat", "concept": "cat"}]
    document["detectors"].append({"name": "nude", "kind": "nudenet", "labels": {"cat": ["FACE_FEMALE"]}})
    spec = parse_spec(document, "test")
    forecast = draft_plan(spec, NOW)
    missing = {gap.where: gap for gap in forecast.missing if gap.kind == "model"}
    assert "cannot measure here" in missing["quality.alike"].what and "gmsd" in missing["quality.alike"].next_step
    assert "nudenet is not installed" in missing["detectors of kind nudenet"].what
    assert [is_absent(instrument.weights_sha256) for instrument in forecast.draft.quality] == [
        True,
        True,
    ]  # and the picture check's
    assert list(forecast.draft.units_of("quality"))
    with pytest.raises(MissingInstrument, match="cannot measure here"):
        quality.build(spec.quality[0])


def test_outside_a_forecast_a_missing_model_is_an_error_and_a_digest_is_hexadecimal() -> None:
    with pytest.raises(CheckpointError):
        resolve_model(f"nobody/backbone@{COMMIT}")
    resolved = resolve(parse_spec(shipped(backbone=f"nobody/backbone@{COMMIT}"), "test"))
    assert isinstance(resolved.backbone, Missing)
    digest = resolved.backbone.sha256
    assert len(digest) == 64 and not set(digest) <= set("0123456789abcdef")


def test_what_is_missing_cannot_be_stored() -> None:
    """Only a plan can be stored, and there is none of a spec whose files are missing."""
    corpus = [{"url": "/nowhere/cat", "concept": "cat"}]
    spec = parse_spec(small(concepts=[{"name": "cat", "phrase": "cat"}], corpus=corpus), "test")
    resolved = resolve(spec)
    with pytest.raises(CheckpointError, match="not in the local Hugging Face cache"):
        build_plan(resolved, Checked(), run_id="r", created_at="2026-01-01T00:00:00+00:00")
    assert not isinstance(draft_plan(spec, NOW).draft, Plan) and not hasattr(Draft, "write")


def test_mistakes_of_the_spec_still_end_the_forecast(tmp_path: Path) -> None:
    document = shipped()
    document["defences"][3]["guards"][0]["parameters"]["tau"] = 7
    with pytest.raises(SpecError, match="tau"):
        draft_plan(parse_spec(document, "test"), NOW)


def test_nothing_is_missing_where_everything_is_there(tmp_path: Path) -> None:
    document = load_spec(SPEC.parent / "demo.yaml").model_dump(mode="json")
    for entry in document["corpus"]:
        entry["url"] = str(tmp_path / entry["concept"])
        write_corpus(entry["url"], entry["concept"], 24, "audit")
    forecast = draft_plan(parse_spec(document, "test"), NOW)
    assert forecast.missing == () and forecast.backbone is not None and forecast.shape.resolution == 64


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("seconds_per_call: 0.1", "origin"),
        ("origin: here\nseconds_per_call: -1", "seconds_per_call"),
        ("origin: here\nseconds_per_call: .nan", "seconds_per_call"),
        ("origin: [", "YAML"),
        ("origin: here\nseconds_per_call: 1\ncolour: red", "colour"),
        ("origin: here\nseconds_per_call: 1\nseconds_per_detection: {eye: 1}", "seconds_per_detection"),
        ("origin: here\nseconds_per_call: 1\nseconds_per_detection: 0", "seconds_per_detection"),
    ],
)
def test_a_rates_file_that_says_something_else_is_refused(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(text)
    with pytest.raises(SpecError, match=named) as caught:
        read_rates(path)
    assert caught.value.where == str(path) and caught.value.next_step


@pytest.mark.parametrize(
    ("text", "rates"),
    [
        ("", {}),
        ("seconds_per_detection: 0.5", {"clip-zero-shot": 0.5}),
        (
            "seconds_per_detection: {clip-zero-shot: 0.5, grounding-dino: 4}",
            {"clip-zero-shot": 0.5, "grounding-dino": 4},
        ),
    ],
)
def test_detectors_are_timed_by_kind(tmp_path: Path, text: str, rates: dict[str, float]) -> None:
    path = tmp_path / "rates.yaml"
    path.write_text(f"origin: here\nseconds_per_call: 1\n{text}\n")
    assert read_rates(path).seconds_per_detection == rates


def test_one_rate_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["plan", write(tmp_path, shipped()), "--rate", "1", "--measure", "--root", str(tmp_path)]
    assert main(arguments) == 2
    assert "one rate only" in capsys.readouterr().err
    with pytest.raises(AuditError):
        read_rates(tmp_path / "nothing.json")
