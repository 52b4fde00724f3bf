"""Judges of faces: NudeNet's crops, a classifier of people, a recogniser with reference pictures, refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from transformers import AutoModelForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from audit.errors import AuditError, DetectorError
from audit.instruments.detectors import build
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.face_crops import FaceFinder, cut
from audit.instruments.detectors.known_face import draw_face
from audit.spec.sections import DetectorSpec
from tests.instruments.detectors.folders import CLASSES
from tests.instruments.detectors.onnx_files import write_recogniser

SIDE = 16
COMMIT = "a" * 40
EMPTY = np.full((200, 200, 3), 128, np.uint8)


def person(name: str, light: float = 1.0) -> Pixels:
    """A drawn face; that of 'two' has less red in it than that of 'one'."""
    tint = {"one": (1.0, 1.0, 1.0), "two": (0.7, 0.95, 1.05)}[name]
    return np.clip(draw_face() * np.array(tint) * light, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recogniser that knows people by the mean colour of their faces, wherever the box lies exactly."""
    matrix = np.kron(np.eye(3), np.full((SIDE * SIDE, 1), 1 / SIDE**2)).astype(np.float32)
    return write_recogniser(tmp_path_factory.mktemp("faces") / "recogniser.onnx", matrix, SIDE)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("people")
    for name in ("one", "two"):
        (root / name).mkdir()
        for index, light in enumerate((0.97, 1.0, 1.03)):
            Image.fromarray(person(name, light)).save(root / name / f"{index}.png")
    return {name: str(root / name) for name in ("one", "two")}


def detector(**fields: Any) -> Detector:
    return build(DetectorSpec.model_validate({"name": "people", "kind": "face", **fields}), ())


def test_a_picture_shows_the_person_whose_references_are_nearest(recogniser: Path, references: dict[str, str]) -> None:
    judge = detector(parameters={"recogniser": str(recogniser), "references": references})
    wide = np.concatenate([np.broadcast_to(np.uint8(128), (320, 200, 3)), person("two", 0.99)], axis=1)
    one, two, nobody = judge.measure([person("one", 0.98), wide, EMPTY])
    assert [score.label for score in one.scores or ()] == ["one", "two"]
    scores = {name: {s.label: s for s in result.scores or ()} for name, result in (("one", one), ("two", two))}
    assert scores["one"]["one"].score > scores["one"]["two"].score
    assert scores["two"]["two"].score > scores["two"]["one"].score
    x = (scores["two"]["two"].box or (0,))[0]
    assert x > 200, "the box is that of the face in the whole picture"
    assert nobody.scores is None and nobody.error == "no face is found in it"
    judge.self_test()


def test_a_recogniser_of_the_hub_is_named_by_its_commit(
    recogniser: Path, references: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--org--faces" / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "r50.onnx").symlink_to(recogniser)
    judges = [
        detector(parameters={"recogniser": named, "references": references})
        for named in (f"org/faces@{COMMIT}/r50.onnx", str(recogniser))
    ]
    assert len({judge.instrument.weights_sha256 for judge in judges}) == 1
    assert judges[0].measure([person("two")])[0].scores == judges[1].measure([person("two")])[0].scores


def test_a_recogniser_that_was_replaced_reads_as_the_new_one_does(
    recogniser: Path, references: dict[str, str], tmp_path: Path
) -> None:
    """In one process, as of a worker that lives long: another file of the same name is another instrument."""
    path = tmp_path / "recogniser.onnx"
    shutil.copyfile(recogniser, path)
    parameters = {"recogniser": str(path), "references": references}
    before = detector(parameters=parameters)
    (old,) = before.measure([person("two", 0.98)])
    uneven = np.kron(np.diag([1.0, 0.1, 0.1]), np.full((SIDE * SIDE, 1), 1 / SIDE**2)).astype(np.float32)
    write_recogniser(path, uneven, SIDE)
    after = detector(parameters=parameters)
    (new,) = after.measure([person("two", 0.98)])
    elsewhere = {**parameters, "recogniser": str(write_recogniser(tmp_path / "other.onnx", uneven, SIDE))}
    (expected,) = detector(parameters=elsewhere).measure([person("two", 0.98)])
    assert new.scores == expected.scores != old.scores
    assert after.instrument.instrument_id != before.instrument.instrument_id


def test_a_score_is_the_cosine_of_the_recogniser_s_vectors(recogniser: Path, references: dict[str, str]) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(recogniser), providers=["CPUExecutionProvider"])

    def vector(picture: Pixels) -> np.ndarray[Any, Any]:
        (faces,) = FaceFinder().faces([picture])
        assert not isinstance(faces, DetectorError)
        crop = Image.fromarray(faces[0].pixels).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        given = ((np.asarray(crop, np.float32) - 127.5) / 127.5).transpose(2, 0, 1)[None]
        raw = session.run(None, {"faces": given})[0][0].astype(np.float64)
        return raw / np.linalg.norm(raw)

    known = np.stack([vector(np.array(Image.open(path))) for path in sorted(Path(references["two"]).iterdir())])
    cosines = np.sort(known @ vector(person("two", 0.9)))[::-1]
    parameters = {"recogniser": str(recogniser), "references": references, "pooling": "mean", "nearest": 2}
    result = detector(parameters=parameters).measure([person("two", 0.9)])[0]
    assert {s.label: s.score for s in result.scores or ()}["two"] == pytest.approx(cosines[:2].mean(), abs=1e-6)


def test_a_classifier_of_people_reads_the_cut_out_face(classifier_folder: Path) -> None:
    judge = detector(model=str(classifier_folder))
    picture = person("one")
    (faces,) = FaceFinder().faces([picture])
    assert not isinstance(faces, DetectorError)
    processor = CLIPImageProcessorPil.from_pretrained(classifier_folder)
    with torch.inference_mode():
        values = processor(Image.fromarray(faces[0].pixels), return_tensors="pt")["pixel_values"]
        expected = AutoModelForImageClassification.from_pretrained(classifier_folder).eval()(values).logits.softmax(-1)
    scores = judge.measure([picture])[0].scores or ()
    assert [score.label for score in scores] == list(CLASSES)
    np.testing.assert_allclose([score.score for score in scores], expected[0].numpy(), atol=1e-5)
    judge.self_test()


def test_a_picture_that_cannot_be_searched_is_unassessed(recogniser: Path, references: dict[str, str]) -> None:
    judge = detector(parameters={"recogniser": str(recogniser), "references": references})
    damaged, whole = judge.measure([EMPTY.astype(np.float32), EMPTY])
    assert damaged.scores is None and "uint8" in str(damaged.error)
    assert whole.scores is None and whole.error == "no face is found in it"


@pytest.mark.parametrize(
    ("box", "first"), [((10.0, 10.0, 20.0, 20.0), 6), ((-10.0, -10.0, 20.0, 20.0), 0), ((80.0, 90.0, 30.0, 10.0), 74)]
)
def test_a_crop_is_a_square_with_a_margin_even_at_the_edge(box: tuple[float, ...], first: int) -> None:
    rows = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((1, 100, 3), np.uint8)
    crop = cut(rows, box)
    assert crop.shape[0] == crop.shape[1] == round(max(box[2:]) * 1.4)
    assert crop[0, 0, 0] == first


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "names no recogniser"),
        ({"model": "testbed/classifier", "parameters": {"recogniser": "{onnx}"}}, "names two recognisers"),
        ({"model": "testbed/classifier", "parameters": {"pooling": "mean"}}, "pooling decides nothing"),
        ({"parameters": {"recogniser": "/nowhere.onnx"}}, "there is no such recogniser file"),
        ({"parameters": {"recogniser": "org/faces@main/r50.onnx"}}, "is not pinned to a commit"),
        (
            {"parameters": {"recogniser": f"org/faces@{COMMIT}/r50.onnx"}},
            "r50.onnx is not in the local Hugging Face cache",
        ),
        ({"parameters": {"recogniser": f"org/faces@{COMMIT}"}}, "is a repository, and a recogniser is one file of it"),
        ({"parameters": {"recogniser": f"org/a--b@{COMMIT}/r50.onnx"}}, "the hub has no repository of this name"),
        ({"parameters": {"recogniser": "{one}"}}, "is not a file"),
        ({"parameters": {"recogniser": "{text}", "references": {"one": "{one}"}}}, "cannot be used"),
        ({"parameters": {"recogniser": "{grey}", "references": {"one": "{one}"}}}, "faces x 3 x side x side"),
        ({"parameters": {"recogniser": "{onnx}"}}, "has no reference pictures"),
        ({"parameters": {"recogniser": "{onnx}", "references": {"one": "{faceless}"}}}, "no face is found in it"),
    ],
)
def test_mistakes_are_refused_at_plan_time(
    tmp_path: Path, recogniser: Path, references: dict[str, str], fields: dict[str, Any], message: str
) -> None:
    (tmp_path / "text.onnx").write_text("no network")
    write_recogniser(tmp_path / "grey.onnx", np.ones((SIDE * SIDE, 4), np.float32), SIDE, channels=1)
    (tmp_path / "faceless").mkdir()
    for index in range(3):
        Image.fromarray(EMPTY - index).save(tmp_path / "faceless" / f"{index}.png")
    places = {
        "{onnx}": recogniser, "{one}": references["one"], "{text}": tmp_path / "text.onnx",
        "{grey}": tmp_path / "grey.onnx", "{faceless}": tmp_path / "faceless",
    }  # fmt: skip
    text = json.dumps(fields)
    for name, path in places.items():
        text = text.replace(name, str(path))
    with pytest.raises(AuditError, match=message) as refused:
        detector(**json.loads(text))
    assert refused.value.next_step
