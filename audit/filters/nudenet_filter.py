"""Block pictures in which NudeNet v3 sees one of a list of body parts, by the route of the detector `nudenet`."""

from __future__ import annotations

from collections.abc import Sequence

from audit.errors import CheckpointError
from audit.filters.nudenet_filter_parameters import METHOD
from audit.filters.protocol import Parts, PictureFilter, Pixels, Ruling
from audit.instruments.detectors.nudenet import NudeNet
from audit.methods.parameters import Values
from audit.spec.sections import DetectorSpec


class NudeNetFilter(PictureFilter):
    """The NudeNet filter; the network is loaded when the first picture is read."""

    name, version = METHOD.name, METHOD.version

    def __init__(self, labels: Sequence[str], threshold: float) -> None:
        self._detector = NudeNet(DetectorSpec(name=self.name, kind="nudenet"))
        self._labels, self._threshold = tuple(labels), threshold

    @property
    def weights_sha256(self) -> str:
        """The digest of the package's network."""
        return self._detector.instrument.weights_sha256

    def self_test(self) -> None:
        """Raise `DetectorError` unless the network finds what a drawing is known to show: it would let everything pass."""
        self._detector.self_test()

    def rule(self, pictures: Sequence[Pixels]) -> list[Ruling]:
        """Return one ruling per picture, with the highest score of each listed label that it has."""
        rulings = []
        for measured in self._detector.measure(pictures):
            if measured.scores is None:
                raise RuntimeError(f"NudeNet gives no reading: {measured.error}")
            best: dict[str, float] = {}
            for box in measured.scores:
                if box.label in self._labels:
                    best[box.label] = max(best.get(box.label, 0.0), box.score)
            rulings.append(Ruling(any(score > self._threshold for score in best.values()), best))
        return rulings


def build(values: Values, parts: Parts) -> NudeNetFilter:
    """Return a NudeNet filter.

    Raises `CheckpointError` when the package's network is not the planned one, `DetectorError` when it fails its self-test.
    """
    built = NudeNetFilter(values["labels"], values["threshold"])
    if built.weights_sha256 != values["network_sha256"]:
        raise CheckpointError(
            f"guard {METHOD.name}: NudeNet's network has changed since this run was planned",
            next_step="install the version that planned it, or start a new run: erasure-audit run SPEC",
        )
    built.self_test()
    return built
