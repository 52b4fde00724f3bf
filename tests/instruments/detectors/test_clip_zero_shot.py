"""CLIP zero-shot on a real CLIPModel: loading, prompt sets, scoring, and what the instrument's identity covers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPTokenizer
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from audit.errors import AuditError, DetectorError
from audit.instruments.detectors import build, clip_zero_shot, counting_rules
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.clip_zero_shot import label_probabilities
from audit.spec.sections import Concept, DetectorSpec

RING = Concept(name="ring", phrase="ring", synonyms=("disc",), neighbours=("circle",))
BACKGROUND = ("a empty background", "a white background")


def detector(folder: Path, concepts: tuple[Concept, ...] = (RING,), **fields: Any) -> Detector:
    entry = {"name": "judge", "kind": "clip-zero-shot", "model": str(folder), "background": BACKGROUND, **fields}
    return build(DetectorSpec.model_validate(entry), concepts)


def probabilities(found: Detector, images: list[Pixels]) -> np.ndarray[Any, Any]:
    results = found.measure(images)
    assert [r.error for r in results] == [None] * len(images)
    return np.array([[score.score for score in r.scores or ()] for r in results])


def test_scores_are_those_of_clip_itself(clip_folder: Path, images: list[Pixels]) -> None:
    """Against the model's own forward pass over processor output, one template and no ensembling."""
    from PIL import Image

    model = CLIPModel.from_pretrained(clip_folder).eval()
    tokens = CLIPTokenizer.from_pretrained(clip_folder)(
        ["a photo of a circle", "a photo of a ring", *BACKGROUND], padding=True, return_tensors="pt"
    )
    pixels = CLIPImageProcessorPil.from_pretrained(clip_folder)(
        [Image.fromarray(i) for i in images], return_tensors="pt"
    )
    with torch.inference_mode():
        expected = model(**tokens, pixel_values=pixels["pixel_values"]).logits_per_image.softmax(-1).numpy()
    scores = probabilities(detector(clip_folder), images)
    np.testing.assert_allclose(scores[:, :2], expected[:, :2], atol=1e-5)
    np.testing.assert_allclose(scores[:, 2], expected[:, 2:].sum(-1), atol=1e-5)
    assert np.ptp(scores[:, 0]) > 0.01  # the pictures do differ for this model


def test_labels_are_concepts_neighbours_extras_and_background(clip_folder: Path, images: list[Pixels]) -> None:
    found = detector(clip_folder, parameters={"extra_classes": ["square"]})
    assert found.instrument.labels == ("circle", "ring", "square", "background")
    results = found.measure(images)
    assert [s.label for s in results[0].scores or ()] == list(found.instrument.labels)
    assert counting_rules(found, ["ring", "circle"])[1]["label"] == "circle"
    with pytest.raises(DetectorError, match="'moon'"):
        counting_rules(found, ["moon"])


def test_templates_and_synonyms_are_averaged(clip_folder: Path, images: list[Pixels]) -> None:
    templates = ("a photo of a {phrase}", "a picture of a {phrase}")
    one = detector(clip_folder)
    two = detector(clip_folder, templates=templates)
    three = detector(clip_folder, templates=templates, parameters={"synonyms": True})
    prompts = json.loads(three.instrument.parameters)["prompts"]
    assert prompts["ring"] == [
        "a photo of a ring",
        "a picture of a ring",
        "a photo of a disc",
        "a picture of a disc",
    ]
    first, second, third = (probabilities(found, images) for found in (one, two, three))
    assert np.abs(first - second).max() > 1e-4
    assert np.abs(second - third).max() > 1e-4


def test_softmax_shares_and_pairwise_does_not() -> None:
    logits = torch.tensor([[20.0, 20.0, 1.0, 0.0], [0.0, 1.0, 20.0, 20.0]], dtype=torch.float64)
    shared = label_probabilities(logits, 2, "softmax")
    assert shared[0].tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-6)
    assert shared.sum(-1).tolist() == pytest.approx([1, 1])
    apart = label_probabilities(logits, 2, "pairwise")
    assert apart[0].tolist() == pytest.approx([1, 1, 0], abs=1e-6)
    assert apart[1].tolist() == pytest.approx([0, 0, 1], abs=1e-6)
    alone = label_probabilities(logits[:, :2], 2, "softmax")
    assert alone.shape == (2, 2)


def test_batches_repeat_and_do_not_depend_on_company(clip_folder: Path, images: list[Pixels]) -> None:
    found = detector(clip_folder)
    together = probabilities(found, images)
    assert (probabilities(found, images) == together).all()
    alone = np.concatenate([probabilities(found, [image]) for image in images])
    np.testing.assert_allclose(alone, together, atol=1e-5)


def test_the_instrument_covers_weights_prompts_and_scoring_but_not_the_threshold(
    clip_folder: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(clip_folder, tmp_path / "other")
    weights = load_file(other / "model.safetensors")
    weights["logit_scale"] += 1
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    base = detector(clip_folder).instrument
    variants = [
        detector(other),
        detector(clip_folder, (RING, Concept(name="square", phrase="square"))),
        detector(clip_folder, (Concept(name="ring", phrase="disc", neighbours=("circle",)),)),
        detector(clip_folder, templates=("a picture of a {phrase}",)),
        detector(clip_folder, background=BACKGROUND[:1]),
        detector(clip_folder, parameters={"scoring": "pairwise"}),
        detector(clip_folder, parameters={"synonyms": True}),
        detector(clip_folder, parameters={"extra_classes": ["square"]}),
    ]
    assert len({base.instrument_id, *(v.instrument.instrument_id for v in variants)}) == len(variants)
    # Declaring `square` and adding it as an extra class ask the network the same question: one instrument.
    assert variants[1].instrument.instrument_id == variants[7].instrument.instrument_id
    moved = shutil.copytree(clip_folder, tmp_path / "moved")
    assert detector(moved, threshold=0.9, name="second").instrument.instrument_id == base.instrument_id


def test_text_is_embedded_once_per_process(
    clip_folder: Path, images: list[Pixels], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = clip_zero_shot._embed
    monkeypatch.setattr(clip_zero_shot, "_embed", lambda *args: (calls.append(1), real(*args))[1])
    templates = ("a {phrase}",)
    for _ in range(3):
        detector(clip_folder, templates=templates).measure(images)
    assert len(calls) == 4  # ring, circle and two background prompts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"parameters": {"scores": "softmax"}}, "no parameter 'scores'"),
        ({"parameters": {"scoring": "max"}}, "unknown scoring 'max'"),
        ({"parameters": {"scoring": "pairwise"}, "background": ()}, "has no prompts"),
        ({"parameters": {"extra_classes": "dog"}}, "list of phrases"),
        ({"parameters": {"extra_classes": 3}}, "list of phrases"),
        ({"parameters": {"synonyms": "yes"}}, "must be true or false"),
        ({"templates": ("a photo",)}, "must contain {phrase} once"),
        ({"background": ("a photo of a ring",)}, "share the prompt"),
        ({"parameters": {"extra_classes": ["Ring"]}}, "share the prompt"),
        ({"parameters": {"extra_classes": ["background"]}}, "name of the empty class"),
    ],
)
def test_mistakes_in_the_entry_are_refused(clip_folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DetectorError, match=message) as caught:
        detector(clip_folder, **fields)
    assert (caught.value.where or "").startswith("detectors.judge")


def test_a_single_label_has_nothing_to_be_compared_with(clip_folder: Path) -> None:
    with pytest.raises(DetectorError, match="always scores 1"):
        detector(clip_folder, (Concept(name="ring", phrase="ring"),), background=())


@pytest.mark.parametrize(
    ("phrase", "message"), [("zebra", "outside its vocabulary"), ("a " * 20 + "ring", "tokens, and it reads 16")]
)
def test_prompts_that_the_encoder_cannot_read_are_refused(clip_folder: Path, phrase: str, message: str) -> None:
    found = detector(clip_folder, (Concept(name="ring", phrase=phrase),))
    with pytest.raises(DetectorError, match=message):
        found.measure([np.zeros((8, 8, 3), np.uint8)])


def spoiled(folder: Path, target: Path, **changes: Any) -> Path:
    shutil.copytree(folder, target)
    weights = load_file(target / "model.safetensors")
    for name, value in changes.items():
        key = name.replace("__", ".")
        if value is None:
            del weights[key]
        else:
            weights[key] = value
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_weights_that_yield_nan_are_not_measurements(clip_folder: Path, tmp_path: Path, images: list[Pixels]) -> None:
    folder = spoiled(clip_folder, tmp_path / "nan", visual_projection__weight=torch.full((8, 16), float("nan")))
    found = detector(folder)
    assert [r.error for r in found.measure(images)] == ["the score of 'circle' is nan"] * len(images)
    with pytest.raises(DetectorError, match="cannot read a plain picture"):
        found.self_test()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual_projection__weight": None}, "1 missing keys, first visual_projection.weight"),
        ({"surplus": torch.zeros(1)}, "1 unexpected keys, first surplus"),
        ({"visual_projection__weight": torch.zeros(4, 16)}, "1 mismatched keys, first visual_projection.weight"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    clip_folder: Path, tmp_path: Path, images: list[Pixels], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(DetectorError, match=message):
        detector(spoiled(clip_folder, tmp_path / "bad", **changes)).measure(images)


def test_position_numbers_in_older_files_are_harmless(clip_folder: Path, tmp_path: Path, images: list[Pixels]) -> None:
    numbers = torch.arange(16).unsqueeze(0)
    folder = spoiled(clip_folder, tmp_path / "older", text_model__embeddings__position_ids=numbers)
    assert (probabilities(detector(folder), images) == probabilities(detector(clip_folder), images)).all()


@pytest.mark.parametrize("name", ["preprocessor_config.json", "vocab.json"])
def test_a_folder_without_its_small_files_is_refused(clip_folder: Path, tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "partial")
    (folder / name).unlink()
    with pytest.raises(AuditError, match=r"configuration file cannot be read|tokenizer cannot be loaded") as caught:
        detector(folder).measure([np.zeros((8, 8, 3), np.uint8)])
    assert str(folder) in (caught.value.where or "")


def test_a_working_detector_passes_its_self_test(clip_folder: Path) -> None:
    detector(clip_folder).self_test()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_a_gpu_reads_what_the_cpu_reads(clip_folder: Path, images: list[Pixels]) -> None:
    entry = {"name": "judge", "kind": "clip-zero-shot", "model": str(clip_folder), "background": BACKGROUND}
    on_gpu = build(DetectorSpec.model_validate(entry), (RING,), "cuda")
    assert on_gpu.instrument == detector(clip_folder).instrument
    np.testing.assert_allclose(probabilities(on_gpu, images), probabilities(detector(clip_folder), images), atol=1e-3)
