"""What all detectors promise: nothing unreadable is 'clear', one bad picture spoils no other, rules are explicit."""

from __future__ import annotations

import subprocess
import sys
import threading
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from audit.errors import DetectorError
from audit.instruments.detectors import build, counting_rules
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_image,
    make_instrument,
    once_per_process,
)
from audit.records import Instrument, LabelScore
from audit.spec.sections import Concept, DetectorSpec


def spec(**fields: Any) -> DetectorSpec:
    return DetectorSpec.model_validate({"name": "judge", "kind": "classifier", **fields})


def instrument(entry: DetectorSpec, **changes: Any) -> Instrument:
    fields: dict[str, Any] = {
        "version": "1",
        "package": "p 1",
        "weights_sha256": "0" * 64,
        "preprocessing": "none",
        "labels": ("bright", "dark"),
        "score_floor": 0.25,
        "parameters": {"a": 1},
    }
    return make_instrument(entry, **{**fields, **changes})


class Brightness(BaseDetector):
    """Scores the mean brightness. Fails on any batch that holds a picture with a pixel of exactly `poison`."""

    poison = 13

    def __init__(self, entry: DetectorSpec) -> None:
        super().__init__(entry, instrument(entry))
        self.batches: list[int] = []

    def _prepare(self) -> None:
        pass

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        self.batches.append(len(images))
        if any((image == self.poison).all() for image in images):
            raise RuntimeError("poisoned\nbatch")
        level = [float(image.mean()) / 255 if image.max() else float("nan") for image in images]
        return [(LabelScore("bright", value), LabelScore("dark", 1 - value)) for value in level]


def grey(level: int) -> Pixels:
    return np.full((4, 4, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (grey(255).astype(np.float32) / 255, "uint8 in 0..255, not float32"),
        (grey(1).astype(np.int64), "not int64"),
        (grey(1)[..., 0], "4 x 4"),
        (np.zeros((4, 4, 4), np.uint8), "4 x 4 x 4"),
        (np.zeros((3, 4, 5), np.uint8), "3 x 4 x 5"),
        (np.zeros((0, 4, 3), np.uint8), "0 x 4 x 3"),
        ("picture.png", "not str"),
        (None, "not NoneType"),
    ],
)
def test_only_uint8_pictures_are_accepted(image: Any, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        check_image(image)
    before, bad, after = Brightness(spec()).measure([grey(255), image, grey(255)])
    assert bad.scores is None
    assert message in (bad.error or "")
    assert before.scores
    assert before == after


def test_a_failing_picture_spoils_no_other_and_order_is_kept() -> None:
    detector = Brightness(spec())
    images = [grey(level) for level in (10, 13, 30, 0, 50)]
    results = detector.measure(images)
    assert [r.error for r in results] == [
        None,
        "RuntimeError: poisoned batch",
        None,
        "the score of 'bright' is nan",
        None,
    ]
    assert [r.scores[0].score for r in results if r.scores] == [10 / 255, 30 / 255, 50 / 255]
    assert detector.batches == [5, 1, 1, 1, 1, 1]


def test_large_inputs_go_in_batches() -> None:
    detector = Brightness(spec())
    assert len(detector.measure([grey(9)] * 70)) == 70
    assert detector.batches == [32, 32, 6]
    assert detector.measure([]) == []


def test_too_few_results_are_not_taken_for_measurements() -> None:
    class Short(Brightness):
        def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
            return super()._scores(images)[:-1]

    assert [r.error for r in Short(spec()).measure([grey(9)] * 2)] == ["0 results for 1 pictures"] * 2


def test_an_unusable_detector_raises_instead_of_blaming_the_pictures() -> None:
    class Broken(Brightness):
        def _prepare(self) -> None:
            raise DetectorError("no weights")

    with pytest.raises(DetectorError, match="no weights"):
        Broken(spec()).measure([grey(9)])


def test_the_instrument_does_not_depend_on_name_and_threshold_but_on_all_else() -> None:
    same = {instrument(spec(name=name, threshold=t)).instrument_id for name in ("a", "b") for t in (0.3, 0.9)}
    assert len(same) == 1
    others = [
        instrument(spec(), version="2"),
        instrument(spec(), package="p 2"),
        instrument(spec(), weights_sha256="1" * 64),
        instrument(spec(), preprocessing="other"),
        instrument(spec(), labels=("dark", "bright")),
        instrument(spec(), score_floor=0.0),
        instrument(spec(), parameters={"a": 2}),
        instrument(spec(kind="nudenet")),
    ]
    assert len(same | {other.instrument_id for other in others}) == 1 + len(others)


@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.24])
def test_thresholds_below_the_floor_are_refused(threshold: float) -> None:
    with pytest.raises(DetectorError, match=f"threshold {threshold:g} .* never reports a score below 0.25"):
        Brightness(spec(threshold=threshold))
    with pytest.raises(DetectorError, match="never reports"):
        counting_rules(Brightness(spec()), ["bright"], threshold=threshold)


def test_counting_rules_follow_the_mapping_and_then_the_labels_own_names() -> None:
    detector = Brightness(spec(threshold=0.7, labels={"any": ["bright", "dark"], "unseen": []}))
    row = {"detector": "judge", "threshold": 0.7}
    assert counting_rules(detector, ["dark", "any", "unseen", "dark"]) == [
        {**row, "subject": "dark", "label": "dark"},
        {**row, "subject": "any", "label": "bright"},
        {**row, "subject": "any", "label": "dark"},
    ]
    assert counting_rules(detector, ["dark"], threshold=0.25)[0]["threshold"] == 0.25


def test_a_subject_without_a_label_is_refused_with_the_labels_there_are() -> None:
    with pytest.raises(DetectorError, match="which of its labels mean 'cat'") as caught:
        counting_rules(Brightness(spec()), ["cat"])
    assert "labels: {cat: [bright]}" in (caught.value.next_step or "")
    with pytest.raises(DetectorError, match="has no label 'britgh'") as caught:
        Brightness(spec(labels={"cat": ["britgh"]}))
    assert caught.value.where == "detectors.judge.labels.cat"


def test_labels_in_either_unicode_form_are_the_detectors_own() -> None:
    own, other = "café", unicodedata.normalize("NFD", "café")
    assert own != other
    for known, written in ((own, other), (other, own)):
        entry = spec(labels={"place": (written,)})

        class Places(Brightness):
            def __init__(self, entry: DetectorSpec, label: str = known) -> None:
                BaseDetector.__init__(self, entry, instrument(entry, labels=(label, "dark")))

        assert Places(entry).counted_labels("place") == (known,)


def test_a_network_is_made_once_even_by_many_threads() -> None:
    made: list[int] = []

    @once_per_process
    def network(number: int) -> int:
        made.append(number)
        return number

    threads = [threading.Thread(target=network, args=(7,)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [7]


def test_instruments_are_named_without_torch(clip_folder: Path, classifier_folder: Path) -> None:
    code = f"""
import sys
from audit.instruments.detectors import build, counting_rules
from audit.spec.sections import Concept, DetectorSpec
clip = DetectorSpec(name="c", kind="clip-zero-shot", model={str(clip_folder)!r}, background=("an empty background",))
classes = DetectorSpec(name="k", kind="classifier", model={str(classifier_folder)!r})
nude = DetectorSpec(name="n", kind="nudenet", labels={{"ring": ("FACE_FEMALE",)}})
for entry in (clip, classes, nude):
    assert counting_rules(build(entry, [Concept(name="ring", phrase="ring")]), ["ring"])
loaded = {{"torch", "transformers", "onnxruntime", "nudenet", "cv2"}} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_detector_without_a_model_says_so() -> None:
    for kind in ("clip-zero-shot", "classifier"):
        with pytest.raises(DetectorError, match="names no model"):
            build(spec(kind=kind), [Concept(name="ring", phrase="ring")])
