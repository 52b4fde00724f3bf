"""Draw sampled hits once more on this machine, and say of each whether the picture is the one on record.

Pictures are made and judged by the code of a run's worker from what the run journalled: erased weights, embeddings, prompts
that an attack found, inverted latents. None of those is computed anew. What is made goes into a journal of its own below a
temporary folder, is counted there by the same SQL as a run, and is gone afterwards.
"""

from __future__ import annotations

import dataclasses
import math
import random
import tempfile
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from audit.corpus.images import Pixels, decode_stored, pixel_sha256, psnr
from audit.errors import AuditError, JournalError
from audit.evidence.bag import scan
from audit.evidence.rows import TABLES, build_index, decode_rows
from audit.index.published import open_published
from audit.index.records import Row, records
from audit.index.store import Store, explained
from audit.plan.document import Plan
from audit.plan.identities import DetectIdentity, FilterIdentity, Unit
from audit.records import Role, Status
from audit.storage.journal import Journal

NEAR_DB = 35.0  # PSNR from which on two pictures differ by rounding alone
_PLAN_FILES = ("plan.json", "cases.parquet", "units.parquet", "provenance.json")
Progress = Callable[[int], None]


class Result(StrEnum):
    """How a picture that was drawn again compares with the one on record."""

    EXACT = "exact"  # the same pixels
    NEAR = "near"  # as good as the same, and every judge says the same
    DIFFERS = "differs"
    NOT_REPLAYABLE = "not replayable"


class Drawing(Protocol):
    """What draws and judges: a worker of the run's plan."""

    def draw_again(self, unit: Unit, images: Collection[int]) -> pa.Table:
        """Return the rows of some pictures of a generate unit, computed once more."""

    def judge_again(self, unit: Unit, pictures: Journal) -> pa.Table:
        """Return the rows of a detect unit for its pictures in another journal."""

    def filter_again(self, unit: Unit, pictures: Journal) -> pa.Table:
        """Return the rows of a filter unit for its pictures in another journal."""


@dataclasses.dataclass(frozen=True)
class Hit:
    """A hit on record: one case of a defended target cell that a judge counted."""

    cell_id: int
    case_no: int
    image_id: int
    unit_key: str
    concept: str
    defence: str
    scenario: str
    pixel_sha256: str | None
    outcomes: Mapping[str, str]  # judge -> hit | clear | unassessed


@dataclasses.dataclass(frozen=True)
class Replayed:
    """One hit, drawn again."""

    hit: Hit
    result: Result
    detail: str
    psnr_db: float | None = None  # infinite where the pixels are the same
    outcomes: Mapping[str, str] = dataclasses.field(default_factory=dict)  # of the new picture, by judge

    def as_row(self) -> dict[str, object]:
        """Return it as one JSON object; an infinite PSNR is null there, and the result says exact."""
        hit = self.hit
        return {
            "cell_id": hit.cell_id,
            "case_no": hit.case_no,
            "concept": hit.concept,
            "defence": hit.defence,
            "scenario": hit.scenario,
            "result": self.result.value,
            "detail": self.detail,
            "psnr_db": self.psnr_db if self.psnr_db is not None and math.isfinite(self.psnr_db) else None,
            "outcomes": dict(hit.outcomes),
            "outcomes_again": dict(self.outcomes),
        }


def hits_on_record(published: Path, plan: Plan, judges: Collection[str]) -> list[Hit]:
    """Return every case of a defended target cell that one of `judges` counted, in the order of the plan.

    `published` is a copy of the index. Raises `StoreError` when it cannot be read.
    """
    cells = {
        planned.cell.cell_id: planned.cell
        for planned in plan.cells
        if planned.cell.role is Role.TARGET and planned.cell.control is None and planned.cell.defence != "none"
    }
    found: dict[tuple[int, int], Hit] = {}
    for row in _outcomes(published, plan.run_id):
        cell = cells.get(row["cell_id"])
        if cell is None or row["detector"] not in judges:
            continue
        place = row["cell_id"], row["case_no"]
        known = found.get(place) or Hit(
            *place, row["image_id"], row["unit_key"], cell.concept, cell.defence, cell.scenario, row["pixel_sha256"], {}
        )
        found[place] = dataclasses.replace(known, outcomes={**known.outcomes, row["detector"]: row["outcome"]})
    return [hit for _, hit in sorted(found.items()) if "hit" in hit.outcomes.values()]


def sealed_hits(folder: Path, plan: Plan, judges: Collection[str]) -> list[Hit]:
    """Return the hits as `hits_on_record` does, from the rows that a bundle holds. The caller has verified it.

    Raises `NotVerified` when its rows cannot be read.
    """
    bag = scan(folder)
    names = {table: f"data/rows/{table}.parquet" for table in TABLES}
    with tempfile.TemporaryDirectory(prefix="erasure-audit-") as workplace:
        index = Path(workplace) / "rows.duckdb"
        build_index({table: decode_rows(bag.read(name), name) for table, name in names.items()}, index)
        return hits_on_record(index, plan, judges)


def sampled(hits: Sequence[Hit], count: int, seed: int) -> list[Hit]:
    """Return `count` different hits, drawn by `seed`; all of them where there are fewer. The same seed draws the same ones."""
    if count >= len(hits):
        return list(hits)
    chosen = random.Random(seed).sample(range(len(hits)), count)
    return [hits[number] for number in sorted(chosen)]


def replay(
    plan: Plan,
    journal: Journal,
    drawing: Drawing,
    hits: Sequence[Hit],
    judges: Collection[str],
    *,
    near_db: float = NEAR_DB,
    progress: Progress = lambda done: None,
) -> list[Replayed]:
    """Return each hit, drawn again and judged by `judges`, in order. The run's journal is read and never written.

    A missing model, guard, attack or latent makes its hits not replayable, and says why.
    """
    by_unit: dict[str, list[Hit]] = defaultdict(list)
    for hit in hits:
        by_unit[hit.unit_key].append(hit)
    with tempfile.TemporaryDirectory(prefix="erasure-audit-replay-") as folder:
        scratch = _Scratch(plan, journal, drawing, Path(folder), judges)
        for number, (key, wanted) in enumerate(by_unit.items()):
            progress(number)
            scratch.draw(key, {hit.image_id for hit in wanted})
        progress(len(by_unit))
        outcomes = scratch.outcomes()
        return [_compared(hit, scratch, outcomes.get((hit.cell_id, hit.case_no), {}), near_db) for hit in hits]


class _Scratch:
    """The journal of pictures that are drawn again, with the run's plan and what their outcomes depend on."""

    def __init__(self, plan: Plan, journal: Journal, drawing: Drawing, folder: Path, judges: Collection[str]) -> None:
        self._plan, self._run, self._drawing, self._folder, self._judges = plan, journal, drawing, folder, judges
        self._journal = Journal(str(folder / "journal"))
        for name in _PLAN_FILES:
            self._journal.put_run(plan.run_id, name, journal.get_run(plan.run_id, name))
        self._generate = {unit.key: unit for unit in plan.units_of("generate")}
        self.rows: dict[tuple[str, int], Row] = {}  # by unit and picture
        self.problems: dict[str, str] = {}  # by unit

    def draw(self, key: str, images: Collection[int]) -> None:
        """Draw some pictures of one unit, and let every judge see them."""
        unit = self._generate[key]
        try:
            table = self._drawing.draw_again(unit, images)
            self._write("generate", key, table)
            self.rows |= {(key, row["image_id"]): row for row in table.to_pylist()}
            for detect in self._plan.units_of("detect"):
                identity = detect.identity
                if isinstance(identity, DetectIdentity) and identity.generate == key and self._judging(identity):
                    self._write("detect", detect.key, self._drawing.judge_again(detect, self._journal))
            for unit_of_filter in self._plan.units_of("filter"):
                ruling = unit_of_filter.identity
                if isinstance(ruling, FilterIdentity) and ruling.generate == key:
                    # A filter of prompts reads no picture, so that it says what it said.
                    of_pictures = key in unit_of_filter.depends
                    again = (
                        self._drawing.filter_again(unit_of_filter, self._journal)
                        if of_pictures
                        else self._run.read("filter", unit_of_filter.key)
                    )
                    self._write("filter", unit_of_filter.key, again)
            for invert in {dependency for dependency in unit.depends if self._is_inversion(dependency)}:
                self._write("invert", invert, self._run.read("invert", invert))
        except AuditError as error:
            self.problems[key] = f"{error.what} ({error.where})" if error.where else error.what

    def original(self, hit: Hit) -> Pixels | None:
        """Return the picture on record; None where it was purged, cannot be read, or is not the one with the hit's digest."""
        try:
            table = self._run.read("generate", hit.unit_key, ["image_id", "image"])
            stored = {row["image_id"]: row["image"] for row in table.to_pylist()}.get(hit.image_id)
            pixels = decode_stored(stored["bytes"]) if stored else None
        except (JournalError, ValueError):
            return None
        return pixels if pixels is not None and pixel_sha256(pixels) == hit.pixel_sha256 else None

    def outcomes(self) -> dict[tuple[int, int], dict[str, str]]:
        """Return what each judge says of the new pictures by cell and case, counted as a run's are."""
        if not self.rows:
            return {}
        with Store(self._folder / "index.duckdb") as store:
            store.consolidate(self._journal, self._plan.run_id)
            published = store.publish(self._folder / "published")
        found: dict[tuple[int, int], dict[str, str]] = defaultdict(dict)
        for row in _outcomes(published, self._plan.run_id):
            if row["detector"] in self._judges:
                found[row["cell_id"], row["case_no"]][row["detector"]] = row["outcome"]
        return found

    def _write(self, kind: str, key: str, table: pa.Table) -> None:
        self._journal.write(kind, key, table, {"identity": {}, "runtime": {}})

    def _judging(self, identity: DetectIdentity) -> bool:
        judging = {i.instrument_id for i in self._plan.instruments if i.detector in self._judges}
        return identity.instrument.instrument_id in judging

    def _is_inversion(self, key: str) -> bool:
        return any(unit.key == key for unit in self._plan.units_of("invert"))


def _outcomes(published: Path, run_id: str) -> list[Row]:
    con = open_published(published)
    try:
        with explained(published):
            return records(
                con,
                "select s.cell_id, s.case_no, s.image_id, s.unit_key, s.detector, s.outcome, i.pixel_sha256"
                " from mart_samples as s inner join planned_units as u on s.unit_key = u.unit_key"
                " inner join runs as r on u.run_key = r.run_key and r.run_id = s.run_id"
                " left join images as i on u.unit_id = i.unit_id and s.image_id = i.image_id"
                " where s.run_id = ?",
                [run_id],
            )
    finally:
        con.close()


def _compared(hit: Hit, scratch: _Scratch, outcomes: Mapping[str, str], near_db: float) -> Replayed:
    problem = scratch.problems.get(hit.unit_key)
    row = scratch.rows.get((hit.unit_key, hit.image_id))
    if problem is not None or row is None:
        return Replayed(hit, Result.NOT_REPLAYABLE, problem or "its unit no longer has this case")
    if row["status"] == Status.ERROR.value:
        return Replayed(hit, Result.NOT_REPLAYABLE, str(row["error"]))
    if row["status"] != Status.OK.value:
        return Replayed(hit, Result.DIFFERS, f"there is no picture now: {row['error'] or row['status']}")
    if row["pixel_sha256"] == hit.pixel_sha256:
        return Replayed(hit, Result.EXACT, "the same pixels", math.inf, outcomes)
    first = scratch.original(hit)
    changed = [judge for judge, before in hit.outcomes.items() if outcomes.get(judge) != before]
    judges_say = f"judged otherwise by {', '.join(changed)}" if changed else "every judge says the same"
    if first is None:
        why = "those on record are not here (purged, or another file), so how near cannot be told"
        return Replayed(hit, Result.DIFFERS, f"other pixels; {why}; {judges_say}", outcomes=outcomes)
    second = decode_stored(row["image"]["bytes"])
    if first.shape != second.shape:
        return Replayed(hit, Result.DIFFERS, "a picture of another size", outcomes=outcomes)
    decibels = psnr(first, second)
    near = decibels >= near_db and not changed
    detail = f"PSNR {decibels:.1f} dB, {'at least' if decibels >= near_db else 'under'} {near_db:g}; {judges_say}"
    return Replayed(hit, Result.NEAR if near else Result.DIFFERS, detail, decibels, outcomes)
