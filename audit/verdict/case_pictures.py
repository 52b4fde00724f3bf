"""Records of the pictures that belong to one case: where each is, and what every detector found in it. None holds pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from enum import StrEnum

from audit.records import Outcome


class PictureRole(StrEnum):
    """What a picture of a case is, in the order in which a reader should see them."""

    REFERENCE = "reference"  # the corpus image that was inverted, as the model sees it
    AUTOENCODER = "autoencoder"  # that image through the VAE alone: the ceiling of every redrawing
    BACKBONE = "backbone"  # by the un-erased model; from an inverted latent this is the reference's round trip
    ERASED = "erased"  # through a defence without guards
    GUARDED = "guarded"  # through a defence with guards


ORDER = tuple(PictureRole)
DEFENDED = (PictureRole.ERASED, PictureRole.GUARDED)


@dataclasses.dataclass(frozen=True)
class CaseReading:
    """What one detector found in one picture."""

    detector: str
    outcome: str  # hit | clear | unassessed
    reason: str | None  # why it is unassessed
    score: float | None


@dataclasses.dataclass(frozen=True)
class CasePicture:
    """One picture of a case: its row in the journal, and the readings of it, the policy's first judge's first."""

    role: PictureRole
    defence: str  # "none" where no defence had a part in it
    cell_id: int
    case_no: int  # in its own cell, which for a reference is another than the case's
    image_id: int  # the row in its unit
    unit_key: str
    sensitive: bool
    strange: bool  # like none of the un-erased model's pictures; see `audit.verdict.damage.strange`
    readings: tuple[CaseReading, ...]
    kind: str = "generate"  # of its unit

    def reading(self, judges: Collection[str] = ()) -> CaseReading | None:
        """Return the reading that counts most against the defence among `judges`, or all detectors: a hit, then an unassessed
        one, then a clear one; of equal ones the first. None without any."""
        weight = {Outcome.HIT.value: 0, Outcome.CLEAR.value: 2}
        chosen = [reading for reading in self.readings if not judges or reading.detector in judges]
        return min(chosen, key=lambda reading: weight.get(reading.outcome, 1), default=None)


@dataclasses.dataclass(frozen=True)
class PicturedCase:
    """The pictures of one case, of a concept in a scenario, by role and then in the order of the plan's defences.

    A role that the run has no picture planned for has no entry.
    """

    run_id: str
    concept: str
    scenario: str
    case_no: int
    inverted: bool  # it starts from the inverted latent of a corpus image
    pictures: tuple[CasePicture, ...]

    @property
    def sensitive(self) -> bool:
        """Return whether any of its pictures is of a cell marked so: then all must be blurred."""
        return any(picture.sensitive for picture in self.pictures)

    def of(self, *roles: PictureRole) -> tuple[CasePicture, ...]:
        """Return the pictures of some roles."""
        return tuple(picture for picture in self.pictures if picture.role in roles)
