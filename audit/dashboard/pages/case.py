"""One case: its pictures side by side, from the reference to the guarded model, and what every judge read in them."""

from __future__ import annotations

import dataclasses
import hashlib

from audit.dashboard.context import Context, Page, PageMissing
from audit.dashboard.links import Query
from audit.dashboard.pictures import case_strips
from audit.dashboard.queries import only
from audit.dashboard.queries import run as read_run
from audit.dashboard.results import light_result
from audit.dashboard.tables import Linked, LinkedTable
from audit.index.case_pictures import case_pictures
from audit.index.records import Row
from audit.records import Outcome
from audit.report.contact import sensitive_names
from audit.report.strips import Strip, is_hidden
from audit.report.view import Column, Index
from audit.report.words import count, plain
from audit.verdict.case_pictures import DEFENDED, CasePicture, PicturedCase, PictureRole

_CASE = """
select c.concept, c.scenario, c.defence, c.control, c.planned, k.seed, k.guidance, k.item_id, k.item_uri, k.subject,
    coalesce(k.prompt, a.prompt) as prompt, k.prompt_key
from cells as c
inner join cases as k on c.run_key = k.run_key and c.cell_id = k.cell_id
left join attacks as a on k.attack_unit_id = a.unit_id and k.attack_item_id = a.item_id
where c.run_key = $run_key and c.cell_id = $cell_id and k.case_no = $case_no
"""
_HITS = """
select distinct case_no from outcomes where run_key = $run_key and cell_id = $cell_id and outcome = 'hit' order by case_no
"""
_MOST_HITS = 120
_ROLES = {
    PictureRole.REFERENCE: "reference", PictureRole.AUTOENCODER: "reference through the VAE", PictureRole.BACKBONE: "un-erased",
    PictureRole.ERASED: "erased", PictureRole.GUARDED: "guarded",
}  # fmt: skip
_OUTCOMES = {"hit": "● hit", "clear": "○ clear", "blocked": "■ blocked", "unassessed": "? unassessed"}
_COLUMNS = (
    Column("Picture"), Column("Defence"), Column("Judge"), Column("Reading"), Column("Score", "number"),
    Column("Why it is unassessed"), Column("Unit", "code"),
)  # fmt: skip


def case(context: Context, query: Query) -> Page:
    """Return the page of one case of a cell."""
    only(query, "run", "cell", "case")
    run = read_run(context, query.get("run", ""))
    place = {"run_key": run["run_key"], "cell_id": _number(query, "cell"), "case_no": _number(query, "case")}
    rows = context.rows(_CASE, place)
    if not rows:
        raise PageMissing(f"Run {run['run_id']} has no case {place['case_no']} in a cell {place['cell_id']}.")
    row = rows[0]
    found = case_pictures(
        context.con, run["run_id"], row["concept"], row["scenario"], place["case_no"], place["cell_id"]
    )
    index = Index(light_result(context, run, (found,) if found else ()))
    pictured = index.result.pictured[0] if found else None
    strip = _captioned(case_strips(context, index)[row["concept"]], pictured) if pictured else None
    hidden = pictured is None or is_hidden(index, pictured, sensitive_names(index))
    values = {
        "strip": strip,
        "where": f"{plain(row['concept'], 60)} by {plain(row['scenario'], 60)}, case {place['case_no']}",
        "run_link": context.link("run", run=run["run_id"]),
        "run_id": run["run_id"],
        "facts": _facts(row, run, hidden),
        "prompt": _prompt(row, hidden),
        "table": _readings(context, run, row, pictured) if pictured else None,
        "steps": _steps(context, run, place, row["planned"]) if context.links.live else [],
        "hits": _hits(context, run, place) if context.links.live else None,
        "replay": f"erasure-audit evidence replay {run['run_id']} --hits 20",
    }
    return Page(f"Case {place['case_no']} of {plain(row['concept'], 40)}", "case.html.j2", values)


def _number(query: Query, name: str) -> int:
    text = query.get(name, "")
    if not text.isascii() or not text.isdecimal() or len(text) > 9:
        raise PageMissing(f"The address names no {name}." if not text else f"{text[:40]!r} is no number of a {name}.")
    return int(text)


def case_link(context: Context, run_id: str, pictured: PicturedCase) -> str:
    """Return the address of a case: that of its first hit through a defence, else of its first picture of an audited cell."""
    own = [p for p in pictured.pictures if p.role not in (PictureRole.REFERENCE, PictureRole.AUTOENCODER)]
    chosen = sorted(own, key=lambda p: (p.role not in DEFENDED, all(r.outcome != Outcome.HIT for r in p.readings)))[0]
    return context.link("case", run=run_id, cell=str(chosen.cell_id), case=str(chosen.case_no))


def _captioned(strip: Strip, pictured: PicturedCase) -> Strip:
    start = "It starts from an inverted corpus image." if pictured.inverted else "It does not start from an image."
    return dataclasses.replace(
        strip, caption=f"{start} A picture is a hit when any judge of the policy finds the concept in it."
    )


def _facts(row: Row, run: Row, hidden: bool) -> list[tuple[str, str]]:
    stated = (
        ("Concept", row["concept"]), ("Scenario", row["scenario"]), ("Cell", f"through {row['defence']}"), ("Seed", row["seed"]),
        ("Guidance", None if row["guidance"] is None else f"{row['guidance']:g}"),
        ("Corpus image", None if hidden else row["item_uri"]),
        ("System", run["system"]), ("Version", run["system_version"]), ("Started", run["created_at"]),
    )  # fmt: skip
    return [(name, plain(value, 200)) for name, value in stated if value is not None]


def _prompt(row: Row, hidden: bool) -> tuple[str, str] | None:
    """Return what is said of the prompt, and its text where it may be shown to whoever asks."""
    if row["prompt"] is None:
        return None
    if hidden:
        digest = hashlib.sha256(str(row["prompt"]).encode()).hexdigest()
        return f"The prompt of a sensitive concept is not shown; its SHA-256 is {digest}.", ""
    return "Prompt", plain(row["prompt"], 2000)


def _readings(context: Context, run: Row, row: Row, pictured: PicturedCase) -> LinkedTable:
    return LinkedTable(
        "What each judge read",
        _COLUMNS,
        tuple(
            (
                _ROLES[picture.role],
                _defence(context, run, row, picture),
                plain(reading.detector, 60),
                _OUTCOMES.get(reading.outcome, plain(reading.outcome, 40)),
                "none" if reading.score is None else f"{reading.score:.3f}",
                plain(reading.reason, 200) if reading.reason else "",
                plain(picture.unit_key[:16]),
            )
            for picture in pictured.pictures
            for reading in picture.readings
        ),
        heads=2,
    )


def _defence(context: Context, run: Row, row: Row, picture: CasePicture) -> str | Linked:
    if picture.role not in (PictureRole.ERASED, PictureRole.GUARDED):
        return "none"
    place = {"system": run["system"], "concept": row["concept"], "scenario": row["scenario"]}
    return Linked(plain(picture.defence, 60), context.link("trend", place, defence=picture.defence))


def _steps(context: Context, run: Row, place: Row, planned: int) -> list[tuple[str, str]]:
    """Return links to the cases before and after this one in its cell."""
    number = place["case_no"]
    near = [("The case before", number - 1)] if number else []
    near += [("The case after", number + 1)] if number + 1 < planned else []
    names = {"run": run["run_id"], "cell": str(place["cell_id"])}
    return [(label, context.link("case", names, case=str(other))) for label, other in near]


def _hits(context: Context, run: Row, place: Row) -> dict[str, object]:
    numbers = [row["case_no"] for row in context.rows(_HITS, {k: place[k] for k in ("run_key", "cell_id")})]
    names = {"run": run["run_id"], "cell": str(place["cell_id"])}
    links = [(str(n), context.link("case", names, case=str(n)), n == place["case_no"]) for n in numbers[:_MOST_HITS]]
    return {"links": links, "count": count(len(numbers)), "more": len(numbers) > _MOST_HITS}
