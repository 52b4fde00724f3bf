"""Look up the pictures of one case in a published index: references into the journal with what was found, and no pixels.

`audit.storage.pictures.StoredPictures` turns each of them into bytes.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path

import duckdb

from audit.errors import StoreError
from audit.files import Document
from audit.index.published import open_published, require_run
from audit.index.store import explained
from audit.verdict.case_pictures import ORDER, CasePicture, CaseReading, PicturedCase, PictureRole

# The cells that draw the same case are those of its concept and scenario, undisturbed: it has the same number, seed and corpus
# item in each. The image that it was inverted from is a case of the two controls that show corpus images.
_CASE = """
with run as (
    select run_key, first_judge from runs where run_id = $run_id
),
numbered as (
    select l.run_key, l.cell_id, l.control, l.defence, l.sensitive, k.case_no, k.image_id, k.unit_id, k.item_id,
        k.invert_unit_id, k.seed
    from cells as l
    inner join run as r on l.run_key = r.run_key
    inner join cases as k on l.run_key = k.run_key and l.cell_id = k.cell_id
    where l.concept = $concept and l.subject = l.concept and l.scenario = $scenario and k.case_no = $case_no
        and l.perturbation is null and ((l.role = 'target' and l.control is null) or l.control = 'backbone')
),
lead as (
    from numbered order by cell_id <> $lead, control is distinct from 'backbone', cell_id limit 1
),
drawn as (
    select n.* from numbered as n inner join lead as f on n.seed = f.seed and n.item_id is not distinct from f.item_id
),
shown as (
    select l.run_key, l.cell_id, l.control, l.defence, l.sensitive, k.case_no, k.image_id, k.unit_id, k.item_id,
        k.invert_unit_id, k.seed
    from cells as l
    inner join run as r on l.run_key = r.run_key
    inner join cases as k on l.run_key = k.run_key and l.cell_id = k.cell_id
    where l.concept = $concept and l.subject = l.concept and l.control in ('reference', 'vae-roundtrip')
        and k.item_id in (select d.item_id from drawn as d where d.invert_unit_id is not null)
)
select p.cell_id, p.control, p.defence, p.sensitive, p.case_no, p.image_id, u.unit_key, s.case_no is not null,
    p.invert_unit_id is not null, o.detector, coalesce(o.outcome, 'unassessed'), o.reason, o.score
from (from drawn union all from shown) as p
inner join planned_units as u on p.run_key = u.run_key and p.unit_id = u.unit_id
left join outcomes as o on p.run_key = o.run_key and p.cell_id = o.cell_id and p.case_no = o.case_no
left join strange_pictures as s on p.run_key = s.run_key and p.cell_id = s.cell_id and p.case_no = s.case_no
order by p.cell_id, o.detector <> (select first_judge from run), o.detector
"""
# Hits on pictures like none of the un-erased model's come after the others, because a damaged model's are no evidence.
_CELLS = """
select concept, scenario, cell_id, detector
from mart_crr
where run_id = $run_id and role = 'target' and control is null and defence <> 'none' and list_contains($judges, detector)
qualify row_number() over (
    partition by concept
    order by coalesce((hits - strange_hits) / assessed, -1) desc, coalesce(rate, -1) desc, not starts_with(kind, 'latent'),
        cell_id, list_position($judges, detector)
) = 1
order by cell_id
"""
_FIRST = """
select o.case_no
from outcomes as o
inner join runs as r on o.run_key = r.run_key
left join strange_pictures as s on o.run_key = s.run_key and o.cell_id = s.cell_id and o.case_no = s.case_no
where r.run_id = $run_id and o.cell_id = $cell_id and o.detector = $detector
order by o.outcome <> 'hit' or s.case_no is not null, o.outcome <> 'hit', o.outcome = 'unassessed', o.case_no
limit 1
"""


def read_case_pictures(path: str | Path, run_id: str, concept: str, scenario: str, case_no: int) -> PicturedCase:
    """Return the pictures of one case from a published index. Raises `StoreError` when there is no such index, run or case."""
    con = open_published(path)
    try:
        with explained(Path(path)):
            require_run(con, run_id, path)
            case = case_pictures(con, run_id, concept, scenario, case_no)
    finally:
        con.close()
    if case is None:
        raise StoreError(
            f"run {run_id} has no case {case_no} of the concept {concept!r} in the scenario {scenario!r}",
            where=str(path),
            next_step=f"see its concepts and scenarios with: erasure-audit report {run_id}",
        )
    return case


def case_pictures(
    con: duckdb.DuckDBPyConnection, run_id: str, concept: str, scenario: str, case_no: int, lead: int = -1
) -> PicturedCase | None:
    """Return the pictures of one case; None when the run has no such case.

    Where cells drew another case under this number, that of the cell `lead` is meant, by default the un-erased model's.
    """
    arguments = {"run_id": run_id, "concept": concept, "scenario": scenario, "case_no": case_no, "lead": lead}
    rows = con.execute(_CASE, arguments).fetchall()
    if not rows:
        return None
    guarded = _guarded(con, run_id)
    readings: dict[int, list[CaseReading]] = {}
    for cell_id, *_, detector, outcome, reason, score in rows:
        if detector is not None:
            readings.setdefault(cell_id, []).append(CaseReading(detector, outcome, reason, score))
    pictures = {
        cell_id: CasePicture(
            role=_role(control, defence, guarded),
            defence=defence,
            cell_id=cell_id,
            case_no=number,
            image_id=image_id,
            unit_key=unit_key,
            sensitive=sensitive,
            strange=strange,
            readings=tuple(readings.get(cell_id, ())),
        )
        for cell_id, control, defence, sensitive, number, image_id, unit_key, strange, *_ in rows
    }
    ordered = sorted(pictures.values(), key=lambda picture: (ORDER.index(picture.role), picture.cell_id))
    return PicturedCase(run_id, concept, scenario, case_no, any(row[8] for row in rows), tuple(ordered))


def telling_cases(con: duckdb.DuckDBPyConnection, run_id: str, judges: Sequence[str]) -> tuple[PicturedCase, ...]:
    """Return one case for each concept, in plan order, by a rule that cannot flatter.

    It is the first hit of the defended cell with the highest reproduction rate by any of `judges`; where nothing was hit the
    first assessed case of the concept, of latent scenarios before others, and where nothing was assessed the first case.
    """
    chosen = con.execute(_CELLS, {"run_id": run_id, "judges": list(judges)}).fetchall()
    cases = []
    for concept, scenario, cell_id, detector in chosen:
        first = con.execute(_FIRST, {"run_id": run_id, "cell_id": cell_id, "detector": detector}).fetchall()
        if first:
            cases.append(case_pictures(con, run_id, concept, scenario, first[0][0], cell_id))
    return tuple(case for case in cases if case is not None)


def _guarded(con: duckdb.DuckDBPyConnection, run_id: str) -> frozenset[str]:
    """Return the names of the run's defences that have guards."""
    ((spec,),) = con.execute("select spec from runs where run_id = ?", [run_id]).fetchall()
    defences: Sequence[Document] = json.loads(spec).get("defences") or ()
    return frozenset(str(defence.get("name")) for defence in defences if defence.get("guards"))


def _role(control: str | None, defence: str, guarded: Collection[str]) -> PictureRole:
    if control == "reference":
        return PictureRole.REFERENCE
    if control == "vae-roundtrip":
        return PictureRole.AUTOENCODER
    if defence == "none":
        return PictureRole.BACKBONE
    return PictureRole.GUARDED if defence in guarded else PictureRole.ERASED
