"""GroundingDINO on a real network of tiny size, and its threshold rule on planted outputs."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

from audit.errors import DetectorError
from audit.instruments.detectors import build, counting_rules, grounding_dino
from audit.instruments.detectors.base import Detector, Pixels
from audit.records import Measurement
from audit.spec.sections import Concept, DetectorSpec
from tests.instruments.detectors.folders import write_grounding_dino

CONCEPTS = (Concept(name="ring", phrase="Ring", neighbours=("square",)), Concept(name="disc", phrase="white disc"))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_grounding_dino(tmp_path_factory.mktemp("detectors") / "dino")


def detector(folder: Path | str | None, **fields: Any) -> Detector:
    entry = {"name": "dino", "kind": "grounding-dino", "model": str(folder) if folder else None, **fields}
    return build(DetectorSpec.model_validate(entry), CONCEPTS)


def boxes(found: Measurement, label: str) -> list[tuple[float, ...]]:
    assert found.error is None and found.scores is not None
    assert [s.score for s in found.scores if s.label == label] == sorted(
        (s.score for s in found.scores if s.label == label), reverse=True
    )
    return sorted((*(s.box or ()), s.score) for s in found.scores if s.label == label)  # scores may tie


def picture(height: int = 48, width: int = 64, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected(folder: Path, image: Pixels, caption: str, floor: float) -> list[tuple[float, ...]]:
    """What transformers' own processor makes of the network's output for one picture and one caption."""
    network = GroundingDinoForObjectDetection.from_pretrained(folder).eval()
    processor = GroundingDinoProcessor.from_pretrained(folder, backend="pil")
    inputs = processor(images=Image.fromarray(image), text=caption, return_tensors="pt")
    with torch.inference_mode():
        output = network(**inputs)
    (found,) = processor.post_process_grounded_object_detection(
        output, inputs["input_ids"], threshold=floor, text_threshold=0.5, target_sizes=[image.shape[:2]]
    )
    rows = [
        (x0, y0, x1 - x0, y1 - y0, score)
        for score, (x0, y0, x1, y1) in zip(found["scores"].tolist(), found["boxes"].tolist(), strict=True)
    ]
    return sorted(rows)


def test_boxes_are_those_of_transformers_own_processor(folder: Path) -> None:
    image = picture()
    found = detector(folder, parameters={"score_floor": 0.05}).measure([image])[0]
    seen = 0
    for label, caption in (("ring", "ring."), ("square", "square."), ("disc", "white disc.")):
        wanted = expected(folder, image, caption, 0.05)
        np.testing.assert_allclose(boxes(found, label), wanted, rtol=1e-3, atol=2e-3)
        seen += len(wanted)
    assert seen > 3  # an empty comparison would prove nothing


def test_company_and_size_do_not_change_a_pictures_boxes(folder: Path) -> None:
    found = detector(folder, parameters={"score_floor": 0.05})
    images = [picture(48, 64, seed) for seed in range(5)] + [picture(64, 48), picture(40, 40)]
    together = found.measure(images)
    for image, result in zip(images, together, strict=True):
        (alone,) = found.measure([image])
        for label in ("ring", "disc"):
            np.testing.assert_allclose(boxes(result, label), boxes(alone, label), rtol=1e-3, atol=1e-3)


def test_one_bad_picture_does_not_kill_the_batch(folder: Path) -> None:
    found = detector(folder).measure([picture(), picture().astype(np.float32), picture()])
    assert [result.error is None for result in found] == [True, False, True]


# Three tokens of interest: [CLS], one word, the full stop; the network pads the rest with minus infinity.
WORDS = torch.tensor([False, True, False, False])
BOX = (0.5, 0.5, 0.2, 0.4)


def planted(*rows: tuple[float, float, float, float]) -> torch.Tensor:
    """Logits of probabilities by token, padded as the network pads."""
    logits = torch.logit(torch.tensor(rows, dtype=torch.float64))
    return torch.cat([logits, torch.full((len(rows), 4), -math.inf, dtype=torch.float64)], dim=1)


@pytest.mark.parametrize(
    ("row", "threshold", "kept"),
    [
        ((0.1, 0.6, 0.1, 0.1), None, True),
        ((0.1, 0.4999, 0.1, 0.1), None, False),
        ((0.6, 0.1, 0.1, 0.1), None, True),  # the protocol counts a box whatever token gave its score
        ((0.6, 0.1, 0.1, 0.1), 0.5, False),  # and with require_phrase only one that has a word
        ((0.1, 0.6, 0.1, 0.1), 0.5, True),
        ((0.9, 0.55, 0.1, 0.1), 0.6, False),
        ((0.9, 0.65, 0.1, 0.1), 0.6, True),
    ],
)
def test_the_threshold_rule(row: tuple[float, float, float, float], threshold: float | None, kept: bool) -> None:
    found = grounding_dino.kept_boxes(planted(row), torch.tensor([BOX]), WORDS, floor=0.5, text_threshold=threshold)
    assert bool(found) is kept
    if kept:
        assert found[0][0] == pytest.approx(max(row)) and found[0][1] == pytest.approx(BOX)


def test_boxes_come_best_first() -> None:
    logits = planted((0.1, 0.6, 0.1, 0.1), (0.1, 0.2, 0.1, 0.1), (0.1, 0.9, 0.1, 0.1))
    found = grounding_dino.kept_boxes(logits, torch.tensor([BOX] * 3), WORDS, floor=0.5, text_threshold=None)
    assert [score for score, _ in found] == pytest.approx([0.9, 0.6])


@pytest.mark.parametrize("place", ["logit", "box"])
def test_a_number_that_is_not_finite_is_no_empty_picture(place: str) -> None:
    logits, found = planted((0.1, 0.2, 0.1, 0.1)), torch.tensor([BOX])
    (logits if place == "logit" else found)[0, 0] = math.nan
    with pytest.raises(DetectorError, match="not finite"):
        grounding_dino.kept_boxes(logits, found, WORDS, floor=0.5, text_threshold=None)


def test_weights_that_yield_nan_are_not_measured(folder: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(folder, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = next(n for n in weights if n.endswith("text_projection.weight"))
    save_file(
        {**weights, name: torch.full_like(weights[name], math.nan)}, broken / "model.safetensors", {"format": "pt"}
    )
    (result,) = detector(broken).measure([picture()])
    assert result.scores is None and "not finite" in (result.error or "")


def test_the_instrument_says_everything_that_determines_the_boxes(folder: Path, tmp_path: Path) -> None:
    instrument = detector(folder).instrument
    assert instrument.labels == ("disc", "ring", "square")
    assert instrument.score_floor == 0.1
    assert "longest_edge 128 shortest_edge 96" in instrument.preprocessing
    assert json.loads(instrument.parameters)["captions"] == {
        "disc": "white disc.",
        "ring": "ring.",
        "square": "square.",
    }
    other = write_grounding_dino(tmp_path / "other", seed=1)
    changed = [
        detector(other),
        detector(folder, parameters={"score_floor": 0.2}),
        detector(folder, parameters={"require_phrase": True}),
        detector(folder, parameters={"require_phrase": True, "text_threshold": 0.3}),
        detector(folder, parameters={"extra_classes": ["circle"]}),
    ]
    assert len({instrument.instrument_id, *(d.instrument.instrument_id for d in changed)}) == 6
    assert detector(folder, threshold=0.7).instrument.instrument_id == instrument.instrument_id


def test_subjects_count_by_their_own_caption_or_by_a_mapping(folder: Path) -> None:
    rules = counting_rules(detector(folder), ["ring", "square"])
    assert [(r["subject"], r["label"], r["threshold"]) for r in rules] == [
        ("ring",) * 2 + (0.5,),
        ("square",) * 2 + (0.5,),
    ]
    mapped = detector(folder, labels={"ring": ["ring", "hoop"]}, parameters={"extra_classes": ["hoop"]})
    assert mapped.counted_labels("ring") == ("ring", "hoop")
    with pytest.raises(DetectorError, match="hoop"):  # a word outside this vocabulary is no caption it can read
        mapped.measure([picture()])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"threshold": 0.05}, "outside what it can report"),
        ({"parameters": {"text_threshold": 0.3}}, "decides nothing"),
        ({"parameters": {"score_floor": 0}}, "between 0 and 1"),
        ({"parameters": {"require_phrase": "yes"}}, "true or false"),
        ({"parameters": {"scoring": "softmax"}}, "no parameter 'scoring'"),
        ({"parameters": {"extra_classes": ["one. two"]}}, "two phrases"),
        ({"background": ["nothing"]}, "does not use 'background'"),
        ({"model": None}, "names no model"),
        ({"model": "testbed/judge"}, "no GroundingDINO folder"),
    ],
)
def test_mistakes_in_the_spec_are_one_message(folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DetectorError, match=message) as caught:
        detector(**{"folder": folder, **{("folder" if k == "model" else k): v for k, v in fields.items()}})
    assert caught.value.next_step


def test_another_vocabulary_is_refused(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    words = (other / "vocab.txt").read_text().splitlines()
    words[7], words[1012] = words[1012], words[7]
    (other / "vocab.txt").write_text("\n".join(words) + "\n")
    (other / "tokenizer.json").unlink(missing_ok=True)
    with pytest.raises(DetectorError, match="otherwise than the network expects"):
        detector(other).measure([picture()])


def test_weights_that_are_missing_are_refused(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    name = next(n for n in weights if n.endswith("text_projection.weight"))
    save_file({n: t for n, t in weights.items() if n != name}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(DetectorError, match="missing keys"):
        detector(other).measure([picture()])
