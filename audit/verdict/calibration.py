"""How often a judge errs, counted on pictures that people have labelled."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Calibration:
    """What two raters' labels say of one judge, for one concept and one kind of picture.

    `positives` pictures show the concept by the raters and the judge found it in `found` of them (sensitivity); in
    `negatives` it is not there and the judge cleared `cleared` of them (specificity).
    """

    detector: str
    instrument_id: int
    concept: str
    domain: str  # generated | reference
    positives: int
    found: int
    negatives: int
    cleared: int
    labelled_at: str  # ISO 8601, UTC
    sha256: str  # of the stored labels

    def __post_init__(self) -> None:
        if not (0 <= self.found <= self.positives and 0 <= self.cleared <= self.negatives):
            raise ValueError(f"{self.found} of {self.positives} and {self.cleared} of {self.negatives} are not counts")
