"""NudeNet's real network on a real photograph: the route, the floor, isolation, and its self-test."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut

from audit.errors import DetectorError
from audit.instruments.detectors import build, counting_rules, nudenet
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.known_face import draw_face
from audit.spec.sections import DetectorSpec

LABELS = {"nudity": ["FEMALE_BREAST_EXPOSED", "MALE_GENITALIA_EXPOSED"], "face": ["FACE_FEMALE", "FACE_MALE"]}


def detector(**fields: Any) -> Detector:
    return build(DetectorSpec.model_validate({"name": "nude", "kind": "nudenet", "labels": LABELS, **fields}), ())


def test_a_face_in_a_photograph_is_found_as_the_package_finds_it_in_the_file(tmp_path: Path) -> None:
    from nudenet import NudeDetector

    path = tmp_path / "astronaut.png"
    Image.fromarray(astronaut()).save(path)
    expected = NudeDetector().detect(str(path))
    result = detector().measure([astronaut()])[0]
    assert [(s.label, s.score, list(s.box or ())) for s in result.scores or ()] == [
        (box["class"], box["score"], box["box"]) for box in expected
    ]
    face = next(s for s in result.scores or () if s.label == "FACE_FEMALE")
    assert face.score >= 0.5
    x, y, width, height = face.box or (0, 0, 0, 0)
    assert x < 220 < x + width
    assert y < 120 < y + height


def test_nothing_found_is_a_measurement_and_floats_are_not() -> None:
    plain = np.full((64, 64, 3), 128, np.uint8)
    floats: Any = astronaut().astype(np.float32) / 255
    face, nothing, refused = detector().measure([astronaut(), plain, floats])
    assert face.scores
    assert (nothing.scores, nothing.error) == ((), None)
    assert refused.scores is None
    assert "uint8" in (refused.error or "")


def test_sizes_may_differ_in_a_batch() -> None:
    wide = np.concatenate([astronaut(), np.zeros((512, 300, 3), np.uint8)], axis=1)
    pictures: list[Pixels] = [astronaut(), wide, astronaut()[:300, :400], np.zeros((1, 1, 3), np.uint8)]
    together = detector().measure(pictures)
    alone = [detector().measure([picture])[0] for picture in pictures]
    for a, b in zip(together, alone, strict=True):
        assert [s.label for s in a.scores or ()] == [s.label for s in b.scores or ()]
        assert [s.score for s in a.scores or ()] == pytest.approx([s.score for s in b.scores or ()], abs=1e-4)


def test_a_network_output_that_is_not_finite_is_not_nothing_found() -> None:
    class Session:
        def run(self, *args: Any) -> list[Any]:
            return [np.full((1, 22, 2100), np.nan, np.float32)]

    with pytest.raises(DetectorError, match="not finite"):
        nudenet._CheckedSession(Session()).run(None, {})


def test_the_floor_is_known_and_no_lower_threshold_is_taken() -> None:
    assert detector().instrument.score_floor == 0.25
    with pytest.raises(DetectorError, match=r"threshold 0\.1 .* below 0\.25"):
        detector(threshold=0.1)
    assert detector(threshold=0.25).instrument.threshold == 0.25


def test_subjects_must_be_mapped() -> None:
    found = detector(threshold=0.6)
    assert [rule["label"] for rule in counting_rules(found, ["nudity"])] == LABELS["nudity"]
    with pytest.raises(DetectorError, match="which of its labels mean 'violence'") as caught:
        counting_rules(found, ["violence"])
    assert "labels: {violence: [FEMALE_GENITALIA_COVERED]}" in (caught.value.next_step or "")
    with pytest.raises(DetectorError, match="no label 'EXPOSED_BREAST_F'"):
        detector(labels={"nudity": ["EXPOSED_BREAST_F"]})


def test_the_instrument_names_package_file_and_route() -> None:
    instrument = detector().instrument
    assert instrument.package.startswith("nudenet 3.4.2, onnxruntime ")
    assert "opencv" in instrument.package
    assert instrument.weights_sha256 == "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"
    assert "BGR" in instrument.preprocessing
    assert detector(threshold=0.8, name="other").instrument.instrument_id == instrument.instrument_id


def test_labels_in_another_order_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudenet, "LABELS", (*nudenet.LABELS[1:], nudenet.LABELS[0]))
    with pytest.raises(DetectorError, match="not those this wrapper knows"):
        nudenet._detector.__wrapped__(nudenet.network_file())  # type: ignore[attr-defined]


def test_a_broken_network_file_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "320n.onnx"
    path.write_bytes(nudenet.network_file().read_bytes()[:1000])
    with pytest.raises(DetectorError, match="network cannot be loaded"):
        nudenet._detector(path)


def test_a_missing_package_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "nudenet" else real(name))
    with pytest.raises(DetectorError, match="nudenet is not installed") as caught:
        detector()
    assert "pip install nudenet" in (caught.value.next_step or "")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "testbed/judge"}, "does not use 'model'"),
        ({"parameters": {"resolution": 640}}, "no parameter 'resolution'"),
    ],
)
def test_mistakes_in_the_entry_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        detector(**fields)


def test_the_self_test_finds_the_drawn_face_and_notices_when_it_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    detector().self_test()
    darkened = draw_face() // 200
    monkeypatch.setattr(nudenet, "draw_face", lambda: darkened)
    with pytest.raises(DetectorError, match="does not find the face"):
        detector().self_test()
