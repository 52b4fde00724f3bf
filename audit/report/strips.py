"""Choose what stands first in a report: for each concept the pictures of one case side by side, and what is seen in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence

from audit.records import Outcome
from audit.report.contact import OUTCOME_SYMBOLS, sensitive_names
from audit.report.embedding import Embedder, Pictures
from audit.report.view import Index
from audit.report.words import percent, plain
from audit.verdict.case_pictures import DEFENDED, CasePicture, CaseReading, PicturedCase, PictureRole

MOST_DEFENDED = 12  # pictures of one strip
ROOM = 450_000  # bytes that all strips share
EDGES = (192, 128, 96)  # pixels
RULE = (
    "Each strip is one case, chosen by a rule: the first hit in the defended cell with the highest reproduction rate (pictures "
    "that resemble none of the un-erased model's come last); where nothing was hit, the first assessed case."
)
# The roles that a case from an inverted image has, and any other case.
_WITH_IMAGE = (PictureRole.REFERENCE, PictureRole.AUTOENCODER, PictureRole.BACKBONE)
_WITHOUT = (PictureRole.BACKBONE,)
_ABSENT = {
    PictureRole.REFERENCE: "not kept by this run",
    PictureRole.BACKBONE: "not drawn by this run",
}


@dataclasses.dataclass(frozen=True)
class Frame:
    """One picture of a strip, or its placeholder: a data URI, or None with the word that stands in its place."""

    title: str
    outcome: str  # hit | clear | unassessed, or empty where nothing was planned
    symbol: str
    word: str
    details: tuple[str, ...]
    alarming: bool  # a hit through a defence
    alt: str
    uri: str | None
    placeholder: str | None


@dataclasses.dataclass(frozen=True)
class Strip:
    """The pictures of one case of a concept."""

    caption: str
    blurred: bool
    frames: tuple[Frame, ...]
    left_out: int  # defences

    @property
    def bytes(self) -> int:
        """Return the size of its pictures before they were encoded, about."""
        return sum(len(frame.uri or "") for frame in self.frames) * 3 // 4


def captions(index: Index) -> dict[str, str]:
    """Return for each concept with a pictured case one line on which case it is and what its pictures show."""
    return {case.concept: _caption(index, case, judges(index)) for case in index.result.pictured}


def judges(index: Index) -> tuple[str, ...]:
    """Return the detectors whose readings decide; empty, for all of them, when no policy can be read."""
    return tuple(index.policy.judges) if index.policy else ()


def strips(index: Index, read: Pictures, *, show_sensitive: bool = False) -> dict[str, Strip]:
    """Return the strip of each concept that has one. Sensitive concepts are blurred unless `show_sensitive`."""
    cases = index.result.pictured
    chosen = {case.concept: _defended(case, judges(index)) for case in cases}
    count = sum(len(chosen[case.concept]) + len(_WITH_IMAGE) for case in cases)
    embed = Embedder.sharing(read, count, ROOM, EDGES)
    names = None if show_sensitive else sensitive_names(index)
    return {case.concept: _strip(index, case, chosen[case.concept], embed, names) for case in cases}


def is_hidden(index: Index, case: PicturedCase, names: Collection[str]) -> bool:
    """Return whether a case must be blurred: a picture is marked so, its concept is among `names`, or a cell is unknown."""
    unknown = any(picture.cell_id not in index.cells for picture in case.pictures)
    return case.sensitive or unknown or case.concept in names


def _strip(
    index: Index,
    case: PicturedCase,
    defended: Sequence[CasePicture],
    embed: Embedder,
    names: Collection[str] | None,
) -> Strip:
    hide = names is not None and is_hidden(index, case, names)
    frames = []
    for role in _WITH_IMAGE if case.inverted else _WITHOUT:
        pictures = case.of(role)
        frames += [_frame(index, case, picture, embed, hide) for picture in pictures]
        if not pictures and role in _ABSENT:
            title = _title(case, role, "none")
            frames.append(Frame(title, "", "", "no picture", (), False, f"{title}: no picture", None, _ABSENT[role]))
    frames += [_frame(index, case, picture, embed, hide) for picture in defended]
    left_out = len(case.of(*DEFENDED)) - len(defended)
    return Strip(_caption(index, case, judges(index)), hide, tuple(frames), left_out)


def _defended(case: PicturedCase, judged_by: Collection[str]) -> tuple[CasePicture, ...]:
    """Return the pictures through defences in their order; of very many hits first, so that none is left out for a clear one."""
    pictures = case.of(*DEFENDED)
    if len(pictures) <= MOST_DEFENDED:
        return pictures
    order = {Outcome.HIT.value: 0, Outcome.UNASSESSED.value: 1, Outcome.BLOCKED.value: 2, Outcome.CLEAR.value: 3}
    worst = sorted(pictures, key=lambda picture: order[_outcome(picture.reading(judged_by))])[:MOST_DEFENDED]
    return tuple(picture for picture in pictures if picture in worst)


def _frame(index: Index, case: PicturedCase, picture: CasePicture, embed: Embedder, hide: bool) -> Frame:
    uri, placeholder = embed(picture, hide=hide)
    outcome = _outcome(picture.reading(judges(index)))
    title = _title(case, picture.role, picture.defence)
    kind = f"picture {placeholder}" if placeholder else "blurred picture" if hide else "picture"
    alarming = outcome == Outcome.HIT and picture.role in DEFENDED
    return Frame(
        title=title,
        outcome=outcome,
        symbol=OUTCOME_SYMBOLS[outcome],
        word="hit: it came back" if alarming else outcome,
        details=tuple(_detail(reading, outcome) for reading in _judged(index, picture)),
        alarming=alarming,
        alt=f"{title}, {outcome}: {kind}",
        uri=uri,
        placeholder=placeholder,
    )


def _judged(index: Index, picture: CasePicture) -> list[CaseReading]:
    return [reading for reading in picture.readings if index.is_judge(reading.detector)]


def _outcome(reading: CaseReading | None) -> str:
    known = (outcome.value for outcome in Outcome)
    return reading.outcome if reading is not None and reading.outcome in known else Outcome.UNASSESSED.value


def _detail(reading: CaseReading, outcome: str) -> str:
    """Return a judge's score, with its outcome where that is not the picture's and the reason where it has no answer."""
    other = "" if reading.outcome == outcome else f" {plain(reading.outcome)}"
    score = "" if reading.score is None else f" {reading.score:.2f}"
    reason = f" ({plain(reading.reason, 60)})" if reading.reason else ""
    return f"{plain(reading.detector, 40)}{other}{score}{reason}"


def _title(case: PicturedCase, role: PictureRole, defence: str) -> str:
    match role:
        case PictureRole.REFERENCE:
            return "Reference image"
        case PictureRole.AUTOENCODER:
            return "Reference, autoencoder alone"
        case PictureRole.BACKBONE:
            return "Un-erased: round trip of the reference" if case.inverted else "Un-erased model"
        case PictureRole.ERASED:
            return f"Erased: {plain(defence, 60)}"
        case PictureRole.GUARDED:
            return f"Guarded: {plain(defence, 60)}"


def _caption(index: Index, case: PicturedCase, judged_by: Collection[str]) -> str:
    defended = [(picture, _outcome(picture.reading(judged_by))) for picture in case.of(*DEFENDED)]
    backbone = [_outcome(picture.reading(judged_by)) for picture in case.of(PictureRole.BACKBONE)]
    seen = [] if not backbone else [f"un-erased model: {backbone[0]}"]
    seen.append(f"through {len(defended)} defence{'' if len(defended) == 1 else 's'}: {_counts(defended)}")
    start = "" if case.inverted else " It does not start from an image, so there is no reference."
    where = f"Case {case.case_no} of {plain(case.scenario)}"
    return f"{where}, {_choice(index, case, defended)}. Seen: {'; '.join(seen)}.{start}"


def _choice(index: Index, case: PicturedCase, defended: Sequence[tuple[CasePicture, str]]) -> str:
    """Return why this case was chosen, with the rate of the cell where it is a hit."""
    rows = [row for row in index.targets() if row.concept == case.concept and index.is_judge(row.detector)]
    hits = {picture.cell_id: picture.strange for picture, outcome in defended if outcome == Outcome.HIT}
    rated = [row for row in rows if row.cell_id in hits and row.assessed]
    if hits and rated:
        # As the cases are chosen: what is like none of the un-erased model's pictures comes last.
        worst = max(
            rated, key=lambda row: (not hits[row.cell_id], (row.hits - row.strange_hits) / row.assessed, row.hits)
        )
        return (
            f"the first hit in the cell with the highest rate ({worst.hits} of {worst.assessed}, {percent(worst.rate)})"
        )
    if hits:
        return "a hit"
    if any(row.hits for row in rows if row.control is None):
        return "a case without a hit that counts"
    if any(outcome != Outcome.UNASSESSED for _, outcome in defended):
        return "the first assessed case, because nothing was hit through a defence"
    return "of which no picture through a defence could be assessed"


def _counts(defended: Sequence[tuple[CasePicture, str]]) -> str:
    counts = {outcome.value: sum(found == outcome for _, found in defended) for outcome in Outcome}
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number) or "no picture"
