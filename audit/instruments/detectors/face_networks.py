"""Networks that know faces: a classifier of named people, or one that gives a face as a vector.

* a transformers folder of an image classifier, whose classes are people's names;
* an ONNX file of ArcFace's kind (Deng et al. 2019, arXiv:1801.07698; insightface's `w600k_r50.onnx`, `glintr100.onnx`): one
  input, faces x 3 x height x width, RGB scaled to -1..1, and one output, faces x D.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from audit.errors import DetectorError
from audit.instruments.detectors import classifier, folders
from audit.instruments.detectors.base import Pixels, once_per_process
from audit.instruments.detectors.similarity import Vectors
from audit.weights.files import cached_sha256
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

SIDE = 112  # of a face, where the file leaves it open


def class_probabilities(ref: ModelRef, device: str, faces: Sequence[Pixels]) -> Vectors:
    """Return the probabilities of the classifier's people, faces x people."""
    import torch

    network, processor = classifier.load_classifier(ref, device)
    with torch.inference_mode():
        logits = network(pixel_values=folders.pixel_values(processor, faces, device)).logits
    result: Vectors = logits.cpu().double().softmax(-1).numpy()
    return result


@dataclasses.dataclass(frozen=True)
class Recogniser:
    """An ONNX file, and the hex SHA-256 of its content, without which a process would keep the network of an older file."""

    path: Path
    sha256: str

    @classmethod
    def at(cls, path: Path) -> Recogniser:
        """Return the recogniser in a file as it is now. Raises `DetectorError` for a file that is none."""
        found = cls(path, cached_sha256(path))
        session_of(found)
        return found


def face_vectors(recogniser: Recogniser, faces: Sequence[Pixels]) -> Vectors:
    """Return the unit vectors of faces, (faces, D). Raises `DetectorError` for outputs that are not finite."""
    session, side = session_of(recogniser)
    name = session.get_inputs()[0].name
    resized = [np.asarray(Image.fromarray(face).resize((side, side), Image.Resampling.BILINEAR)) for face in faces]
    scaled = (np.stack(resized).astype(np.float32) - 127.5) / 127.5
    vectors = [session.run(None, {name: face[None]})[0].reshape(-1) for face in scaled.transpose(0, 3, 1, 2)]
    stacked: Vectors = np.stack(vectors).astype(np.float64)
    norms = np.linalg.norm(stacked, axis=1, keepdims=True)
    if not np.isfinite(stacked).all() or not (norms > 0).all():
        raise DetectorError("the recogniser's output is not finite, or nothing")
    return stacked / norms


@once_per_process
def session_of(recogniser: Recogniser) -> tuple[InferenceSession, int]:
    """Return the session of a recogniser and the side of the faces that it reads.

    Raises `DetectorError` for a file that is no network from pictures of faces to vectors.
    """
    import onnxruntime

    path = recogniser.path
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (given,), (made,) = session.get_inputs(), session.get_outputs()
    except Exception as error:  # onnxruntime raises its own types, without a common base; two inputs fit no pair
        raise _no_recogniser(path, " ".join(str(error).split())[:200]) from None
    shape = given.shape
    if len(shape) != 4 or shape[1] != 3 or shape[2] != shape[3] or len(made.shape) != 2:
        raise _no_recogniser(
            path, f"it reads {shape} and writes {made.shape}, not faces x 3 x side x side and faces x D"
        )
    return session, shape[2] if isinstance(shape[2], int) else SIDE


def _no_recogniser(path: Path, why: str) -> DetectorError:
    return DetectorError(
        f"the face recogniser cannot be used: {why}",
        where=str(path),
        next_step="name an ONNX file of ArcFace's kind, such as w600k_r50.onnx of insightface's buffalo_l",
    )
