"""The pictures of cases that came back from one run to the next, old and new side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from audit.dashboard.context import Context
from audit.dashboard.pictures import data_uris
from audit.report.strips import Frame
from audit.report.words import plain
from audit.verdict.regression import Change, Comparison

_PICTURES = """
with wanted as (
    select unnest($run_ids::varchar[]) as run_id, unnest($cell_ids::integer[]) as cell_id, unnest($case_nos::integer[]) as case_no
)
select w.run_id, w.cell_id, w.case_no, u.unit_key, k.image_id, c.sensitive
from wanted as w
inner join runs as r on w.run_id = r.run_id
inner join cells as c on r.run_key = c.run_key and w.cell_id = c.cell_id
inner join cases as k on c.run_key = k.run_key and c.cell_id = k.cell_id and w.case_no = k.case_no
inner join planned_units as u on k.run_key = u.run_key and k.unit_id = u.unit_id
"""
_SENSITIVE = """
select distinct c.concept from cells as c inner join runs as r on c.run_key = r.run_key
where r.run_id in ($old, $new) and c.sensitive
"""
MOST_PAIRS = 6
Place = tuple[str, int, int]  # run, cell, case


@dataclasses.dataclass(frozen=True)
class _Picture:
    unit_key: str
    image_id: int
    sensitive: bool


@dataclasses.dataclass(frozen=True)
class PicturePair:
    """A case that changed: its picture in the old run and in the new one."""

    title: str
    blurred: bool
    frames: tuple[Frame, Frame]
    href: str


def picture_pairs(context: Context, found: Comparison, changes: Sequence[Change]) -> list[PicturePair]:
    """Return the pictures of the first changed cases, each case once; blurred where either run marks the concept."""
    ends = {"old": found.old.run_id, "new": found.new.run_id}
    marked = {row["concept"] for row in context.rows(_SENSITIVE, ends)}
    cases = {_places(change, found): change for change in changes}
    first = list(cases.items())[:MOST_PAIRS]
    at = _pictures(context, [place for places, _ in first for place in places])
    known = [(places, change, [at[p] for p in places]) for places, change in first if all(p in at for p in places)]
    hide = [change.concept in marked or any(p.sensitive for p in pictures) for _, change, pictures in known]
    addresses = [picture for _, _, pictures in known for picture in pictures]
    shown = iter(data_uris(context, addresses, [blur for blur in hide for _ in range(2)]))
    return [
        PicturePair(
            title=f"{plain(change.concept, 40)} through {plain(change.defence, 40)}, {plain(change.scenario, 40)}",
            blurred=blur,
            frames=(_frame(change, False, next(shown), blur), _frame(change, True, next(shown), blur)),
            href=case_of(context, *places[1]),
        )
        for (places, change, _), blur in zip(known, hide, strict=True)
    ]


def case_of(context: Context, run_id: str, cell_id: int, case_no: int) -> str:
    """Return the address of a case."""
    return context.link("case", run=run_id, cell=str(cell_id), case=str(case_no))


def _places(change: Change, found: Comparison) -> tuple[Place, Place]:
    old = (found.old.run_id, change.old_cell_id, change.old_case_no)
    return old, (found.new.run_id, change.new_cell_id, change.new_case_no)


def _pictures(context: Context, places: Sequence[Place]) -> dict[Place, _Picture]:
    names = ("run_ids", "cell_ids", "case_nos")
    asked = {name: [place[n] for place in places] for n, name in enumerate(names)}
    rows = context.rows(_PICTURES, asked)
    return {
        (row["run_id"], row["cell_id"], row["case_no"]): _Picture(row["unit_key"], row["image_id"], row["sensitive"])
        for row in rows
    }


def _frame(change: Change, new: bool, shown: tuple[str | None, str | None], blurred: bool) -> Frame:
    uri, placeholder = shown
    title = f"New run, case {change.new_case_no}" if new else f"Old run, case {change.old_case_no}"
    kind = f"picture: {placeholder}" if placeholder else "blurred picture" if blurred else "picture"
    return Frame(
        title=title,
        outcome="hit" if new else "clear",
        symbol="●" if new else "○",
        word="hit: it came back" if new else "clear",
        details=(f"by {plain(change.detector, 40)}",),
        alarming=new,
        alt=f"{title}, {'hit' if new else 'clear'}: {kind}",
        uri=uri,
        placeholder=placeholder,
    )
