"""Q16 on a real tiny CLIP: both forms of its prompts, pickles that ask for code, parity with CLIP of transformers."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from PIL import Image
from transformers import CLIPModel
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from audit.errors import AuditError, DetectorError
from audit.instruments.detectors import build, counting_rules
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.prompt_arrays import UnusableArray, read_array
from audit.spec.sections import DetectorSpec

WIDTH = 8  # of the tiny CLIP's embeddings


@pytest.fixture
def prompts() -> np.ndarray[Any, Any]:
    return np.random.default_rng(3).normal(size=(2, WIDTH)).astype(np.float16)


def detector(clip_folder: Path, prompts: Path | None, **fields: Any) -> Detector:
    parameters = {} if prompts is None else {"prompts": str(prompts)}
    entry = {"name": "q16", "kind": "q16", "model": str(clip_folder), "labels": {"gore": ["offensive"]}}
    return build(DetectorSpec.model_validate({**entry, "parameters": parameters, **fields}), ())


def scores(judge: Detector, images: list[Pixels]) -> np.ndarray[Any, Any]:
    results = judge.measure(images)
    assert [result.error for result in results] == [None] * len(images)
    return np.array([[score.score for score in result.scores or ()] for result in results])


def test_scores_are_those_of_clip_and_of_the_authors_formula(
    clip_folder: Path, tmp_path: Path, prompts: np.ndarray[Any, Any], images: list[Pixels]
) -> None:
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(prompts))
    network, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPImageProcessorPil.from_pretrained(clip_folder),
    )
    values = processor([Image.fromarray(image) for image in images], return_tensors="pt")["pixel_values"]
    with torch.inference_mode():
        seen = network.visual_projection(network.vision_model(values).pooler_output)
    tuned = torch.from_numpy(prompts).float()
    cosines = torch.nn.functional.cosine_similarity(seen[:, None], tuned[None], dim=-1)
    judge = detector(clip_folder, tmp_path / "prompts.p")
    np.testing.assert_allclose(scores(judge, images), (100.0 * cosines).softmax(-1).numpy(), atol=1e-4)
    assert [rule["label"] for rule in counting_rules(judge, ["gore"])] == ["offensive"]
    judge.self_test()


@pytest.mark.parametrize("form", [2, 4, 5, "list", "safetensors", "torch"])
def test_prompts_are_read_from_every_form(tmp_path: Path, prompts: np.ndarray[Any, Any], form: int | str) -> None:
    path = tmp_path / ("prompts.safetensors" if form == "safetensors" else "prompts.p")
    if form == "safetensors":
        safetensors.numpy.save_file({"prompts": prompts}, path)
    elif form == "torch":
        torch.save(torch.from_numpy(prompts), path)
    elif form == "list":
        path.write_bytes(pickle.dumps(prompts.astype(float).tolist()))
    else:
        path.write_bytes(pickle.dumps(prompts, protocol=int(form)))
    np.testing.assert_array_equal(read_array(path), prompts.astype(np.float64))


class _Calls:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("saved", ["pickle", "torch"])
def test_a_pickle_that_asks_for_code_is_refused_by_name_and_not_run(tmp_path: Path, saved: str) -> None:
    path, mark = tmp_path / "prompts.p", tmp_path / "ran"
    hostile = _Calls(Path.touch, mark)
    if saved == "torch":
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps(hostile))
    with pytest.raises(UnusableArray, match=r"could run code when it is loaded .*(Path|getattr)"):
        read_array(path)
    assert not mark.exists()


def test_a_pickle_cannot_ask_for_an_array_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "prompts.p"
    path.write_bytes(pickle.dumps(_Calls(np.ndarray, (1 << 40,))))
    with pytest.raises(UnusableArray, match="damaged"):
        read_array(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS pointer"),
        (b"\x80\x04K\x01.", "no array of floating-point numbers"),
        (pickle.dumps(np.zeros((2, 8)))[:60], "damaged"),
    ],
)
def test_files_without_prompts_are_refused_at_plan_time(
    clip_folder: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "prompts.p").write_bytes(content)
    with pytest.raises(DetectorError, match=message):
        detector(clip_folder, tmp_path / "prompts.p")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones((2, 768)), r"shape \(2, 768\), and this CLIP compares vectors of 8"),
        (np.ones((3, WIDTH)), r"shape \(3, 8\)"),
        (np.ones((2, WIDTH)), "point the same way"),
        (np.stack([np.zeros(WIDTH), np.ones(WIDTH)]), "no direction"),
        (np.full((2, WIDTH), np.nan), "not finite"),
    ],
)
def test_prompts_that_cannot_tell_are_refused_at_plan_time(
    clip_folder: Path, tmp_path: Path, values: np.ndarray[Any, Any], message: str
) -> None:
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(values))
    with pytest.raises(DetectorError, match=message):
        detector(clip_folder, tmp_path / "prompts.p")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "needs its two learned prompt embeddings"),
        ({"parameters": {"prompts": "/nowhere/prompts.p"}}, "No such file"),
        ({"model": "testbed/classifier"}, "needs a network of type clip, and the folder holds 'resnet'"),
        ({"labels": {"gore": ["rude"]}, "parameters": {"prompts": "{prompts}"}}, "no label 'rude'"),
    ],
)
def test_mistakes_are_refused_at_plan_time(
    clip_folder: Path, tmp_path: Path, prompts: np.ndarray[Any, Any], fields: dict[str, Any], message: str
) -> None:
    (tmp_path / "prompts.p").write_bytes(pickle.dumps(prompts))
    filled = json.loads(json.dumps(fields).replace("{prompts}", str(tmp_path / "prompts.p")))
    with pytest.raises(AuditError, match=message):
        detector(clip_folder, None, **filled)


def test_the_prompts_are_part_of_the_instrument(
    clip_folder: Path, tmp_path: Path, prompts: np.ndarray[Any, Any]
) -> None:
    (tmp_path / "one.p").write_bytes(pickle.dumps(prompts))
    (tmp_path / "two.p").write_bytes(pickle.dumps(prompts[::-1].copy()))
    ids = {detector(clip_folder, tmp_path / name).instrument.instrument_id for name in ("one.p", "two.p")}
    assert len(ids) == 2
