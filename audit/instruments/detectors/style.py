"""Artist style: how alike a picture is to reference pictures of a style, in a space of styles or of CLIP.

CSD (Somepalli et al. 2024, "Measuring Style Similarity in Diffusion Models", arXiv:2404.01292) is a CLIP ViT-L/14 whose last
layer was trained on styles; `audit.instruments.detectors.style_networks` says how its folder is laid out. A `CLIPModel` folder
gives CLIP's own image embeddings, which mix style with content.

Every label is a style with references of its own. Its score is the highest cosine with them, or the mean of the `nearest`
highest; a negative cosine counts as 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel

from audit.errors import DetectorError
from audit.instruments.detectors import folders, style_networks
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
from audit.instruments.detectors.phrases import folder_of
from audit.instruments.detectors.references import References, read_references
from audit.instruments.detectors.similarity import Vectors, pooling_of, separation
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.references import ModelRef

NAME = "style"
VERSION = "1"
_MODEL = "a folder of CSD's ViT-L in safetensors, of openai/clip-vit-large-patch14, or to org/name@<40-hex commit>"
_EXAMPLE = "write references: {monet: folder/of/his/pictures}"
_BATCH = 32


class Parameters(BaseModel):
    """Parameters of a style judge."""

    references: dict[str, str]
    "Label -> folder or address of the pictures that show the style."
    pooling: Literal["max", "mean"] = "max"
    "A score is the highest cosine with a label's references, or the mean of the highest."
    nearest: int | None = None
    "The mean is over so many of the highest cosines; all by default."


class Style(BaseDetector):
    """A style judge. Scores are cosines in 0..1, one per label."""

    def __init__(self, spec: DetectorSpec, device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields), unused=("templates", "background"))
        self._ref = folder_of(spec, tuple(style_networks.LAYERS), _MODEL)
        self._device = device
        self._layout = style_networks.layout(spec, self._ref)
        self._references = read_references(spec, _EXAMPLE)
        self._pooling = pooling_of(spec, self._references)
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=tuple(one.label for one in self._references),
            score_floor=0.0,
            parameters={
                "layer": style_networks.LAYERS[self._layout.model_type],
                "references": {one.label: one.digests for one in self._references},
                "pooling": self._pooling.kind,
                "nearest": self._pooling.nearest,
            },
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        self._known()

    def _known(self) -> tuple[Vectors, ...]:
        return _embedded(self._ref, self._layout, self._device, self._references)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        pictures = style_networks.embeddings(self._ref, self._layout, self._device, images)
        columns = [self._pooling.scores(pictures @ known.T) for known in self._known()]
        return [
            tuple(LabelScore(label, float(score)) for label, score in zip(self._instrument.labels, row, strict=True))
            for row in np.stack(columns, axis=1)
        ]

    def self_test(self) -> None:
        """Raise `DetectorError` unless references are more like those of their own label than like those of the others.

        With a single label they must at least differ from each other.
        """
        super().self_test()
        own, others = separation(self._known(), self._pooling)
        if own > 1 - 1e-6 or own <= others:  # a comparison with nan is false
            how = f"their own label {own:.4f}" + ("" if np.isnan(others) else f", of another one {others:.4f}")
            raise DetectorError(
                f"detector {self._instrument.detector!r} does not tell its references apart: mean score under {how}",
                where=f"detectors.{self._instrument.detector}.parameters.references",
                next_step="choose pictures that share the style and nothing else, or another network",
            )


@once_per_process
def _embedded(
    ref: ModelRef, layout: style_networks.Layout, device: str, references: tuple[References, ...]
) -> tuple[Vectors, ...]:
    """Return the unit embeddings of each label's references. Raises `DetectorError` when the network gives none."""
    sets = []
    for one in references:
        rows: list[Vectors] = []
        waiting: list[Pixels] = []
        for picture in one.pictures():
            waiting.append(picture)
            if len(waiting) == _BATCH:
                rows.append(style_networks.embeddings(ref, layout, device, waiting))
                waiting = []
        if waiting:
            rows.append(style_networks.embeddings(ref, layout, device, waiting))
        sets.append(np.concatenate(rows))
        if not np.isfinite(sets[-1]).all():
            raise folders.unusable(ref, f"its embeddings of the references of {one.label!r} are not finite")
    return tuple(sets)


def build(entry: DetectorSpec, concepts: Sequence[Concept], device: str) -> Style:
    """Return the style judge of a spec entry, whose labels are those of its references."""
    return Style(entry, device)


METHOD = DetectorMethod(NAME, VERSION, Parameters, build, "arXiv:2404.01292", files=("references",))
