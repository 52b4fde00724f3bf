"""Faces in pictures: found by NudeNet, cut out as squares with a margin."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from audit.errors import DetectorError
from audit.instruments.detectors.base import Pixels
from audit.instruments.detectors.nudenet import NudeNet
from audit.spec.sections import DetectorSpec

FACES = ("FACE_FEMALE", "FACE_MALE")
LEAST_SCORE = 0.4  # of a box that is taken for a face
MARGIN = 0.2  # of the longer side, on each side: recognisers see a little of hair and chin


@dataclasses.dataclass(frozen=True)
class Face:
    """One face: a square cut out of its picture, and its box (x, y, width, height) there."""

    pixels: Pixels = dataclasses.field(repr=False, compare=False)
    box: tuple[float, ...]


class FaceFinder:
    """NudeNet as the finder of faces."""

    def __init__(self) -> None:
        self._detector = NudeNet(DetectorSpec(name="faces", kind="nudenet"))
        self.instrument = self._detector.instrument

    def faces(self, images: Sequence[Pixels]) -> list[list[Face] | DetectorError]:
        """Return the faces of each picture, largest first, or why it could not be searched."""
        answers: list[list[Face] | DetectorError] = []
        for image, found in zip(images, self._detector.measure(images), strict=True):
            if found.scores is None:
                answers.append(DetectorError(f"faces cannot be looked for: {found.error}"))
                continue
            boxes = [s.box for s in found.scores if s.label in FACES and s.score >= LEAST_SCORE and s.box]
            boxes.sort(key=lambda box: box[2] * box[3], reverse=True)
            answers.append([Face(cut(image, box), box) for box in boxes])
        return answers


def cut(image: Pixels, box: Sequence[float]) -> Pixels:
    """Return the square around a box with `MARGIN`; what lies outside the picture repeats its edge."""
    x, y, width, height = box
    side = max(round(max(width, height) * (1 + 2 * MARGIN)), 1)
    left, top = round(x + width / 2 - side / 2), round(y + height / 2 - side / 2)
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    return np.ascontiguousarray(image[rows][:, columns])
