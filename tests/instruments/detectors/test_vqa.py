"""Judges that answer questions, on real tiny BLIP and PaliGemma folders: answers, their parsing, scores and refusals."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    BlipForQuestionAnswering,
    BlipProcessor,
    PaliGemmaForConditionalGeneration,
    PaliGemmaProcessor,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from audit.errors import AuditError, DetectorError
from audit.instruments.detectors import build, vqa_networks
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.vqa import parsed
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.references import resolve_model
from tests.instruments.detectors.judges import WORDS, write_blip, write_paligemma

CONCEPTS = (
    Concept(name="ring", phrase="ring", neighbours=("circle",)),
    Concept(name="square", phrase="red square"),
)
QUESTION = "is there a ring in the picture?"
YES, NO = (7 + WORDS.index(word) for word in ("yes", "no"))  # after the marks of BERT's tokenizer


def biased(folder: Path, copy: Path, **bias: float) -> Path:
    """A copy of a BLIP folder that prefers some words of its answers."""
    target = shutil.copytree(folder, copy)
    weights = load_file(target / "model.safetensors")
    for word, value in bias.items():
        weights["text_decoder.cls.predictions.bias"][7 + WORDS.index(word)] += value
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})
    return target


@pytest.fixture(scope="module")
def blip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network with random weights, which answers with any of its words."""
    return write_blip(tmp_path_factory.mktemp("vqa") / "blip")


@pytest.fixture(scope="module")
def yes_no(blip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same network, which answers yes or no."""
    return biased(blip, tmp_path_factory.mktemp("vqa") / "yes-no", yes=40.0, no=40.0)


def detector(folder: Path, **fields: Any) -> Detector:
    return build(DetectorSpec.model_validate({"name": "j", "kind": "vqa", "model": str(folder), **fields}), CONCEPTS)


def scores(judge: Detector, images: list[Pixels]) -> np.ndarray[Any, Any]:
    results = judge.measure(images)
    assert [result.error for result in results] == [None] * len(images)
    return np.array([[score.score for score in result.scores or ()] for result in results])


def test_blip_s_scores_are_the_first_token_of_the_answer_of_transformers(yes_no: Path, images: list[Pixels]) -> None:
    network = BlipForQuestionAnswering.from_pretrained(yes_no).eval()
    processor = BlipProcessor(BlipImageProcessorPil.from_pretrained(yes_no), AutoTokenizer.from_pretrained(yes_no))
    expected, said = [], []
    for image in images:
        inputs = processor(images=Image.fromarray(image), text=QUESTION, return_tensors="pt")
        with torch.inference_mode():
            output = network.generate(**inputs, max_new_tokens=8, output_logits=True, return_dict_in_generate=True)
        expected.append(output.logits[0][0, [YES, NO]].softmax(-1)[0].item())
        said.append(processor.decode(output.sequences[0], skip_special_tokens=True).split()[0])
    ours = scores(detector(yes_no), images)
    np.testing.assert_allclose(ours[:, 1], expected, atol=1e-5)
    assert ((ours[:, 1] >= 0.5) == (np.array(said) == "yes")).all()
    answered = scores(detector(yes_no, parameters={"scoring": "answer"}), images)
    assert (answered == (ours >= 0.5)).all()


def test_paligemma_s_answers_are_those_of_transformers(tmp_path: Path, images: list[Pixels]) -> None:
    folder = write_paligemma(tmp_path / "paligemma")
    ref, prompt = resolve_model(str(folder)), f"answer en {QUESTION}"
    network = PaliGemmaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    processor = PaliGemmaProcessor(SiglipImageProcessorPil.from_pretrained(folder), tokenizer)
    yes, no = (tokenizer(word, add_special_tokens=False).input_ids[0] for word in ("yes", "no"))
    ours = vqa_networks.answers("paligemma", ref, "cpu", images[:3], prompt)
    for image, answer in zip(images, ours, strict=False):
        with warnings.catch_warnings(action="ignore", category=DeprecationWarning):  # of numpy's about the processor
            inputs = processor(images=Image.fromarray(image), text=f"<image>{prompt}", return_tensors="pt")
        inputs.pop("labels", None)
        with torch.inference_mode():
            first = network(**inputs).logits[0, -1]
            written = network.generate(**inputs, max_new_tokens=vqa_networks.NEW_TOKENS, do_sample=False)
        assert answer.yes == pytest.approx(first[[yes, no]].softmax(-1)[0].item(), abs=1e-5)
        assert answer.text == processor.decode(written[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
    assert json.loads(detector(folder).instrument.parameters)["prompts"]["ring"] == prompt


@pytest.mark.parametrize(
    ("answer", "meaning"),
    [
        ("yes", True), (" Yes, there is.", True), ("NO", False), ("no ring", False),
        ("", None), ("?", None), ("nothing", None), ("a ring", None), ("yesterday", None), ("1", None),
    ],
)  # fmt: skip
def test_an_answer_is_its_first_word(answer: str, meaning: bool | None) -> None:
    assert parsed(answer) is meaning


def test_an_answer_that_is_neither_leaves_its_picture_unassessed(
    blip: Path, yes_no: Path, tmp_path: Path, images: list[Pixels]
) -> None:
    results = detector(biased(blip, tmp_path / "ring", ring=80.0)).measure(images)
    assert {result.scores for result in results} == {None}
    assert all("is 'ring ring" in str(result.error) and "neither yes nor no" in str(result.error) for result in results)
    mixed = detector(yes_no).measure([images[0], images[1].astype(np.float32), images[2]])
    assert [result.error is None for result in mixed] == [True, False, True]


def test_the_instrument_holds_question_parsing_and_decoding(yes_no: Path) -> None:
    base = detector(yes_no).instrument
    described = json.loads(base.parameters)
    assert described["prompts"] == {
        "circle": "is there a circle in the picture?",
        "ring": QUESTION,
        "square": "is there a red square in the picture?",
    }
    assert described["answers"] == ["yes", "no"] and described["decoding"] == "greedy, at most 8 tokens"
    own = detector(yes_no, parameters={"questions": {"ring": "a ring?"}}).instrument
    other = detector(yes_no, parameters={"question": "the {phrase}?"}).instrument
    assert len({base.instrument_id, own.instrument_id, other.instrument_id}) == 3
    assert json.loads(own.parameters)["prompts"]["ring"] == "a ring?"


def test_the_self_test_finds_a_network_that_always_agrees(yes_no: Path, tmp_path: Path) -> None:
    agreeing = biased(yes_no, tmp_path / "agreeing", yes=80.0)
    with pytest.raises(DetectorError, match="does not know a red picture from a blue one"):
        detector(agreeing).self_test()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": None}, "names no model"),
        ({"model": "testbed/judge"}, "needs a network of type blip or paligemma, and the folder holds 'clip'"),
        ({"templates": ["a {phrase}"]}, "does not use 'templates'"),
        ({"parameters": {"question": "is it there?"}}, "must contain {phrase} once"),
        ({"parameters": {"question": 3}}, "the question must be a text"),
        ({"parameters": {"questions": {"moon": "a moon?"}}}, "asks about 'moon', which is no label"),
        ({"parameters": {"questions": {"ring": QUESTION, "circle": QUESTION}}}, "share the question"),
        ({"parameters": {"questions": ["a moon?"]}}, "must map labels to questions"),
        ({"parameters": {"scoring": "beam"}}, "unknown scoring 'beam'"),
    ],
)
def test_mistakes_are_refused_at_plan_time(blip: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(AuditError, match=message):
        detector(blip, **fields)


def test_another_class_of_the_family_is_refused_at_plan_time(blip: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(blip, tmp_path / "retrieval")
    settings = json.loads((folder / "config.json").read_text())
    settings["architectures"] = ["BlipForImageTextRetrieval"]
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(DetectorError, match="is a BlipForImageTextRetrieval"):
        detector(folder)


def test_words_outside_the_vocabulary_are_refused_before_a_picture_is_read(blip: Path, images: list[Pixels]) -> None:
    with pytest.raises(DetectorError, match="cannot read the question 'do you see a ring\\?'"):
        detector(blip, parameters={"questions": {"ring": "do you see a ring?"}}).measure(images)
