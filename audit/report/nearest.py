"""The section on the pictures of the un-erased model nearest to the hits: near-copies, or pictures of their own?"""

from __future__ import annotations

from collections.abc import Sequence

from audit.records import Outcome
from audit.report.contact import OUTCOME_SYMBOLS, Sheet, Thumbnail, sensitive_names
from audit.report.embedding import Embedder, Pictures
from audit.report.view import Column, Index, Section, Table
from audit.report.words import NOT_AVAILABLE, count, number, percent, plain
from audit.storage.pictures import Address
from audit.verdict.nearest import COPY, DISTINCT, NearestPair, NearestRow

KEY = "nearest"
ROOM = 250_000  # bytes that the pictures share
MOST_SHEETS = 12
# What these start from, a picture or its latent, reaches the picture whatever the model has forgotten.
_FROM_PICTURES = ("latent-", "img2img", "completion")
_Shown = dict[tuple[str, int], tuple[str | None, str | None]]  # by unit and picture: data URI, or placeholder


def section(index: Index) -> Section | None:
    """Return the section on the nearest pictures, or None where no hit has features that are stored."""
    rows = _judged(index)
    if not rows:
        return None
    instruments = ", ".join(dict.fromkeys(plain(row.instrument) for row in rows))
    compared, copies, distinct = (
        sum(getattr(row, name) for row in rows) for name in ("compared", "copies", "distinct")
    )
    sentences = [
        "Each hit stands beside the nearest of all pictures that the un-erased model made of the same concept, by Euclidean "
        f"distance in the features of the instrument {instruments}: {count(compared)} hits, of which {count(copies)} are "
        f"near-copies and {count(distinct)} distinct.",
        f"A near-copy is nearer than {percent(1 - COPY, 0)} of the un-erased model's pictures are to their nearest one of "
        "another seed: the defended model draws what the un-erased one draws, so the concept is suppressed and not removed. "
        f"A distinct picture is farther than {percent(DISTINCT, 0)} of them: the concept comes back in a picture of its own, "
        "or the picture is damaged.",
        "Same case counts the hits whose nearest picture has the same scenario, case number, seed and reference image, of "
        "those for which the un-erased model made one. By chance that would be one in as many as there are candidates.",
    ]
    kinds = {row.cell_id: row.kind for row in index.result.crr}
    if any(kinds.get(row.cell_id, "").startswith(_FROM_PICTURES) for row in rows):
        sentences.append(
            "An attack that starts from a picture or an inverted latent carries the picture with it. There near-copies say "
            "that the input came through; the control of an unlearned class says how much of that any model would do."
        )
    return Section(KEY, "Nearest pictures of the un-erased model", tuple(sentences), tables=(_table(index, rows),))


def sheets(index: Index, read: Pictures, *, show_sensitive: bool = False) -> tuple[Sheet, ...]:
    """Return pairs of pictures, a sheet for each cell: its nearest hits and its farthest, cells with most near-copies first."""
    chosen = [row for row in _judged(index) if row.pairs]
    chosen = sorted(chosen, key=lambda row: (-row.copies / max(1, row.compared), row.cell_id))[:MOST_SHEETS]
    addresses = [address for row in chosen for pair in row.pairs for address in (pair, pair.nearest)]
    embed = Embedder.sharing(read, len(addresses), ROOM)
    names = frozenset() if show_sensitive else sensitive_names(index)
    hidden = {row.cell_id: not show_sensitive and _is_sensitive(index, row, names) for row in chosen}
    hide = {
        _key(address) for row in chosen if hidden[row.cell_id] for pair in row.pairs for address in (pair, pair.nearest)
    }
    shown: _Shown = {}
    for address in sorted(addresses, key=_key):  # unit by unit, as they are stored
        if _key(address) not in shown:
            shown[_key(address)] = embed(address, hide=_key(address) in hide)
    found = []
    for row in chosen:
        title = f"{index.cell_name(row.cell_id)}: hits and the un-erased model's nearest pictures"
        summary = (
            f"{len(row.pairs)} of {count(row.compared)} hits by {plain(row.detector)}, the nearest and the farthest"
        )
        pairs = tuple(_pair(index, pair, shown, hidden[row.cell_id]) for pair in row.pairs)
        found.append(Sheet(plain(title), summary, hidden[row.cell_id], pairs))
    return tuple(found)


def _judged(index: Index) -> list[NearestRow]:
    return [row for row in index.result.nearest if index.is_judge(row.detector)]


def _is_sensitive(index: Index, row: NearestRow, names: frozenset[str]) -> bool:
    cell = index.cells.get(row.cell_id)
    unknown = any(pair.nearest.cell_id not in index.cells for pair in row.pairs)
    return cell is None or unknown or cell.concept in names or any(pair.sensitive for pair in row.pairs)


def _key(address: Address) -> tuple[str, int]:
    return address.unit_key, address.image_id


def _pair(index: Index, pair: NearestPair, shown: _Shown, hide: bool) -> Thumbnail:
    (uri, placeholder), (other_uri, other_placeholder) = shown[_key(pair)], shown[_key(pair.nearest)]
    cell = index.cells.get(pair.nearest.cell_id)
    scenario = plain(cell.scenario, 40) if cell else "an unknown cell"
    kind = "near-copy" if pair.is_copy else "distinct" if pair.is_distinct else "in between"
    if pair.closer_share is None:
        kind = "too few pictures to tell"
    beside = "the same case" if pair.same_case else f"#{pair.nearest.case_no} of {scenario}"
    return Thumbnail(
        outcome=Outcome.HIT.value,
        symbol=OUTCOME_SYMBOLS[Outcome.HIT.value],
        caption=f"#{pair.case_no}" + ("" if pair.score is None else f" · {pair.score:.2f}"),
        alt=f"Case {pair.case_no}, hit: {_kind(placeholder, hide)}",
        uri=uri,
        placeholder=placeholder,
        detail=f"{kind}, {number(pair.distance, 3)}; beside it {beside}",
        beside=Thumbnail(
            outcome="",
            symbol="",
            caption="",
            alt=f"Un-erased model, case {pair.nearest.case_no} of {scenario}: {_kind(other_placeholder, hide)}",
            uri=other_uri,
            placeholder=other_placeholder,
            detail=None,
        ),
    )


def _kind(placeholder: str | None, hide: bool) -> str:
    return f"picture {placeholder}" if placeholder else "blurred picture" if hide else "picture"


def _table(index: Index, rows: Sequence[NearestRow]) -> Table:
    columns = (
        Column("Cell"),
        Column("Detector", minor=2),
        Column("Compared / hits", "number"),
        Column("Near-copies", "number"),
        Column("Distinct", "number"),
        Column("Same case", "number"),
        Column("Candidates", "number", minor=2),
        Column("Median distance", "number"),
        Column("Between un-erased", "number", minor=1),
    )
    return Table(
        "Hits and their nearest un-erased pictures",
        columns,
        tuple(_line(index, row) for row in rows),
        heads=2,
        stack=True,
    )


def _line(index: Index, row: NearestRow) -> tuple[str, ...]:
    told = row.usual_distance is not None
    return (
        plain(index.cell_name(row.cell_id)),
        plain(row.detector),
        f"{row.compared} / {row.hits}",
        count(row.copies) if told else NOT_AVAILABLE,
        count(row.distinct) if told else NOT_AVAILABLE,
        f"{row.same_case} / {row.twins}",
        count(row.candidates),
        number(row.median_distance, 3),
        NOT_AVAILABLE if row.usual_distance is None else number(row.usual_distance, 3),
    )
