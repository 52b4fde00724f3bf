"""The protocol of detectors and their common base: raw scores with their instrument, and 'not measured' instead of nothing."""

from __future__ import annotations

import abc
import dataclasses
import functools
import importlib.metadata
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar, TypeVarTuple

import numpy as np
import numpy.typing as npt

from audit.errors import DetectorError
from audit.identity import canonical, int_key
from audit.instruments.detectors.answers import measurement, one_line
from audit.instruments.detectors.method import DETECTORS
from audit.methods.registry import Entry
from audit.names import composed
from audit.records import Instrument, LabelScore, Measurement
from audit.spec.sections import DetectorSpec

Pixels = npt.NDArray[np.uint8]
Scores = tuple[LabelScore, ...]

BATCH_SIZE = 32  # pictures per forward pass; changes scores by float rounding only

_Args = TypeVarTuple("_Args")
_Result = TypeVar("_Result")


class Detector(Protocol):
    """An instrument that reads pictures. Building one loads nothing; the first measurement loads the network."""

    @property
    def instrument(self) -> Instrument:
        """Everything that determines the readings, from file digests alone; needs neither torch nor the network."""

    def measure(self, images: Sequence[Pixels]) -> list[Measurement]:
        """Return one measurement per picture, in order. Pictures are `uint8`, height x width x 3, RGB.

        A picture that cannot be measured gets a `Measurement` with an error and leaves the others alone. Raises
        `DetectorError` only when the detector itself cannot be used (package, weights, labels).
        """

    def counted_labels(self, subject: str) -> tuple[str, ...]:
        """Return the labels whose score counts as `subject`; none when the spec says that it is not measured.

        Raises `DetectorError` when the detector knows no such label and the spec maps none.
        """

    def self_test(self) -> None:
        """Raise `DetectorError` when the detector misreads a picture whose answer is known."""


class BaseDetector(abc.ABC):
    """The common base of detectors: input checks, batching, isolation of bad pictures, label rules."""

    def __init__(self, spec: DetectorSpec, instrument: Instrument) -> None:
        self._instrument = instrument
        own = {composed(label): label for label in instrument.labels}
        self._mapped: Mapping[str, tuple[str, ...]] = {
            subject: tuple(own.get(composed(label), label) for label in labels)
            for subject, labels in spec.labels.items()
        }
        check_threshold(instrument, spec.threshold)
        for subject, labels in self._mapped.items():
            unknown = sorted(set(labels) - set(instrument.labels))
            if unknown:
                raise DetectorError(
                    f"detector {spec.name!r} has no label {unknown[0]!r}",
                    where=f"detectors.{spec.name}.labels.{subject}",
                    next_step=f"its labels are: {', '.join(instrument.labels)}",
                )

    @property
    def instrument(self) -> Instrument:
        """Everything that determines the readings."""
        return self._instrument

    def measure(self, images: Sequence[Pixels]) -> list[Measurement]:
        """Return one measurement per picture; see `Detector.measure`."""
        self._prepare()
        results: list[Measurement | None] = [None] * len(images)
        readable: list[int] = []
        for index, image in enumerate(images):
            try:
                check_image(image)
                readable.append(index)
            except DetectorError as error:
                results[index] = Measurement(None, _one_line(error))
        for start in range(0, len(readable), BATCH_SIZE):
            chosen = readable[start : start + BATCH_SIZE]
            for index, result in zip(chosen, self._isolated([images[i] for i in chosen]), strict=True):
                results[index] = result
        return [result if result is not None else Measurement(None, "not measured") for result in results]

    def _isolated(self, images: Sequence[Pixels]) -> list[Measurement]:
        """Return the measurements of one batch; when it fails, of each picture alone, so that one cannot spoil the others."""
        try:
            scores = self._scores(images)
            if not isinstance(scores, list | tuple):
                raise DetectorError(f"a value of type {type(scores).__name__} instead of a list of results")
            if len(scores) != len(images):
                raise DetectorError(f"{len(scores)} results for {len(images)} pictures")
            return [
                Measurement(None, _one_line(one))
                if isinstance(one, DetectorError)
                else measurement(one, self._instrument.labels)
                for one in scores
            ]
        except Exception as error:  # whatever a library raises is 'not measured', never 'clear'
            if len(images) == 1:
                return [Measurement(None, _one_line(error))]
        return [result for image in images for result in self._isolated([image])]

    def counted_labels(self, subject: str) -> tuple[str, ...]:
        """Return the labels whose score counts as `subject`; see `Detector.counted_labels`."""
        if subject in self._mapped:
            return self._mapped[subject]
        implicit = self._implicit_labels(subject)
        if not implicit:
            name = self._instrument.detector
            raise DetectorError(
                f"detector {name!r} does not know which of its labels mean {subject!r}",
                where=f"detectors.{name}.labels",
                next_step=f"map it, for example 'labels: {{{subject}: [{self._instrument.labels[0]}]}}', or to [] when "
                f"this detector cannot see it; its labels are: {', '.join(self._instrument.labels)}",
            )
        return implicit

    def self_test(self) -> None:
        """Raise `DetectorError` when a plain grey picture yields no valid measurement."""
        result = self.measure([np.full((64, 64, 3), 128, np.uint8)])[0]
        if result.error is not None:
            raise DetectorError(
                f"detector {self._instrument.detector!r} cannot read a plain picture: {result.error}",
                next_step="run 'erasure-audit doctor' and check the model folder",
            )

    def _implicit_labels(self, subject: str) -> tuple[str, ...]:
        return (subject,) if subject in self._instrument.labels else ()

    @abc.abstractmethod
    def _prepare(self) -> None:
        """Load the network if it is not loaded. Raises `DetectorError`, which must not be taken for a bad picture."""

    @abc.abstractmethod
    def _scores(self, images: Sequence[Pixels]) -> Sequence[Scores | DetectorError]:
        """Return the raw scores of a batch of checked pictures, or why one of them has none."""


def check_image(image: Pixels) -> None:
    """Raise `DetectorError` for anything but a `uint8` picture of height x width x 3.

    Floats are refused in particular: a picture scaled to 0..1 reads as an almost black one, in which nothing is ever found.
    """
    if not isinstance(image, np.ndarray):
        raise DetectorError(f"a picture must be a uint8 array of height x width x 3, not {type(image).__name__}")
    if image.dtype != np.uint8:
        raise DetectorError(f"a picture must be uint8 in 0..255, not {image.dtype}")
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise DetectorError(f"a picture must be height x width x 3 (RGB), not {' x '.join(map(str, image.shape))}")


def check_threshold(instrument: Instrument, threshold: float) -> None:
    """Raise `DetectorError` for a threshold below the instrument's score floor, around which no score can be observed."""
    if not instrument.score_floor <= threshold <= 1.0:
        raise DetectorError(
            f"threshold {threshold:g} of detector {instrument.detector!r} is outside what it can report: it never "
            f"reports a score below {instrument.score_floor:g}",
            where=f"detectors.{instrument.detector}.threshold",
            next_step=f"use a threshold between {instrument.score_floor:g} and 1",
        )


def check_parameters(spec: DetectorSpec, known: Sequence[str], unused: Sequence[str] = ()) -> None:
    """Raise `DetectorError` for the first parameter or field of the spec that this kind of detector does not read."""
    allowed = ", ".join(known) or "none"
    for name in spec.parameters:
        if name not in known:
            raise DetectorError(
                f"detector {spec.name!r} ({spec.kind}) has no parameter {name!r}",
                where=f"detectors.{spec.name}.parameters.{name}",
                next_step=f"its parameters are: {allowed}",
            )
    for field in unused:
        # A stored spec carries every default, so "set" means "differs from the default".
        if getattr(spec, field) != DetectorSpec.model_fields[field].get_default():
            raise DetectorError(
                f"detector {spec.name!r} ({spec.kind}) does not use {field!r}",
                where=f"detectors.{spec.name}.{field}",
                next_step=f"remove {field!r} from this detector",
            )


def make_instrument(
    spec: DetectorSpec,
    *,
    version: str,
    weights_sha256: str,
    preprocessing: str,
    labels: tuple[str, ...],
    score_floor: float,
    parameters: Mapping[str, object],
    package: str = "",
) -> Instrument:
    """Return the instrument of a spec entry. Its id covers every field but the entry's name and threshold.

    Thresholds are applied to stored scores in SQL, so a new one must not ask for new measurements. A plug-in's distribution is
    put before `package`.
    """
    entry = DETECTORS.foreign(spec.kind)
    if entry is not None:
        package = ", ".join(filter(None, (entry.package, package)))
    draft = Instrument(
        instrument_id=0,
        detector=spec.name,
        kind=spec.kind,
        version=version,
        package=package,
        weights_sha256=weights_sha256,
        preprocessing=preprocessing,
        labels=labels,
        score_floor=score_floor,
        threshold=spec.threshold,
        parameters=canonical(parameters),
    )
    described = {
        name: value
        for name, value in dataclasses.asdict(draft).items()
        if name not in ("instrument_id", "detector", "threshold")
    }
    return dataclasses.replace(draft, instrument_id=int_key(described))


def require_named(instrument: object, record: type[object], entry: Entry, who: str, where: str) -> None:
    """Raise `DetectorError` unless a plug-in's instrument is a `record` that names its distribution.

    Without it, another version's readings would pass for this one's.
    """
    package = getattr(instrument, "package", None)
    if not isinstance(instrument, record) or entry.package not in str(package).split(", "):
        raise DetectorError(
            f"{who} of {entry.package} cannot be used: its instrument does not name the package that brings it",
            where=where,
            next_step="let make_instrument make it, or uninstall the plug-in",
        )


def package_versions(*names: str) -> str:
    """Return `name version` of installed distributions, without build tags: CPU and CUDA builds share an instrument."""
    return ", ".join(f"{name} {importlib.metadata.version(name).partition('+')[0]}" for name in names)


def once_per_process(function: Callable[[*_Args], _Result]) -> Callable[[*_Args], _Result]:
    """Keep the last few results of `function`, computed by one thread at a time: networks are large."""
    cached = functools.lru_cache(maxsize=4)(function)
    lock = threading.Lock()

    @functools.wraps(function)
    def locked(*args: *_Args) -> _Result:
        with lock:
            return cached(*args)

    return locked


def _one_line(error: Exception) -> str:
    return one_line(error.what if isinstance(error, DetectorError) else f"{type(error).__name__}: {error}")
