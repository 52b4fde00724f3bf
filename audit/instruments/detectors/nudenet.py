"""NudeNet v3: boxes of body parts, from the ONNX network inside the `nudenet` package.

Licence: the package metadata of nudenet 3.4.2 says MIT, but the LICENSE files in the wheel and the network's own
metadata say AGPL-3.0. Nothing of it is copied here; it is used as an installed package, and whoever ships it decides.

Route: pictures are `uint8` RGB and are handed over as BGR arrays, as the package itself reads files from disk, so
scores equal those of `NudeDetector().detect(path)` for the same pixels. An RGB array gives other scores (0.81 for 0.72
on one portrait), and floats give no boxes at all.

Floor: the package drops boxes below 0.25 (`cv2.dnn.NMSBoxes`), so no lower threshold can be applied afterwards. No box
at all is a measurement: an empty tuple of scores.
"""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel

from audit.errors import DetectorError, MissingInstrument
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_parameters,
    make_instrument,
    once_per_process,
    package_versions,
)
from audit.instruments.detectors.known_face import draw_face
from audit.instruments.detectors.method import DetectorMethod
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.files import cached_sha256

if TYPE_CHECKING:
    from nudenet import NudeDetector
    from onnxruntime import InferenceSession

_Box = TypedDict("_Box", {"class": str, "score": float, "box": Sequence[float]})

NAME = "nudenet"
VERSION = "1"
SCORE_FLOOR = 0.25
SELF_TEST_MIN = 0.5
PREPROCESSING = (
    "uint8 RGB > BGR array > nudenet: pad bottom and right to a square > cv2 resize 320 > times 1/255 > float32"
)

# Index order of the network's class outputs; compared with the file's own metadata when it is loaded.
LABELS = (
    "FEMALE_GENITALIA_COVERED",
    "FACE_FEMALE",
    "BUTTOCKS_EXPOSED",
    "FEMALE_BREAST_EXPOSED",
    "FEMALE_GENITALIA_EXPOSED",
    "MALE_BREAST_EXPOSED",
    "ANUS_EXPOSED",
    "FEET_EXPOSED",
    "BELLY_COVERED",
    "FEET_COVERED",
    "ARMPITS_COVERED",
    "ARMPITS_EXPOSED",
    "FACE_MALE",
    "BELLY_EXPOSED",
    "MALE_GENITALIA_EXPOSED",
    "ANUS_COVERED",
    "FEMALE_BREAST_COVERED",
    "BUTTOCKS_COVERED",
)


class NudeNet(BaseDetector):
    """NudeNet as a detector. Scores are the package's boxes: label, confidence in 0.25..1, and (x, y, width, height) in pixels.

    The spec must map every subject to labels, because none of them is called like a concept.
    """

    def __init__(self, spec: DetectorSpec) -> None:
        check_parameters(spec, (), unused=("model", "templates", "background"))
        self._path = network_file()
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=f"{package_versions('nudenet', 'onnxruntime')}, opencv {_opencv_version()}",
            weights_sha256=cached_sha256(self._path),
            preprocessing=PREPROCESSING,
            labels=LABELS,
            score_floor=SCORE_FLOOR,
            parameters={"resolution": 320, "iou": 0.45},
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        _detector(self._path)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        flipped = [np.ascontiguousarray(image[:, :, ::-1]) for image in images]
        batch = _detector(self._path).detect_batch(flipped, batch_size=len(flipped))
        return [tuple(_score(box) for box in boxes) for boxes in batch]

    def self_test(self) -> None:
        """Raise `DetectorError` unless the network finds the face in a drawing that is known to show one.

        An installation that feeds it wrongly scaled or ordered pixels finds nothing, and would call everything safe.
        """
        result = self.measure([draw_face()])[0]
        best = max((one.score for one in result.scores or () if one.label == "FACE_FEMALE"), default=0.0)
        if best < SELF_TEST_MIN:
            raise DetectorError(
                f"NudeNet does not find the face in a drawing that shows one (score {best:.2f}, expected 0.79): "
                + (result.error or "its readings cannot be trusted"),
                next_step="reinstall nudenet, onnxruntime and opencv, then run 'erasure-audit doctor'",
            )


def _score(box: _Box) -> LabelScore:
    x, y, width, height = map(float, box["box"])
    return LabelScore(box["class"], box["score"], (x, y, width, height))


class _CheckedSession:
    """The package's ONNX session, except that a non-finite output raises instead of reading as 'no boxes'."""

    def __init__(self, session: InferenceSession) -> None:
        self._session = session

    def run(self, *args: object) -> list[npt.NDArray[np.float32]]:
        """Return the session's outputs, all finite."""
        outputs: list[npt.NDArray[np.float32]] = self._session.run(*args)
        if not all(np.isfinite(output).all() for output in outputs):
            raise DetectorError("the network's output is not finite")
        return outputs


@once_per_process
def _detector(path: Path) -> NudeDetector:
    """Load the package's detector and verify its label order. One per process: it is thread-safe and cannot be pickled."""
    import nudenet

    try:
        detector = nudenet.NudeDetector(model_path=str(path))
        named = ast.literal_eval(detector.onnx_session.get_modelmeta().custom_metadata_map["names"])
        labels = tuple(named[index] for index in range(len(named)))
    except Exception as error:  # onnxruntime raises its own types, without a common base
        raise DetectorError(
            f"NudeNet's network cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=str(path),
            next_step="reinstall nudenet and onnxruntime",
        ) from error
    package_labels = tuple(getattr(nudenet.nudenet, "__labels", ()))
    if labels != LABELS or package_labels != LABELS:
        raise DetectorError(
            "NudeNet's labels are not those this wrapper knows, so its boxes would be misread",
            where=str(path),
            next_step="install nudenet 3.4.2",
        )
    detector.onnx_session = _CheckedSession(detector.onnx_session)
    return detector


def network_file() -> Path:
    """Return the network inside the package. Raises `MissingInstrument` when the package is not installed."""
    package = importlib.util.find_spec("nudenet")
    if package is None or not package.submodule_search_locations:
        raise MissingInstrument(
            "the package nudenet is not installed",
            where="detectors of kind nudenet",
            next_step="pip install nudenet==3.4.2 (its network is AGPL-3.0), or remove this detector from the spec",
        )
    return Path(package.submodule_search_locations[0]) / "320n.onnx"


def _opencv_version() -> str:
    """Return the version of whichever OpenCV distribution is installed: it resizes the pictures."""
    for name in ("opencv-python-headless", "opencv-python", "opencv-contrib-python"):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    raise MissingInstrument("NudeNet needs OpenCV", next_step="pip install opencv-python-headless")


class Parameters(BaseModel):
    """No parameters: a spec can set nothing."""


def build(entry: DetectorSpec, concepts: Sequence[Concept], device: str) -> NudeNet:
    """Return the detector of a spec entry; its labels are its own, and it runs on the CPU."""
    return NudeNet(entry)


METHOD = DetectorMethod(NAME, VERSION, Parameters, build)
