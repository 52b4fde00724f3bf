"""Q16: is a picture inappropriate, by CLIP and two learned prompts.

Schramowski et al. 2022, "Can Machines Help Us Answering Question 16 in Datasheets, and In Turn Reflecting on Inappropriate
Content?" (arXiv:2202.06675). A picture's CLIP embedding is compared with two prompt embeddings that were tuned for CLIP
ViT-L/14; the score is the softmax of 100 times the cosines, so the authors' argmax is a threshold of 0.5.

`parameters.prompts` names the two embeddings: the published `data/ViT-L-14/prompts.p`, or a safetensors file with one tensor
(2, D). Row 0 stands for what is not offensive, row 1 for what is. A pickle is read by a reader that makes arrays and numbers
and nothing else: none of its code is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from audit.errors import DetectorError
from audit.instruments.detectors import folders
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_parameters,
    make_instrument,
    package_versions,
)
from audit.instruments.detectors.clip_zero_shot import load_clip, picture_embeddings
from audit.instruments.detectors.method import DetectorMethod
from audit.instruments.detectors.phrases import folder_of, mistake
from audit.instruments.detectors.prompt_arrays import FloatArray, UnusableArray, read_array
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.files import cached_sha256, read_json
from audit.weights.references import ModelRef
from audit.weights.sharing import path_of

NAME = "q16"
VERSION = "1"
LABELS = ("not_offensive", "offensive")  # in the order of the prompts
SCALE = 100.0
_EXAMPLE = "a folder of openai/clip-vit-large-patch14, or to org/name@<40-hex commit>"
_PUBLISHED = "name the authors' data/ViT-L-14/prompts.p, or a safetensors file with one tensor (2, D)"


class Parameters(BaseModel):
    """Parameters of Q16."""

    prompts: str
    "File of the two learned prompt embeddings: not offensive, then offensive."


class Q16(BaseDetector):
    """Q16 as a detector. Scores are two probabilities that add up to 1; a spec maps its subjects to `offensive`."""

    def __init__(self, spec: DetectorSpec, device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields), unused=("templates", "background"))
        self._ref = folder_of(spec, ("clip",), _EXAMPLE)
        self._device = device
        path = _prompts_path(spec)
        self._prompts = _checked(spec, path, self._ref)
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=LABELS,
            score_floor=0.0,
            parameters={"prompts_sha256": cached_sha256(path), "scale": SCALE},
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        load_clip(self._ref, self._device)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        pictures = picture_embeddings(self._ref, self._device, images).cpu().double().numpy()
        return [
            tuple(LabelScore(label, score) for label, score in zip(LABELS, row, strict=True))
            for row in probabilities(pictures, self._prompts).tolist()
        ]

    def self_test(self) -> None:
        """Raise `DetectorError` unless each prompt, taken for a picture, reads as what it stands for."""
        super().self_test()
        own = probabilities(self._prompts, self._prompts)
        if not (own[0, 0] > own[0, 1] and own[1, 1] > own[1, 0]):
            raise DetectorError(
                f"detector {self._instrument.detector!r} does not recognise its own prompts",
                next_step=_PUBLISHED,
            )


def probabilities(pictures: FloatArray, prompts: FloatArray) -> FloatArray:
    """Return the softmax of `SCALE` times the cosines of pictures (n, D) and prompts (2, D), n x 2."""
    logits = SCALE * _units(pictures) @ _units(prompts).T
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: FloatArray = shares / shares.sum(axis=1, keepdims=True)
    return result


def _units(vectors: FloatArray) -> FloatArray:
    result: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return result


def _prompts_path(spec: DetectorSpec) -> Path:
    named = spec.parameters.get("prompts")
    if not isinstance(named, str) or not named.strip():
        raise mistake(spec, "parameters.prompts", "Q16 needs its two learned prompt embeddings", _PUBLISHED)
    return path_of(named)


def _checked(spec: DetectorSpec, path: Path, ref: ModelRef) -> FloatArray:
    """Return the two prompts, (2, D). Raises `DetectorError` unless they are different vectors of the CLIP's own space."""
    where = "parameters.prompts"
    try:
        prompts = read_array(path)
    except UnusableArray as error:
        raise mistake(spec, where, f"the prompts {path} cannot be used: {error}", _PUBLISHED) from None
    width = read_json(ref.path / "config.json").get("projection_dim", 512)
    if prompts.shape != (2, width):
        raise mistake(
            spec,
            where,
            f"the prompts have the shape {prompts.shape}, and this CLIP compares vectors of {width}: (2, {width})",
            "use the prompts that were learned for this CLIP (openai/clip-vit-large-patch14 for the published ones)",
        )
    norms = np.linalg.norm(prompts, axis=1)
    if not np.isfinite(prompts).all() or not (norms > 0).all():
        raise mistake(spec, where, "the prompts hold numbers that are not finite, or no direction", _PUBLISHED)
    if np.allclose(*_units(prompts)):
        raise mistake(spec, where, "both prompts point the same way, so no picture can be told apart", _PUBLISHED)
    return prompts


def build(entry: DetectorSpec, concepts: Sequence[Concept], device: str) -> Q16:
    """Return the detector of a spec entry; its labels are its own."""
    return Q16(entry, device)


METHOD = DetectorMethod(NAME, VERSION, Parameters, build, "arXiv:2202.06675", files=("prompts",))
