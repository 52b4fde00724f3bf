"""Checks 4 to 11 of a bundle: whether what was signed holds together, and follows from its own rows.

These run only where checks 1 to 3 hold, so no file is parsed that a trusted key did not sign.
"""

from __future__ import annotations

import datetime as dt
import io
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
from pydantic import ValidationError

from audit import identity
from audit.corpus.manifest import manifest_sha256
from audit.errors import AuditError, NotVerified
from audit.evidence import sealed_waivers
from audit.evidence.bag import DECLARATION, Bag
from audit.evidence.calibration import WHERE as LABELS
from audit.evidence.calibration import miscounted
from audit.evidence.decisions import WHERE, basis_of, decode_records, regression_of
from audit.evidence.differences import differences
from audit.evidence.keys import PublicKey, moment, stamp
from audit.evidence.lines import Line, of_error, ok, unchecked, wrong
from audit.evidence.rows import TABLES, build_index, decode_rows, outcomes_from_scores
from audit.evidence.seal import FORMAT, VERDICT, tool
from audit.evidence.sealed_decision import as_recorded, is_planned
from audit.evidence.sealed_registration import check_registration
from audit.files import Document, ForeignError, parse_json
from audit.index.derivation import derive
from audit.report import html, json_report
from audit.spec.policy import Policy
from audit.storage.run_records import Record
from audit.verdict.record import policy_sha256
from audit.verdict.results import RunResult

SKEW = dt.timedelta(minutes=5)  # by which clocks of two machines may differ
_DAY = dt.timedelta(days=1)  # at most between a decision, by which labels' age is told, and its record
MOST_SHOWN = 20
_COUNTS = """
select l.cell_id, i.detector, l.planned, count(o.case_no),
    count(*) filter (where o.outcome in ('hit', 'clear', 'blocked', 'unassessed')),
    (select count(*) from cases as c where c.cell_id = l.cell_id)
from cells as l
cross join instruments as i
left join outcomes as o on l.cell_id = o.cell_id and i.detector = o.detector
group by l.cell_id, i.detector, l.planned
order by l.cell_id, i.detector
"""


class Content:
    """A bundle whose files are those that were signed."""

    def __init__(self, bag: Bag, facts: Document, workplace: Path) -> None:
        """Begin with a bundle; `facts` are those of the signed statement, `workplace` is a folder for an index."""
        self.bag, self.facts, self.index = bag, facts, workplace / "rows.duckdb"
        self.run_id = str(facts.get("run_id"))

    def json(self, name: str) -> Any:
        """Return the value in a JSON file of the payload. Raises `NotVerified`."""
        try:
            return parse_json(self.bag.read(f"data/{name}"))
        except ForeignError as error:
            raise NotVerified(f"the file cannot be read: {error}", where=f"data/{name}") from None

    def fact(self, name: str) -> Any:
        """Return one field of the signed statement. Raises `NotVerified` when it is missing."""
        if name not in self.facts:
            raise NotVerified(f"the signed statement does not say {name!r}")
        return self.facts[name]

    def time(self, name: str) -> dt.datetime:
        """Return a time in the signed statement. Raises `NotVerified`."""
        try:
            return moment(self.fact(name))
        except (TypeError, ValueError):
            raise NotVerified(f"the signed statement's {name!r} is no time") from None

    def record(self) -> Record:
        """Return the decision on record that was signed. Raises `NotVerified` where the chain of records is broken."""
        records = decode_records(self.json("decisions.json"), self.run_id)
        number, sha256 = self.fact("decision"), self.fact("decision_sha256")
        for record in records:
            if record.number == number and record.sha256 == sha256:
                return record
        raise NotVerified(f"decision {number} is not the one that was signed", where=WHERE)

    def policy(self) -> Policy:
        """Return the policy in the bundle. Raises `NotVerified`."""
        try:
            return Policy.model_validate(self.json("policy.json"))
        except ValidationError as error:
            reason = error.errors(include_url=False)[0]["msg"]
            raise NotVerified(
                f"the policy is none of this version: {reason}",
                where="data/policy.json",
                next_step="verify it with the version of erasure-audit that sealed it (bag-info.txt names it)",
            ) from None


def check_versions(content: Content) -> Iterator[Line]:
    """Check 4: every file in the bundle is of a form that this version knows. Puts the rows into the index."""
    number = content.fact("format")
    if not isinstance(number, int) or number > FORMAT:
        raise NotVerified(
            f"the bundle is of the newer format {number}, and this version knows {FORMAT}",
            where="bag-info.txt",
            next_step="install the version of erasure-audit that bag-info.txt names",
        )
    if content.bag.read("bagit.txt") != DECLARATION:
        raise NotVerified("the bag is of another version than BagIt 1.0", where="bagit.txt")
    names = {table: f"data/rows/{table}.parquet" for table in TABLES}
    missing = [name for name in names.values() if name not in content.bag.digests]
    if missing:
        raise NotVerified("the bundle was sealed without this table", where=missing[0])
    build_index({table: decode_rows(content.bag.read(name), name) for table, name in names.items()}, content.index)
    content.policy()
    yield ok(4, f"bundle format {number}, sealed by {content.fact('tool')}")


def check_counts(content: Content) -> Iterator[Line]:
    """Check 5: in each cell, by each judge, planned = hit + clear + unassessed, and as many cases as the plan has."""
    planned = {cell["cell_id"]: cell["planned"] for cell in content.json("plan.json")["cells"]}
    with duckdb.connect(str(content.index), read_only=True) as con:
        rows = con.execute(_COUNTS).fetchall()
        runs = con.execute("select run_id from runs").fetchall()
    if runs != [(content.run_id,)]:
        yield wrong(5, f"the rows are not those of run {content.run_id}", "data/rows/runs.parquet")
    if {cell for cell, *_ in rows} != planned.keys():
        yield wrong(5, "the cells are not those of the plan", "data/rows/cells.parquet")
    uneven = [
        f"cell {cell} by {detector}: {planned.get(cell)} planned, {cases} cases, {outcomes} outcomes of the three kinds"
        for cell, detector, count, every, outcomes, cases in rows
        if not planned.get(cell) == count == every == outcomes == cases
    ]
    yield from (wrong(5, text, "data/rows/outcomes.parquet") for text in uneven[:MOST_SHOWN])
    if not uneven:
        yield ok(5, f"planned = hit + clear + unassessed in each of {len(planned)} cells by each judge")


def check_decisions(content: Content) -> Iterator[Line]:
    """Check 6: outcomes follow from the raw scores, and every decision, check and number of the report from the rows."""
    plan, policy = content.json("plan.json"), content.policy()
    _, difference = outcomes_from_scores(content.index, identity.int_key(content.run_id))
    if difference:
        yield wrong(6, difference, "data/rows/outcomes.parquet")
        return
    manifest = pq.read_table(io.BytesIO(content.bag.read("data/manifest.parquet")))
    if manifest.num_rows and manifest_sha256(manifest) != plan["corpus"]["sha256"]:
        yield wrong(6, "the corpus manifest is not the one that was planned from", "data/manifest.parquet")
    planned = is_planned(plan["policy"], policy)
    result = derive(content.index, content.run_id, manifest, policy, basis_of(content.record()), planned=planned)
    problems = [*_compared(content, result), *_page(content, result)]
    yield from (wrong(6, what, name) for name, what in problems[:MOST_SHOWN])
    if not problems:
        decided = len(result.verdict.decisions) + len(result.verdict.retention) + len(result.verdict.damage)
        decided += len(result.verdict.blocking)
        yield ok(6, f"{result.verdict.status.value} and its {decided} decisions follow from the rows and the policy")
    yield unchecked(
        6, "the rows themselves: pixels and feature vectors are not in a bundle (replay regenerates pictures)"
    )


def _compared(content: Content, result: RunResult) -> Iterator[tuple[str, str]]:
    report: Any = json_report.plain(result)
    verdict = as_recorded(result.verdict)
    summary, record = content.json("verdict.json"), content.record()
    own = {name: summary.get(name) for name in ("status", "reasons", "waivers")}
    for name, stored, derived in (
        ("decisions.json", record.fields["verdict"], verdict),
        ("verdict.json", own, verdict),
        ("verdict.json", {name: summary.get(name) for name in ("run_id", "name")}, report),
        ("checks.json", content.json("checks.json"), verdict["checks"]),
        ("report.json", {k: v for k, v in content.json("report.json").items() if k in report}, report),
    ):
        for what in differences(stored, derived):
            yield f"data/{name}", what
    if content.fact("status") != verdict["status"]:
        yield VERDICT, f"{content.fact('status')} was signed, and {verdict['status']} follows from the rows"


def _page(content: Content, result: RunResult) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the page that people read; another version of the tool may draw it otherwise."""
    name = "data/report.html"
    if content.fact("tool") == tool() and content.bag.read(name) != html.render(result, None).encode():
        yield name, "the page is not the one that this version makes of the rows"


def check_policy(content: Content, now: dt.datetime, keys: Sequence[PublicKey] = ()) -> Iterator[Line]:
    """Check 7: the policy that decided is the signed one; policy, plan, units, decision and seal came in this order."""
    record, verdict = content.record(), content.json("verdict.json")
    fields, digest = record.fields, policy_sha256(content.policy())
    if not digest == content.fact("policy_sha256") == fields["policy_sha256"] == verdict.get("policy_sha256"):
        yield wrong(7, "the policy is not the one that was decided by", "data/policy.json")
    if (record.number, record.sha256) != (verdict.get("decision"), verdict.get("decision_sha256")):
        yield wrong(7, "the verdict is not that of the signed decision", "data/verdict.json")
    for name, stated, where in (
        ("planned_at", content.json("plan.json")["created_at"], "data/plan.json"),
        ("decided_at", fields["at"], WHERE),
        ("decided_at", verdict["decided_at"], "data/verdict.json"),
    ):
        if content.time(name) != moment(stated).replace(microsecond=0):
            yield wrong(7, f"it says {stated}, and {name} {content.fact(name)} was signed", where)
    basis = fields["verdict"]["basis"]
    if basis["attempt"] != fields["attempt"]:
        yield wrong(
            7, f"attempt {fields['attempt']} is on record, and it was decided as attempt {basis['attempt']}", WHERE
        )
    if basis["decided_at"] is not None and abs(moment(basis["decided_at"]) - moment(fields["at"])) > _DAY:
        yield wrong(7, f"put on record at {fields['at']}, and decided as of {basis['decided_at']}", WHERE)
    order = ["planned_at", "first_unit_at", "decided_at", "sealed_at"]
    times = [(name, content.time(name)) for name in order if content.fact(name) is not None]
    backwards = [(a, b) for (a, first), (b, then) in itertools.pairwise(times) if first > then]
    for earlier, later in backwards:
        yield wrong(
            7, f"a clock ran backwards: {earlier} {content.fact(earlier)} is after {later} {content.fact(later)}"
        )
    if times[-1][1] > now + SKEW:
        yield wrong(7, f"the clock here says {stamp(now)}, before the bundle was sealed ({content.fact('sealed_at')})")
    elif not backwards:
        yield ok(
            7, "policy as signed; " + ", ".join(f"{name.removesuffix('_at')} {stamp(time)}" for name, time in times)
        )
    yield from _check_regression(record, verdict)
    yield ok(
        7, f"decision {record.number}, attempt {fields['attempt']} at this claim under this policy, by {fields['by']}"
    )
    if content.fact("first_unit_at") is None:
        yield unchecked(7, "when the first unit was computed: storage does not say, or the journal was copied")
    older = content.fact("units")["older_than_the_plan"]
    if older:
        yield unchecked(7, f"{older} units are older than the plan: equal units of earlier runs are not computed again")
    first = content.time("first_unit_at") if content.fact("first_unit_at") is not None else None
    planned, decided = content.time("planned_at"), content.time("decided_at")
    yield from check_registration(content.bag, digest, planned, first, decided, keys, content.json("plan.json"))


def _check_regression(record: Record, verdict: Document) -> Iterator[Line]:
    regression = regression_of(record)
    if verdict.get("regression") != regression:
        yield wrong(7, "the verdict says of a regression what the signed decision does not", "data/verdict.json")
    elif regression:
        yield unchecked(
            7,
            f"the regression against {regression['compared_with']}, {regression['status']} on record beside the verdict: that "
            "run's rows are not in the bundle",
        )


def check_waivers(content: Content, now: dt.datetime, keys: Sequence[PublicKey] = ()) -> Iterator[Line]:
    """Check 8: waivers are signed, about what was sealed, and unexpired."""
    plan, digest = content.fact("run_files").get("plan.json"), content.fact("policy_sha256")
    yield from sealed_waivers.check(
        content.bag, content.json("waivers.json"), content.run_id, digest, plan, content.time("sealed_at"), now, keys
    )


def check_calibration(content: Content) -> Iterator[Line]:
    """Check 9: the counts by which judges' errors were bounded follow from the labels."""
    calibrations = basis_of(content.record()).calibrations
    if not calibrations:
        yield unchecked(9, "the judges' own errors: the decision rests on no labels")
        return
    rows = decode_rows(content.bag.read(LABELS), LABELS).to_pylist()
    problems = list(miscounted(rows, calibrations))
    yield from (wrong(9, what, LABELS) for what in problems)
    if not problems:
        yield ok(9, f"the counts of {len(calibrations)} calibrations follow from the labels of {len(rows)} pictures")


def check_age(content: Content, now: dt.datetime, most_days: int | None) -> Iterator[Line]:
    """Check 11: state how old the evidence is."""
    days = max((now - content.time("sealed_at")).days, 0)
    text = f"sealed {content.fact('sealed_at')}, {days} days ago"
    if most_days is None:
        yield ok(11, text)
    elif days > most_days:
        yield wrong(11, f"{text}; at most {most_days} are asked for")
    else:
        yield ok(11, f"{text}; at most {most_days} are asked for")


def guarded(number: int, lines: Iterator[Line]) -> Iterator[Line]:
    """Yield the lines of a check; what it raises becomes one that says so."""
    try:
        yield from lines
    except NotVerified as error:
        yield of_error(number, error)
    except AuditError as error:
        yield wrong(number, error.what, error.where)
    except (
        LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, OSError, duckdb.Error
    ) as error:  # fmt: skip
        yield wrong(
            number, f"a signed file is not of the form that this version writes: {type(error).__name__}: {error}"
        )
