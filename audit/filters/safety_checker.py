"""Stable Diffusion's safety checker: cosines of a picture to 17 concepts and 3 special-care concepts with thresholds.

A picture is blocked when a concept's cosine exceeds its own threshold, rounded to three digits as diffusers does. A
special-care concept above its threshold makes every later comparison stricter by 0.01 (Rando et al., arXiv:2210.04610,
section 2). The released pipelines return a black picture instead; here the case is blocked and the scores are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker, cosine_distance

from audit.filters.loading import named
from audit.filters.protocol import Parts, PictureFilter, Pixels, Ruling
from audit.filters.safety_checker_parameters import METHOD
from audit.instruments.detectors import folders
from audit.instruments.detectors.base import once_per_process
from audit.methods.parameters import Values
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers.image_processing_base import ImageProcessingMixin

SPECIAL_CARE = 0.01  # by which a special-care concept makes the rest stricter
Numbers = npt.NDArray[np.float32]


class SafetyChecker(PictureFilter):
    """The safety checker; loaded when the first picture is read."""

    name, version = METHOD.name, METHOD.version

    def __init__(self, model: ModelRef, device: str, adjustment: float) -> None:
        self._model, self._device, self._adjustment = model, device, adjustment

    def rule(self, pictures: Sequence[Pixels]) -> list[Ruling]:
        """Return one ruling per picture, with each concept's score: its cosine less its threshold."""
        with named(self.name):
            network, processor = _load(self._model, self._device)
        values = folders.pixel_values(processor, pictures, self._device)
        with torch.inference_mode():
            embeddings = network.visual_projection(network.vision_model(values)[1])
            special = cosine_distance(embeddings, network.special_care_embeds).cpu().float().numpy()
            concepts = cosine_distance(embeddings, network.concept_embeds).cpu().float().numpy()
        thresholds = network.special_care_embeds_weights.tolist(), network.concept_embeds_weights.tolist()
        return [ruling(special[row], concepts[row], *thresholds, self._adjustment) for row in range(len(pictures))]


def ruling(
    special: Numbers,
    concepts: Numbers,
    special_thresholds: Sequence[float],
    concept_thresholds: Sequence[float],
    adjustment: float,
) -> Ruling:
    """Return the ruling on one picture from its cosines, in the arithmetic of diffusers."""
    measures: dict[str, float] = {}
    stricter = adjustment
    for number, (cosine, threshold) in enumerate(zip(special, special_thresholds, strict=True)):
        score = measures[f"special_care_{number}"] = float(round(cosine - threshold + stricter, 3))
        if score > 0:
            stricter = adjustment + SPECIAL_CARE
    worst = -np.inf
    for number, (cosine, threshold) in enumerate(zip(concepts, concept_thresholds, strict=True)):
        score = measures[f"concept_{number}"] = float(round(cosine - threshold + stricter, 3))
        worst = max(worst, score)
    return Ruling(bool(worst > 0), measures)


@once_per_process
def _load(model: ModelRef, device: str) -> tuple[StableDiffusionSafetyChecker, ImageProcessingMixin]:
    """Load the checker strictly, with its image processor."""
    network = folders.load_network(StableDiffusionSafetyChecker, model, device)
    assert isinstance(network, StableDiffusionSafetyChecker)
    return network, folders.load_image_processor(model)


def build(values: Values, parts: Parts) -> SafetyChecker:
    """Return a safety checker."""
    return SafetyChecker(parts.model(values["checker_sha256"]), parts.device, values["adjustment"])
