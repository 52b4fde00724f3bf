"""Known faces: is somebody of a list in the picture, such as a celebrity that was erased.

Faces are found by NudeNet and cut out by their boxes, not turned upright by landmarks; each goes to a recogniser:

* `model`, a folder of an image classifier whose classes are people (the GIPHY celebrity detector in transformers' layout, or
  any other): the score is the softmax of the name;
* `parameters.recogniser`, an ONNX file of ArcFace's kind, here or on the hub (`org/name@commit/file`), with
  `parameters.references`: the score is the cosine with the faces of the reference pictures, the highest or the mean of the
  highest; a negative one counts as 0.

Of several faces in a picture each name's highest score is kept, with the box of that face. A picture in which no face is
found is not measured: nobody can tell whether the model drew none or the finder missed it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import BaseModel, Field

from audit.errors import DetectorError
from audit.identity import key
from audit.instruments.detectors import classifier, face_networks, folders
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_parameters,
    make_instrument,
    once_per_process,
    package_versions,
)
from audit.instruments.detectors.face_crops import LEAST_SCORE, MARGIN, Face, FaceFinder
from audit.instruments.detectors.face_networks import Recogniser
from audit.instruments.detectors.known_face import draw_face
from audit.instruments.detectors.method import DetectorMethod
from audit.instruments.detectors.phrases import mistake
from audit.instruments.detectors.references import References, read_references
from audit.instruments.detectors.similarity import Pooling, Vectors, pooling_of, separation
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.checkpoints import located, names_repository
from audit.weights.files import read_json
from audit.weights.references import ModelRef

NAME = "face"
VERSION = "1"
_EXAMPLE = "write references: {name: folder/of/pictures/of/that/person}"
_CHOICE = "set 'model' to a folder of an image classifier of people, or parameters.recogniser to an ONNX file"


class Parameters(BaseModel):
    """Parameters of a judge of faces."""

    recogniser: str | None = None
    "ONNX file that gives a face as a vector: a path, or `org/name@<40-hex commit>/file` of the hub."
    references: dict[str, str] = Field(default_factory=dict)
    "Label -> folder or address of pictures of that person, for a recogniser."
    pooling: Literal["max", "mean"] = "max"
    "A score is the highest cosine with a label's references, or the mean of the highest."
    nearest: int | None = None
    "The mean is over so many of the highest cosines; all by default."


@dataclasses.dataclass(frozen=True)
class _Classes:
    """A classifier of people."""

    ref: ModelRef
    device: str

    def read(self, faces: Sequence[Pixels]) -> Vectors:
        """Return the probability of each name, faces x names."""
        return face_networks.class_probabilities(self.ref, self.device, faces)


@dataclasses.dataclass(frozen=True)
class _Likeness:
    """A recogniser with its reference faces."""

    recogniser: Recogniser
    sets: tuple[References, ...]
    pooling: Pooling

    def known(self) -> tuple[Vectors, ...]:
        """Return the unit vectors of each label's reference faces."""
        return _embedded(self.recogniser, self.sets)

    def read(self, faces: Sequence[Pixels]) -> Vectors:
        """Return the likeness to each name, faces x names."""
        vectors = face_networks.face_vectors(self.recogniser, faces)
        return np.stack([self.pooling.scores(vectors @ known.T) for known in self.known()], axis=1)


class KnownFace(BaseDetector):
    """A judge of faces. Scores are those of the names, 0..1, each with the box of the face."""

    def __init__(self, spec: DetectorSpec, device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields), unused=("templates", "background"))
        self._finder = FaceFinder()
        named = spec.parameters.get("recogniser")
        if (spec.model is None) == (named is None):
            what = "names no recogniser" if named is None else "names two recognisers, a model and a file"
            raise mistake(spec, "model", what, _CHOICE)
        self._reader: _Classes | _Likeness = _classes(spec, device) if named is None else _likeness(spec, named)
        more: dict[str, object] = {}
        if isinstance(self._reader, _Classes):
            ref = self._reader.ref
            digest, labels = ref.sha256, classifier.labels_of(ref, read_json(ref.path / "config.json"))
            route = folders.pixel_route(ref)
        else:
            digest, labels = self._reader.recogniser.sha256, tuple(one.label for one in self._reader.sets)
            route = "uint8 RGB > PIL > resize bilinear > minus 127.5 > by 127.5 > float32"
            more = {
                "references": {one.label: one.digests for one in self._reader.sets},
                "pooling": self._reader.pooling.kind,
                "nearest": self._reader.pooling.nearest,
            }
        finder = self._finder.instrument
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=f"{package_versions('transformers', 'torch')}, {finder.package}",
            weights_sha256=key({"recogniser": digest, "faces": finder.weights_sha256}),
            preprocessing=f"faces: {finder.preprocessing}; face: {route}",
            labels=labels,
            score_floor=0.0,
            parameters={"face_score": LEAST_SCORE, "margin": MARGIN, **more},
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        if isinstance(self._reader, _Likeness):
            self._reader.known()
        else:
            classifier.load_classifier(self._reader.ref, self._reader.device)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores | DetectorError]:
        return [
            faces if isinstance(faces, DetectorError) else self._named(faces) for faces in self._finder.faces(images)
        ]

    def _named(self, faces: Sequence[Face]) -> Scores | DetectorError:
        if not faces:
            return DetectorError("no face is found in it")
        table = self._reader.read([face.pixels for face in faces])
        best = table.argmax(axis=0)
        return tuple(
            LabelScore(label, float(table[row, column]), faces[row].box)
            for column, (label, row) in enumerate(zip(self._instrument.labels, best, strict=True))
        )

    def self_test(self) -> None:
        """Raise `DetectorError` unless a drawn face is found and read, and references are told apart."""
        result = self.measure([draw_face()])[0]
        if not result.scores:
            raise DetectorError(
                f"detector {self._instrument.detector!r} reads no face in a drawing that shows one: "
                + (result.error or "none was found"),
                next_step="reinstall nudenet, onnxruntime and opencv, then run 'erasure-audit doctor'",
            )
        if isinstance(self._reader, _Likeness):
            own, others = separation(self._reader.known(), self._reader.pooling)
            if own <= others:
                raise DetectorError(
                    f"detector {self._instrument.detector!r} does not tell its people apart: mean score under their own "
                    f"name {own:.4f}, under another one {others:.4f}",
                    where=f"detectors.{self._instrument.detector}.parameters.references",
                    next_step="choose clear pictures of one face each, or another recogniser",
                )


def _classes(spec: DetectorSpec, device: str) -> _Classes:
    unused = sorted({"references", "pooling", "nearest"} & spec.parameters.keys())
    if unused:
        raise mistake(
            spec, f"parameters.{unused[0]}", f"{unused[0]} decides nothing: a classifier knows its people", "remove it"
        )
    return _Classes(folders.resolve(spec), device)


def _likeness(spec: DetectorSpec, named: object) -> _Likeness:
    if names_repository(str(named)):
        what = f"{str(named)[:200]!r} is a repository, and a recogniser is one file of it"
        raise mistake(spec, "parameters.recogniser", what, "add the file's path: org/name@<40-hex commit>/file.onnx")
    path, _ = located(str(named), "recogniser file")
    if not path.is_file():
        raise mistake(spec, "parameters.recogniser", f"{str(named)[:200]!r} is not a file", _CHOICE)
    recogniser = Recogniser.at(path)
    sets = read_references(spec, _EXAMPLE)
    reader = _Likeness(recogniser, sets, pooling_of(spec, sets))
    try:
        reader.known()
    except DetectorError as error:
        raise mistake(spec, "parameters.references", error.what, "keep pictures with a clear face in them") from None
    return reader


@once_per_process
def _embedded(recogniser: Recogniser, sets: tuple[References, ...]) -> tuple[Vectors, ...]:
    """Return the unit vectors of each label's references, of the largest face in each.

    Raises `DetectorError` for a reference without a face.
    """
    finder, known = FaceFinder(), []
    for one in sets:
        rows = []
        for (_, uri), picture in zip(one.files, one.pictures(), strict=True):
            faces = finder.faces([picture])[0]
            if isinstance(faces, DetectorError) or not faces:
                why = faces.what if isinstance(faces, DetectorError) else "no face is found in it"
                raise DetectorError(f"the reference {uri} of {one.label!r} cannot be used: {why}")
            rows.append(face_networks.face_vectors(recogniser, [faces[0].pixels])[0])
        known.append(np.stack(rows))
    return tuple(known)


def build(entry: DetectorSpec, concepts: Sequence[Concept], device: str) -> KnownFace:
    """Return the judge of faces of a spec entry, whose labels are names of people."""
    return KnownFace(entry, device)


METHOD = DetectorMethod(NAME, VERSION, Parameters, build, "arXiv:1801.07698", files=("recogniser", "references"))
