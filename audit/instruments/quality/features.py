"""Feature vectors of single pictures, from which distances between sets are computed when the journal is folded.

The network is named in the spec and is part of the instrument, because the distance is a distance in its features: a
CLIP (its projected image embedding; Frechet distance and CMMD), or a ResNet classifier (its pooled last layer before
the classes; Frechet distance only, for CMMD is defined on CLIP's embeddings).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from audit.instruments.detectors import folders
from audit.instruments.detectors.base import once_per_process, package_versions
from audit.instruments.detectors.clip_zero_shot import picture_embeddings
from audit.instruments.quality.base import Reading, Task, make_instrument
from audit.instruments.quality.method import QualityMethod
from audit.instruments.quality.networks import NetworkParameters, resolve
from audit.records import QualityInstrument
from audit.spec.quality import QualitySpec
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.image_processing_base import ImageProcessingMixin

VERSION = "1"
_LAYERS = {"clip": "projected image embedding, unit length", "resnet": "pooled last layer"}
_METRICS = {"clip": ("frechet", "cmmd"), "resnet": ("frechet",)}


class Features:
    """A network as an instrument: one float32 vector (D,) per picture."""

    def __init__(self, entry: QualitySpec, device: str) -> None:
        self._ref, self._device = resolve(entry, tuple(_LAYERS)), device
        self._kind = str(read_json(self._ref.path / "config.json")["model_type"])
        self._instrument = make_instrument(
            entry,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            metrics=_METRICS[self._kind],
            parameters={"layer": _LAYERS[self._kind], "model_type": self._kind},
        )

    @property
    def instrument(self) -> QualityInstrument:
        """Everything that determines the readings."""
        return self._instrument

    def read(self, tasks: Sequence[Task]) -> list[Reading]:
        """Return one vector (D,) per task's picture."""
        pictures = [task.picture for task in tasks]
        if self._kind == "clip":
            vectors = picture_embeddings(self._ref, self._device, pictures)
        else:
            import torch

            network, processor = _classifier(self._ref, self._device)
            with torch.inference_mode():
                values = folders.pixel_values(processor, pictures, self._device)
                vectors = network.base_model(values).pooler_output.flatten(1)
        return [Reading(vector=row) for row in vectors.float().cpu().numpy().astype(np.float32)]


@once_per_process
def _classifier(ref: ModelRef, device: str) -> tuple[PreTrainedModel, ImageProcessingMixin]:
    from transformers import AutoModelForImageClassification

    return folders.load_network(AutoModelForImageClassification, ref, device), folders.load_image_processor(ref)


METHOD = QualityMethod("features", VERSION, NetworkParameters, Features)
