"""An image classifier from a folder: one probability per class the network was trained on.

Loaded with `AutoModelForImageClassification`; the labels are the network's own (`id2label`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from audit.errors import DetectorError
from audit.instruments.detectors import folders
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_parameters,
    make_instrument,
    once_per_process,
    package_versions,
)
from audit.instruments.detectors.method import DetectorMethod
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.image_processing_base import ImageProcessingMixin

NAME = "classifier"
VERSION = "1"
_ACTIVATIONS = ("sigmoid", "softmax")


class Parameters(BaseModel):
    """Parameters of a classifier."""

    activation: Literal["sigmoid", "softmax"] | None = None
    "How outputs become probabilities; by default as the folder's `problem_type` says."


class Classifier(BaseDetector):
    """A classifier as a detector.

    Scores are probabilities in 0..1: independent per label for a multi-label network, else adding up to 1.
    """

    def __init__(self, spec: DetectorSpec, device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields), unused=("templates", "background"))
        self._ref = folders.resolve(spec)
        self._device = device
        settings = read_json(self._ref.path / "config.json")
        labels = labels_of(self._ref, settings)
        multi_label = settings.get("problem_type") == "multi_label_classification"
        self._activation = spec.parameters.get("activation", "sigmoid" if multi_label else "softmax")
        if self._activation not in _ACTIVATIONS:
            raise DetectorError(
                f"detector {spec.name!r} has no activation {self._activation!r}",
                where=f"detectors.{spec.name}.parameters.activation",
                next_step="use sigmoid or softmax",
            )
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=labels,
            score_floor=0.0,
            parameters={"activation": self._activation},
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        load_classifier(self._ref, self._device)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        import torch

        network, processor = load_classifier(self._ref, self._device)
        with torch.inference_mode():
            logits = network(pixel_values=folders.pixel_values(processor, images, self._device)).logits.cpu().double()
        probabilities = logits.sigmoid() if self._activation == "sigmoid" else logits.softmax(-1)
        labels = self._instrument.labels
        return [
            tuple(LabelScore(label, score) for label, score in zip(labels, row, strict=True))
            for row in probabilities.tolist()
        ]


@once_per_process
def load_classifier(ref: ModelRef, device: str) -> tuple[PreTrainedModel, ImageProcessingMixin]:
    """Load an image classifier with its image processor."""
    from transformers import AutoModelForImageClassification

    return folders.load_network(AutoModelForImageClassification, ref, device), folders.load_image_processor(ref)


def labels_of(ref: ModelRef, settings: Mapping[str, object]) -> tuple[str, ...]:
    """Return the names of a classifier's classes from its settings. Raises `DetectorError` unless each has one of its own."""
    named = settings.get("id2label")
    try:
        labels = tuple(str(named[str(index)]) for index in range(len(named)))  # type: ignore[index,arg-type]
    except (TypeError, KeyError):
        labels = ()
    if not labels or len(set(labels)) != len(labels):
        raise DetectorError(
            "the classifier's folder does not name its classes, each once (id2label, numbered from 0)",
            where=str(ref.path / "config.json"),
            next_step="add id2label to config.json in the order of the network's outputs",
        )
    return labels


def build(entry: DetectorSpec, concepts: Sequence[Concept], device: str) -> Classifier:
    """Return the classifier of a spec entry, whose labels are its own."""
    return Classifier(entry, device)


METHOD = DetectorMethod(NAME, VERSION, Parameters, build)
