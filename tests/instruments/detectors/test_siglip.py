"""SigLIP on a real tiny folder: scores as transformers' own pipeline gives them, independence of the phrases, refusals."""

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
from transformers import AutoTokenizer, SiglipModel, pipeline
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from audit.errors import AuditError, DetectorError
from audit.instruments.detectors import build
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.siglip import canonical_text
from audit.spec.sections import Concept, DetectorSpec
from tests.instruments.detectors.judges import write_siglip

CONCEPTS = (
    Concept(name="ring", phrase="Ring", neighbours=("circle",)),
    Concept(name="square", phrase="red square"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_siglip(tmp_path_factory.mktemp("siglip") / "siglip")


def detector(folder: Path, concepts: tuple[Concept, ...] = CONCEPTS, **fields: Any) -> Detector:
    return build(DetectorSpec.model_validate({"name": "j", "kind": "siglip", "model": str(folder), **fields}), concepts)


def scores(judge: Detector, images: list[Pixels]) -> np.ndarray[Any, Any]:
    results = judge.measure(images)
    assert [result.error for result in results] == [None] * len(images)
    return np.array([[score.score for score in result.scores or ()] for result in results])


def test_scores_are_those_of_the_pipeline_of_transformers(folder: Path, images: list[Pixels]) -> None:
    labels = ["circle", "ring", "red square"]
    classify = pipeline(
        "zero-shot-image-classification",
        model=SiglipModel.from_pretrained(folder).eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        image_processor=SiglipImageProcessorPil.from_pretrained(folder),
        device="cpu",
    )
    theirs = []
    for image in images:
        answer = classify(Image.fromarray(image), candidate_labels=labels, hypothesis_template="a photo of a {}")
        found = {one["label"]: one["score"] for one in answer}
        theirs.append([found[label] for label in labels])
    np.testing.assert_allclose(scores(detector(folder), images), theirs, atol=1e-5)
    assert np.ptp(theirs) > 1e-3


def test_a_score_does_not_depend_on_the_other_phrases(folder: Path, images: list[Pixels]) -> None:
    alone = scores(detector(folder, CONCEPTS[1:]), images)
    np.testing.assert_allclose(scores(detector(folder), images)[:, 2:], alone, atol=1e-6)


def test_several_templates_are_averaged_as_unit_embeddings(folder: Path, images: list[Pixels]) -> None:
    templates = ["a photo of a {phrase}", "a picture of the {phrase}"]
    judge = detector(folder, CONCEPTS[1:], templates=templates)
    network, tokenizer = SiglipModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    texts = [template.replace("{phrase}", "red square") for template in templates]
    with torch.inference_mode():
        encoded = tokenizer(texts, padding="max_length", max_length=64, return_tensors="pt")
        units = torch.nn.functional.normalize(network.text_model(input_ids=encoded.input_ids).pooler_output, dim=-1)
        mean = torch.nn.functional.normalize(units.mean(0), dim=-1)
        values = SiglipImageProcessorPil.from_pretrained(folder)(Image.fromarray(images[0]), return_tensors="pt")
        seen = torch.nn.functional.normalize(network.vision_model(values["pixel_values"]).pooler_output, dim=-1)
        expected = (network.logit_scale.exp() * seen @ mean + network.logit_bias).sigmoid().item()
    assert scores(judge, images[:1])[0, 0] == pytest.approx(expected, abs=1e-5)


def test_the_instrument_holds_the_prompts_as_they_are_read(folder: Path) -> None:
    instrument = detector(folder).instrument
    assert json.loads(instrument.parameters)["prompts"]["ring"] == ["a photo of a ring"]
    other = detector(folder, templates=["a picture of a {phrase}"]).instrument
    assert instrument.instrument_id != other.instrument_id
    assert detector(folder, threshold=0.9).instrument.instrument_id == instrument.instrument_id


@pytest.mark.parametrize(
    ("text", "strip", "read"),
    [("A  Ring, red.", True, "a ring red"), ("A  Ring, red.", False, "a ring, red.")],
)
def test_texts_are_read_as_in_training(text: str, strip: bool, read: str) -> None:
    assert canonical_text(text, strip) == read


def test_the_self_test_notices_scores_that_are_not_the_network_s_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judge = detector(folder)
    judge.self_test()
    from audit.instruments.detectors import siglip

    monkeypatch.setattr(siglip, "_embeddings", lambda ref, device, prompts: torch.eye(3, 16))
    with pytest.raises(DetectorError, match="does not score as its own network does"):
        judge.self_test()


def test_nan_weights_leave_pictures_unassessed(folder: Path, tmp_path: Path, images: list[Pixels]) -> None:
    damaged = shutil.copytree(folder, tmp_path / "nan")
    weights = load_file(damaged / "model.safetensors")
    weights["logit_bias"][:] = float("nan")
    save_file(weights, damaged / "model.safetensors", metadata={"format": "pt"})
    assert {result.scores for result in detector(damaged).measure(images)} == {None}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "names no model"),
        ({"model": "testbed/judge"}, "needs a network of type siglip, and the folder holds 'clip'"),
        ({"templates": ["a photo"]}, "must contain {phrase} once"),
        ({"background": ["nothing"]}, "does not use 'background'"),
        ({"parameters": {"scoring": "softmax"}}, "no parameter 'scoring'"),
        ({"parameters": {"extra_classes": [""]}}, "must be a list of phrases"),
    ],
)
def test_mistakes_are_refused_at_plan_time(folder: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        detector(folder, **fields)


def test_a_folder_without_tokenizer_json_is_refused_at_plan_time(folder: Path, tmp_path: Path) -> None:
    bare = shutil.copytree(folder, tmp_path / "bare")
    (bare / "tokenizer.json").unlink()
    with pytest.raises(DetectorError, match=r"no tokenizer\.json"):
        detector(bare)


def test_words_outside_the_vocabulary_are_refused_before_a_picture_is_read(folder: Path, images: list[Pixels]) -> None:
    with pytest.raises(DetectorError, match="cannot read the prompt 'a photo of a zebra'"):
        detector(folder, (Concept(name="zebra", phrase="zebra"),)).measure(images)
