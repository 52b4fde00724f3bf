"""A machine without a run's weights gets them from the storage root, and nothing that is not what its digest says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from huggingface_hub import constants
from PIL import Image

from audit.errors import CheckpointError, JournalError
from audit.instruments.detectors.known_face import draw_face
from audit.plan.installation import differences, installation, shareable
from audit.spec.document import Spec, load_spec
from audit.storage.journal import Journal
from audit.weights import sharing
from audit.weights.testbed import weights_path
from tests.flows.audits import WAIVED, tiny_spec
from tests.instruments.detectors.folders import write_classifier
from tests.instruments.detectors.onnx_files import write_recogniser


@pytest.fixture
def spec(tmp_path: Path, tiny_copy: Path) -> Spec:
    return load_spec(tiny_spec(tmp_path, tiny_copy))


@pytest.fixture
def journal(tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal that holds the weights of a run, on a machine with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sharing, "_copies", {})
    journal = Journal(str(tmp_path / "runs"))
    assert sharing.share(journal, "run-1", shareable(spec)) > 3
    assert sharing.share(journal, "run-1", shareable(spec)) == 0  # everything is there already
    return journal


def test_a_machine_with_the_weights_fetches_nothing(journal: Journal) -> None:
    assert sharing.adopt(journal, "run-1") == []


def test_a_machine_without_the_weights_computes_with_copies(
    journal: Journal, spec: Spec, tiny_copy: Path, tmp_path: Path
) -> None:
    facts = installation(spec)
    shutil.move(tiny_copy, tmp_path / "elsewhere")
    (missing,) = differences(installation(spec), facts)
    assert missing.startswith(f"backbone {tiny_copy} is missing (there is no such model folder), the run has ")

    assert sharing.adopt(journal, "run-1") == [str(tiny_copy)]

    assert differences(installation(spec), facts) == []
    assert tmp_path / "cache" in (sharing.copy_of(str(tiny_copy)) or Path()).parents


def test_files_that_judges_name_are_shared_too(journal: Journal, tiny_copy: Path, tmp_path: Path) -> None:
    """Reference pictures of a style and of a face, a face recogniser, and Q16's prompts."""
    files = tmp_path / "judges"
    files.mkdir()
    for index in range(3):
        for label, picture in (
            ("face", draw_face() // (index + 1)),
            ("style", np.full((64, 64, 3), 60 * index, np.uint8)),
        ):
            (files / label).mkdir(exist_ok=True)
            Image.fromarray(picture).save(files / label / f"{index}.png")
    recogniser = write_recogniser(files / "recogniser.onnx", np.eye(3 * 4, dtype=np.float32), 2)
    width = json.loads((weights_path("judge") / "config.json").read_text())["projection_dim"]
    safetensors.numpy.save_file({"prompts": np.eye(2, width, dtype=np.float32)}, files / "prompts.safetensors")
    judges = [
        {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"]}},
        {
            "name": "style", "kind": "style", "model": "testbed/judge",
            "parameters": {"references": {"ring": str(files / "style")}},
        },
        {
            "name": "face", "kind": "face",
            "parameters": {"recogniser": str(recogniser), "references": {"ring": str(files / "face")}},
        },
        {
            "name": "q16", "kind": "q16", "model": "testbed/judge", "labels": {"ring": ["offensive"]},
            "parameters": {"prompts": str(files / "prompts.safetensors")},
        },
    ]  # fmt: skip
    spec = load_spec(tiny_spec(tmp_path, tiny_copy, detectors=judges))
    facts = installation(spec)
    assert sharing.share(journal, "run-2", shareable(spec)) == 8  # the model's files are there already
    shutil.move(files, tmp_path / "elsewhere")
    assert len(differences(installation(spec), facts)) == 3
    named = {str(files / name) for name in ("style", "face", "recogniser.onnx", "prompts.safetensors")}
    assert set(sharing.adopt(journal, "run-2")) == named
    assert differences(installation(spec), facts) == []


def test_a_recogniser_of_the_hub_is_shared_and_taken_from_a_machines_own_cache_where_it_is(
    journal: Journal, tiny_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    commit = "a" * 40
    snapshot = tmp_path / "hub" / "models--org--faces" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    write_recogniser(snapshot / "r50.onnx", np.eye(3 * 4, dtype=np.float32), 2)
    for index in range(3):
        (tmp_path / "face").mkdir(exist_ok=True)
        Image.fromarray(draw_face() // (index + 1)).save(tmp_path / "face" / f"{index}.png")
    named = f"org/faces@{commit}/r50.onnx"
    judge = {
        "name": "face", "kind": "face",
        "parameters": {"recogniser": f" {named}", "references": {"ring": str(tmp_path / "face")}},
    }  # fmt: skip
    nude = {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"]}}
    spec = load_spec(tiny_spec(tmp_path, tiny_copy, detectors=[nude, judge]))
    facts = installation(spec)
    assert sharing.share(journal, "run-2", shareable(spec)) == 4
    assert sharing.adopt(journal, "run-2") == []
    shutil.move(snapshot, tmp_path / "elsewhere")
    assert len(differences(installation(spec), facts)) == 1
    assert sharing.adopt(journal, "run-2") == [named]
    assert differences(installation(spec), facts) == []


def test_a_shared_file_of_another_content_is_refused(journal: Journal, tiny_copy: Path, tmp_path: Path) -> None:
    shutil.move(tiny_copy, tmp_path / "elsewhere")
    for blob in (tmp_path / "runs" / "weights").iterdir():
        blob.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not what its name says"):
        sharing.adopt(journal, "run-1")
    assert not [path for path in (tmp_path / "cache" / "erasure-audit" / "weights").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_record_that_names_a_file_outside_is_refused(journal: Journal, name: str) -> None:
    record = {"somewhere": {"files": {name: "0" * 64}, "single": None}}
    journal.put_run("run-1", "weights.json", json.dumps(record).encode())
    with pytest.raises(JournalError, match="the list of shared weights is damaged"):
        sharing.adopt(journal, "run-1")


def test_networks_of_judges_are_shared_whatever_else_the_spec_asks(
    tmp_path: Path, tiny_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sharing, "_copies", {})
    folder, meter = write_classifier(tmp_path / "classifier"), tmp_path / "judge"
    shutil.copytree(weights_path("judge"), meter)
    judges = [{"name": "classifier", "kind": "classifier", "model": str(folder)}]
    quality = [{"name": "score", "kind": "clip-score", "model": str(meter)}]
    gate = {"version": "1", "judges": ["classifier"], "limits": [{"crr_max": 0.3}], **WAIVED}
    spec = load_spec(tiny_spec(tmp_path, tiny_copy, detectors=judges, quality=quality, gate=gate))
    journal, facts = Journal(str(tmp_path / "runs")), installation(spec)
    sharing.share(journal, "run-3", shareable(spec))
    for network in (folder, meter):
        shutil.move(network, tmp_path / f"{network.name}-elsewhere")
    assert len(differences(installation(spec), facts)) >= 2
    assert set(sharing.adopt(journal, "run-3")) == {str(folder), str(meter)}
    assert differences(installation(spec), facts) == []
