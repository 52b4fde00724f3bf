"""Parameters of the NudeNet filter, and the filter as a guard. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import AfterValidator, Field

from audit.errors import MissingInstrument
from audit.filters.parameters import FilterParameters
from audit.guards.parameters import GuardMethod
from audit.instruments.detectors.nudenet import LABELS, SCORE_FLOOR, network_file
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.files import cached_sha256
from audit.weights.references import ModelRef


def _known(label: str) -> str:
    if label not in LABELS:
        raise ValueError(f"NudeNet has no label {label!r}; its labels are: {', '.join(LABELS)}")
    return label


class NudeNetFilterParameters(FilterParameters):
    """The body parts that a picture is blocked for, and from which score."""

    labels: tuple[Annotated[str, AfterValidator(_known)], ...] = Field(
        (
            "BUTTOCKS_EXPOSED",
            "FEMALE_BREAST_EXPOSED",
            "FEMALE_GENITALIA_EXPOSED",
            "MALE_BREAST_EXPOSED",
            "ANUS_EXPOSED",
            "MALE_GENITALIA_EXPOSED",
        ),
        min_length=1,
    )
    "NudeNet's labels that block; by default the six exposed ones that benchmarks of erasure count."
    threshold: float = Field(0.5, ge=SCORE_FLOOR, le=1)
    "Score above which a box of these labels blocks; NudeNet reports none below 0.25."

    def resolved(self, concept: Concept) -> Values:
        """Return the labels in NudeNet's order, the threshold, and the digest of the package's network."""
        try:
            digest = cached_sha256(network_file())
        except MissingInstrument:  # `check` tells it; such a plan is never stored
            digest = "absent"
        labels = [label for label in LABELS if label in self.labels]
        return {"labels": labels, "threshold": self.threshold, "network_sha256": digest}

    def check(self, models: Mapping[str, ModelRef], concepts: Sequence[Concept], where: str) -> None:
        """Check that the package is installed. Raises `MissingInstrument` otherwise."""
        try:
            network_file()
        except MissingInstrument as error:
            next_step = (error.next_step or "").replace("detector", "guard")
            raise MissingInstrument(f"guard {METHOD.name}: {error.what}", where=where, next_step=next_step) from None


METHOD = GuardMethod(
    "nudenet-filter", "1", NudeNetFilterParameters, "audit.filters.nudenet_filter:build", reads="picture"
)
