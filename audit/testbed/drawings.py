"""Scenes as drawings: outlines in ink on paper, a domain in which no model of the testbed was trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from audit.testbed.scenes import IMAGE_SIDE, Scene

PAPER, INK = 244.0, (30.0, 30.0, 34.0)


def in_ink(scene: Scene) -> NDArray[np.uint8]:
    """Return the outlines of a scene's objects, uint8 (64, 64, 3): lines two pixels wide, no fill, colour or background."""
    canvas = np.full((IMAGE_SIDE, IMAGE_SIDE, 3), PAPER)
    for thing in scene.objects:
        padded = np.pad(thing.mask.astype(np.float64), 1)
        inside = sum(padded[y : y + IMAGE_SIDE, x : x + IMAGE_SIDE] for y in range(3) for x in range(3)) / 9
        line = np.clip(6 * inside * (1 - inside), 0, 1)  # 1 where a third to two thirds of the pixels around are inside
        canvas += line[..., None] * (np.array(INK) - canvas)
    return np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
