"""Filters of pictures: the safety checker as diffusers decides, CLIP by hand, NudeNet as its package scores."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import CLIPImageProcessor

from audit import guards
from audit.errors import CheckpointError, DetectorError, SpecError
from audit.filters.building import build
from audit.filters.protocol import Parts, PictureFilter, Pixels, Ruling
from audit.instruments.detectors import nudenet
from audit.instruments.detectors.clip_zero_shot import picture_embeddings, text_embeddings
from audit.instruments.detectors.known_face import draw_face
from audit.spec.sections import Concept, Guard
from audit.testbed.scenes import write_corpus
from audit.weights.references import resolve_model
from tests.filters.models import write_safety_checker, write_text_classifier

RING = Concept(name="ring", phrase="ring", synonyms=("hoop",))


def built(name: str, **parameters: Any) -> PictureFilter:
    guard = Guard(name=name, parameters=parameters)
    known = {ref.sha256: ref for ref in map(resolve_model, guards.parse(guard).models().values())}
    found = build(guards.resolve(guard, RING), Parts("cpu", known.__getitem__))
    assert isinstance(found, PictureFilter)
    return found


@pytest.fixture(scope="module")
def noise() -> list[Pixels]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, (48, 48, 3), dtype=np.uint8) // (1 + n % 3) for n in range(12)]


@pytest.fixture(scope="module")
def middle(tmp_path_factory: pytest.TempPathFactory, noise: list[Pixels]) -> float:
    """The threshold that half of the pictures exceed."""
    folder = write_safety_checker(tmp_path_factory.mktemp("checker") / "zero")
    rulings = built("safety-checker", model=str(folder)).rule(noise)
    highest = [max(value for name, value in r.measures.items() if name.startswith("concept")) for r in rulings]
    return float(np.median(highest))


@pytest.mark.parametrize("special", [1.0, -1.0], ids=["plain", "special-care"])
def test_the_safety_checker_decides_as_diffusers_does(
    tmp_path: Path, noise: list[Pixels], middle: float, special: float
) -> None:
    folder = write_safety_checker(tmp_path / "checker", threshold=middle, special=special)
    rulings = built("safety-checker", model=str(folder)).rule(noise)
    network = StableDiffusionSafetyChecker.from_pretrained(folder).eval()
    processor = CLIPImageProcessor.from_pretrained(folder)
    values = processor(noise, return_tensors="pt")["pixel_values"]
    _, expected = network(clip_input=values, images=[picture.copy() / 255 for picture in noise])
    assert [ruling.blocked for ruling in rulings] == expected
    assert {True, False} == set(expected), "the thresholds tell nothing apart"


def test_the_adjustment_makes_the_safety_checker_stricter(tmp_path: Path, noise: list[Pixels], middle: float) -> None:
    folder = str(write_safety_checker(tmp_path / "checker", threshold=middle))
    plain, strict = (built("safety-checker", model=folder, adjustment=a).rule(noise) for a in (0.0, 0.2))
    assert sum(r.blocked for r in plain) < len(noise) == sum(r.blocked for r in strict)
    for one, other in zip(plain, strict, strict=True):
        assert other.measures["concept_3"] == pytest.approx(one.measures["concept_3"] + 0.2, abs=2e-3)


def test_a_checker_with_other_weights_or_none_is_refused(tmp_path: Path, noise: list[Pixels]) -> None:
    folder = write_safety_checker(tmp_path / "checker")
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "projection_dim": 9}))
    with pytest.raises(CheckpointError, match="guard safety-checker: its model cannot be loaded"):
        built("safety-checker", model=str(folder)).rule(noise[:1])
    with pytest.raises(CheckpointError, match="there is no such model folder"):
        resolve_model(str(tmp_path / "none"))
    parsed = guards.parse(Guard(name="safety-checker", parameters={"model": "testbed/judge"}))
    with pytest.raises(CheckpointError, match="testbed/judge is no StableDiffusionSafetyChecker"):
        parsed.check({"checker": resolve_model("testbed/judge")}, [RING], "here")  # type: ignore[attr-defined]
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(CheckpointError, match="does not say how pixels reach"):
        parsed.check({"checker": resolve_model(str(folder))}, [RING], "here")  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Pixels]]:
    from audit.corpus.images import decode

    found = {}
    for name in ("ring", "star"):
        folder = tmp_path_factory.mktemp(name)
        write_corpus(str(folder), name, 4, "audit")
        found[name] = [
            decode(path.read_bytes(), max_bytes=10**7, max_pixels=10**7) for path in sorted(folder.glob("*.png"))
        ]
    return found


def test_the_clip_filter_tells_rings_from_stars(scenes: dict[str, list[Pixels]]) -> None:
    parameters = {"model": "testbed/judge", "phrases": ["ring"], "background": ["a photo of a star"]}
    by_share = built("clip-filter", **parameters)
    assert [r.blocked for r in by_share.rule(scenes["ring"])] == [True] * 4
    assert [r.blocked for r in by_share.rule(scenes["star"])] == [False] * 4


def test_the_clip_filter_s_numbers_are_the_network_s(scenes: dict[str, list[Pixels]]) -> None:
    ref, pictures = resolve_model("testbed/judge"), scenes["ring"]
    texts = text_embeddings(ref, "cpu", ["a photo of a ring", "a photo of a star"])
    cosines = (picture_embeddings(ref, "cpu", pictures) @ texts.T).double()
    parameters = {"model": "testbed/judge", "phrases": ["ring"]}
    shares = built("clip-filter", **parameters, background=["a photo of a star"]).rule(pictures)
    middle = float(cosines[:, 0].median())
    by_cosine = built("clip-filter", **parameters, cosine=middle).rule(pictures)
    for row, share, cosine in zip(cosines, shares, by_cosine, strict=True):
        assert cosine.measures["cosine"] == pytest.approx(float(row[0]), abs=1e-5)
        assert cosine.blocked == (cosine.measures["cosine"] >= middle)
        assert 0 <= share.measures["share"] <= 1
    assert {r.blocked for r in by_cosine} == {True, False}
    alone = built("clip-filter", **parameters, cosine=middle).rule(pictures[:1])[0]
    assert alone.measures["cosine"] == pytest.approx(by_cosine[0].measures["cosine"], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("clip-filter", {}, "parameter model"),
        ("clip-filter", {"model": "testbed/judge"}, "give either background prompts"),
        ("clip-filter", {"model": "x", "background": ["a"], "cosine": 0.2}, "give either background prompts"),
        ("clip-filter", {"model": "x", "cosine": 0.2, "threshold": 0.5}, "with a cosine leave it out"),
        ("nudenet-filter", {"labels": ["NOSE"]}, "no label 'NOSE'; its labels are: FEMALE"),
        ("nudenet-filter", {"labels": []}, "parameter labels"),
        ("nudenet-filter", {"threshold": 0.1}, "parameter threshold"),
        ("safety-checker", {}, "parameter model"),
        ("safety-checker", {"model": "x", "strict": True}, "safety-checker takes: model, adjustment"),
    ],
)
def test_parameters_of_filters_are_checked(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        guards.parse(Guard(name=name, parameters=parameters))


def test_a_clip_filter_that_cannot_read_its_prompts_is_refused(tmp_path: Path) -> None:
    def check(model: str, **parameters: Any) -> None:
        parsed = guards.parse(Guard(name="clip-filter", parameters={"model": model, "cosine": 0.2, **parameters}))
        parsed.check({"model": resolve_model(model)}, [RING], "here")  # type: ignore[attr-defined]

    check("testbed/judge", phrases=["ring"])
    with pytest.raises(SpecError, match="cannot read 'a photo of a 42': it has a word outside its vocabulary"):
        check("testbed/judge", phrases=["42"])
    with pytest.raises(SpecError, match="is not a CLIPModel"):
        check(str(write_text_classifier(tmp_path / "classifier")), phrases=["ring"])


def test_the_nudenet_filter_blocks_what_its_labels_name(noise: list[Pixels]) -> None:
    face = draw_face()
    by_face = built("nudenet-filter", labels=["FACE_FEMALE"], threshold=0.4)
    blocked, passed = by_face.rule([face, noise[0]])
    assert blocked.blocked and blocked.measures["FACE_FEMALE"] > 0.4
    assert (passed.blocked, dict(passed.measures)) == (False, {})
    assert not built("nudenet-filter").rule([face])[0].blocked


def test_a_nudenet_that_misses_a_known_face_rules_on_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nudenet, "draw_face", lambda: np.zeros((320, 320, 3), np.uint8))
    with pytest.raises(DetectorError, match="does not find the face"):
        built("nudenet-filter")


def test_a_number_that_is_none_is_no_ruling() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        Ruling(True, {"cosine": float("nan")}).as_json("clip-filter", "1")


def test_rulings_do_not_depend_on_the_batch(tmp_path: Path, noise: list[Pixels], middle: float) -> None:
    checker = built("safety-checker", model=str(write_safety_checker(tmp_path / "checker", threshold=middle)))
    whole = checker.rule(noise)
    assert torch.tensor([r.blocked for r in whole]).tolist() == [checker.rule([p])[0].blocked for p in noise]
