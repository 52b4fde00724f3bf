"""The classifier on a real ResNet folder: scores, labels, activation, identity."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from audit.errors import DetectorError
from audit.instruments.detectors import build, counting_rules
from audit.instruments.detectors.base import Detector, Pixels
from audit.spec.sections import DetectorSpec
from tests.instruments.detectors.folders import CLASSES, write_classifier


def detector(folder: Path, **fields: Any) -> Detector:
    entry = {"name": "classes", "kind": "classifier", "model": str(folder), **fields}
    return build(DetectorSpec.model_validate(entry), ())


def probabilities(found: Detector, images: list[Pixels]) -> np.ndarray[Any, Any]:
    results = found.measure(images)
    assert [r.error for r in results] == [None] * len(images)
    assert all([s.label for s in r.scores or ()] == list(CLASSES) for r in results)
    return np.array([[score.score for score in r.scores or ()] for r in results])


def logits(folder: Path, images: list[Pixels]) -> torch.Tensor:
    model = AutoModelForImageClassification.from_pretrained(folder).eval()
    pictures = [Image.fromarray(image) for image in images]
    values = CLIPImageProcessorPil.from_pretrained(folder)(pictures, return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        return model(pixel_values=values).logits


def test_multi_label_scores_are_independent(classifier_folder: Path, images: list[Pixels]) -> None:
    scores = probabilities(detector(classifier_folder), images)
    np.testing.assert_allclose(scores, logits(classifier_folder, images).sigmoid().numpy(), atol=1e-5)
    assert np.ptp(scores[:, 0]) > 1e-4


def test_single_label_scores_add_up_to_one(tmp_path: Path, images: list[Pixels]) -> None:
    folder = write_classifier(tmp_path / "single", multi_label=False)
    scores = probabilities(detector(folder), images)
    np.testing.assert_allclose(scores, logits(folder, images).softmax(-1).numpy(), atol=1e-5)
    np.testing.assert_allclose(scores.sum(-1), 1)
    overridden = detector(folder, parameters={"activation": "sigmoid"})
    np.testing.assert_allclose(probabilities(overridden, images), logits(folder, images).sigmoid().numpy(), atol=1e-5)
    assert overridden.instrument.instrument_id != detector(folder).instrument.instrument_id


def test_batches_repeat_and_do_not_depend_on_company(classifier_folder: Path, images: list[Pixels]) -> None:
    found = detector(classifier_folder)
    together = probabilities(found, images)
    assert (probabilities(found, images) == together).all()
    alone = np.concatenate([probabilities(found, [image]) for image in images])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_a_picture_of_another_type_leaves_the_others_alone(classifier_folder: Path, images: list[Pixels]) -> None:
    found = detector(classifier_folder)
    expected = found.measure(images)
    mixed = found.measure([*images[:2], images[2].astype(np.float32) / 255, *images[3:]])
    assert mixed[2].scores is None
    assert [m.error for i, m in enumerate(mixed) if i != 2] == [None] * 4
    for i in (0, 1, 3, 4):
        ours = [s.score for s in mixed[i].scores or ()]
        assert ours == pytest.approx([s.score for s in expected[i].scores or ()], abs=1e-5)


def test_labels_count_by_name_or_by_mapping(classifier_folder: Path) -> None:
    found = detector(classifier_folder, threshold=0.8, labels={"round": ["ring", "circle"]})
    rules = counting_rules(found, ["square", "round"])
    assert [(r["subject"], r["label"], r["threshold"]) for r in rules] == [
        ("square", "square", 0.8),
        ("round", "ring", 0.8),
        ("round", "circle", 0.8),
    ]
    with pytest.raises(DetectorError, match="'moon'"):
        counting_rules(found, ["moon"])


def test_the_instrument_covers_weights_and_class_names_but_not_the_threshold(
    classifier_folder: Path, tmp_path: Path
) -> None:
    base = detector(classifier_folder).instrument
    assert detector(classifier_folder, threshold=0.9).instrument.instrument_id == base.instrument_id
    other = write_classifier(tmp_path / "other", seed=1)
    renamed = shutil.copytree(classifier_folder, tmp_path / "renamed")
    settings = json.loads((renamed / "config.json").read_text())
    settings["id2label"]["0"] = "hoop"
    (renamed / "config.json").write_text(json.dumps(settings))
    resized = shutil.copytree(classifier_folder, tmp_path / "resized")
    processor = json.loads((resized / "preprocessor_config.json").read_text())
    processor["resample"] = 2
    (resized / "preprocessor_config.json").write_text(json.dumps(processor))
    ids = {detector(folder).instrument.instrument_id for folder in (other, renamed, resized)}
    assert len(ids | {base.instrument_id}) == 4
    assert "resample 2" in detector(resized).instrument.preprocessing


@pytest.mark.parametrize(
    "names", [None, {}, {"0": "ring", "1": "ring", "2": "square"}, {"0": "ring", "2": "square"}, ["ring"]]
)
def test_classes_without_proper_names_are_refused(classifier_folder: Path, tmp_path: Path, names: Any) -> None:
    folder = shutil.copytree(classifier_folder, tmp_path / "unnamed")
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"] = names
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DetectorError, match="does not name its classes"):
        detector(folder)


def test_more_names_than_outputs_are_refused(classifier_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(classifier_folder, tmp_path / "more")
    settings = json.loads((folder / "config.json").read_text())
    settings["id2label"]["3"] = "moon"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DetectorError, match="mismatched keys"):
        detector(folder).measure([np.zeros((8, 8, 3), np.uint8)])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"activation": "relu"}}, "no activation 'relu'"),
        ({"parameters": {"scoring": "softmax"}}, "no parameter 'scoring'"),
        ({"background": ["nothing"]}, "does not use 'background'"),
        ({"templates": ["a {phrase}"]}, "does not use 'templates'"),
        ({"labels": {"ring": ["rings"]}}, "no label 'rings'"),
    ],
)
def test_mistakes_in_the_entry_are_refused(classifier_folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        detector(classifier_folder, **fields)


def test_an_entry_that_was_stored_with_its_defaults_builds_the_same_detector(classifier_folder: Path) -> None:
    entry = DetectorSpec(name="classes", kind="classifier", model=str(classifier_folder), labels={"hoop": ("ring",)})
    stored = DetectorSpec.model_validate(json.loads(json.dumps(entry.model_dump(mode="json"))))
    assert build(stored, ()).instrument == build(entry, ()).instrument


def test_weights_that_yield_nan_are_not_measurements(
    classifier_folder: Path, tmp_path: Path, images: list[Pixels]
) -> None:
    folder = shutil.copytree(classifier_folder, tmp_path / "nan")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.bias"][1] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert [r.error for r in detector(folder).measure(images)] == ["the score of 'circle' is nan"] * len(images)


def test_half_precision_files_are_computed_in_single_precision(
    classifier_folder: Path, tmp_path: Path, images: list[Pixels]
) -> None:
    folder = shutil.copytree(classifier_folder, tmp_path / "half")
    weights = load_file(folder / "model.safetensors")
    half = {name: t.half() if t.is_floating_point() else t for name, t in weights.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    np.testing.assert_allclose(
        probabilities(detector(folder), images), probabilities(detector(classifier_folder), images), atol=1e-2
    )


def test_an_unknown_device_is_one_message(classifier_folder: Path) -> None:
    entry = DetectorSpec(name="classes", kind="classifier", model=str(classifier_folder))
    with pytest.raises(DetectorError, match="cannot be moved to device 'nonsense'"):
        build(entry, (), "nonsense").measure([np.zeros((8, 8, 3), np.uint8)])
