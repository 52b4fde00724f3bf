"""The section on failure modes: which prompts, words, classes, seeds and images come back, by exact tests, with pictures."""

from __future__ import annotations

from collections.abc import Sequence

from audit.records import Outcome
from audit.report.contact import OUTCOME_SYMBOLS, Sheet, Thumbnail, sensitive_names
from audit.report.embedding import Embedder, Pictures
from audit.report.view import Column, Index, Section, Table
from audit.report.words import count, percent, plain, small
from audit.verdict.failure_modes import FailureMode, FoundPicture

KEY = "failures"
ERROR = 0.05
ROOM = 250_000  # bytes that the pictures share
MOST_SHEETS, MOST_ROWS = 12, 60
_BLOCKED = {
    False: "A picture that a filter blocks did not come back: it counts among the assessed, and is no hit.",
    True: "Pictures that filters block are unassessed by this policy, and left out.",
}


def section(index: Index) -> Section | None:
    """Return the section on failure modes, or None where no level could be tested or nothing was hit."""
    modes = index.result.failure_modes
    if not modes:
        return None
    telling = _telling(index)
    groups = {(mode.concept, mode.cell_id, mode.detector): mode.tests for mode in modes}
    sentences = [
        f"{count(sum(groups.values()))} levels were compared with the other cases of their cell, and seeds and reference "
        "images with those of all cells of a concept, by Fisher's exact test, one-sided; the p-values of each group are "
        "corrected together by Holm's rule.",
        f"{count(len(telling))} come back more often than the others at {percent(ERROR, 0)} after correction."
        if telling
        else f"None comes back more often than the others at {percent(ERROR, 0)} after correction; the table lists the nearest.",
    ]
    if index.result.blocking:
        sentences.append(_BLOCKED[index.policy is not None and index.policy.blocked == "unassessed"])
    rows = telling or sorted(modes, key=lambda mode: mode.corrected)[:10]
    if len(rows) > MOST_ROWS:
        sentences.append(f"The first {MOST_ROWS} are listed; all are in the JSON report and in mart_failure_levels.")
    return Section(KEY, "Failure modes", tuple(sentences), tables=(_table(index, rows[:MOST_ROWS]),))


def sheets(index: Index, read: Pictures, *, show_sensitive: bool = False) -> tuple[Sheet, ...]:
    """Return hits of the levels that come back more often, a sheet for each, the smallest p-value first."""
    chosen = [mode for mode in _telling(index) if mode.pictures][:MOST_SHEETS]
    embed = Embedder.sharing(read, sum(len(mode.pictures) for mode in chosen), ROOM)
    names = frozenset() if show_sensitive else sensitive_names(index)
    found = []
    for mode in chosen:
        known = all(picture.cell_id in index.cells for picture in mode.pictures) and mode.concept not in names
        hide = not show_sensitive and (not known or any(picture.sensitive for picture in mode.pictures))
        title = f"{_where(index, mode)}: {mode.factor} {plain(mode.level_name, 120)}"
        summary = f"{len(mode.pictures)} of {count(mode.hits)} hits, by {plain(mode.detector)}"
        thumbnails = tuple(_thumbnail(picture, embed, hide) for picture in mode.pictures)
        found.append(Sheet(plain(title), summary, hide, thumbnails))
    return tuple(found)


def _telling(index: Index) -> list[FailureMode]:
    modes = [mode for mode in index.result.failure_modes if mode.corrected <= ERROR]
    return sorted(modes, key=lambda mode: (mode.corrected, mode.p_value))


def _where(index: Index, mode: FailureMode) -> str:
    if mode.cell_id is None:
        return f"{plain(mode.concept)}, all cells"
    return plain(index.cell_name(mode.cell_id))


def _thumbnail(picture: FoundPicture, embed: Embedder, hide: bool) -> Thumbnail:
    uri, placeholder = embed(picture, hide=hide)
    kind = f"picture {placeholder}" if placeholder else "blurred picture" if hide else "picture"
    return Thumbnail(
        outcome=Outcome.HIT.value,
        symbol=OUTCOME_SYMBOLS[Outcome.HIT.value],
        caption=f"#{picture.case_no}" + ("" if picture.score is None else f" · {picture.score:.2f}"),
        alt=f"Case {picture.case_no}, hit: {kind}",
        uri=uri,
        placeholder=placeholder,
        detail=None,
    )


def _table(index: Index, modes: Sequence[FailureMode]) -> Table:
    columns = (
        Column("Cell"),
        Column("Factor"),
        Column("Level"),
        Column("Detector", minor=2),
        Column("Hits / assessed", "number"),
        Column("Rate", "number"),
        Column("Others", "number"),
        Column("Their rate", "number", minor=1),
        Column("p", "number", minor=3),
        Column("p, corrected", "number"),
    )
    rows = tuple(
        (
            _where(index, mode),
            mode.factor,
            plain(mode.level_name, 120),
            plain(mode.detector),
            f"{mode.hits} / {mode.assessed}",
            percent(mode.hits / mode.assessed),
            f"{mode.other_hits} / {mode.other_assessed}",
            percent(mode.other_hits / mode.other_assessed),
            small(mode.p_value),
            small(mode.corrected),
        )
        for mode in modes
    )
    return Table("Levels that come back", columns, rows, heads=3, stack=True)
