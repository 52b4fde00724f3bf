"""The format-independent content of a report: sections of sentences, facts and tables, all plain text.

HTML, Markdown and the terminal render these sections, so that they cannot say different things.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from pydantic import ValidationError

from audit.records import BENIGN_PROMPTS, Control, Role, Scenario
from audit.report.words import NOT_AVAILABLE, limit_text, plain
from audit.spec.policy import Policy
from audit.verdict.decisions import ControlFinding, Decision
from audit.verdict.results import CrrRow, RunResult


@dataclasses.dataclass(frozen=True)
class Column:
    """One column. `kind` is text, number (right-aligned), status (symbol and word) or code (digests, identifiers).

    A narrow terminal leaves out columns with a `minor` above 0, the highest first; files always have all columns.
    """

    label: str
    kind: str = "text"
    minor: int = 0


@dataclasses.dataclass(frozen=True)
class Table:
    """A captioned table of finished text. `heads` leading columns name the row; `stack` asks for cards on a phone.

    `anchors` are names by which links reach single rows, by row number.
    """

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    heads: int = 1
    stack: bool = False
    anchors: Mapping[int, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.caption!r} has a row of another length than its header")

    def with_reasons(self, reasons: Sequence[str], told: Collection[str], shown: Sequence[str] | None = None) -> Table:
        """Return the table with a column of its rows' `reasons`, or of what is `shown` for them; itself when `told` has all."""
        if all(reason in told for reason in reasons):
            return self
        rows = tuple((*row, plain(why)) for row, why in zip(self.rows, shown or reasons, strict=True))
        return dataclasses.replace(self, columns=(*self.columns, Column("Why")), rows=rows)


@dataclasses.dataclass(frozen=True)
class Section:
    """One part of the report: sentences, bullets, label-value facts, tables and long texts, in this order."""

    key: str
    title: str
    sentences: tuple[str, ...] = ()
    bullets: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    tables: tuple[Table, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()  # title and preformatted text


class Index:
    """Look-ups over one run: cells by id, the policy in force, and the instrument behind each number."""

    def __init__(self, result: RunResult) -> None:
        self.result = result
        self.cells: dict[int, CrrRow] = {}
        for row in result.crr:
            self.cells.setdefault(row.cell_id, row)
        self.rows = {(row.cell_id, row.detector): row for row in result.crr}
        self.decisions: dict[tuple[int, str], Decision] = {
            (decision.cell_id, decision.detector): decision for decision in result.verdict.decisions
        }
        self.policy = _policy(result.spec)
        self._instruments = {instrument.get("instrument_id"): instrument for instrument in result.instruments}

    def cell_name(self, cell_id: int) -> str:
        """Return a cell in words: what is sought, through which defence, by which attack or control."""
        row = self.cells.get(cell_id)
        return f"cell {cell_id}" if row is None else cell_title(row)

    def instrument(self, row: CrrRow) -> tuple[str, str]:
        """Return the detector's name and the first eight digits of its weights' digest."""
        digest = str(self._instruments.get(row.instrument_id, {}).get("weights_sha256") or NOT_AVAILABLE)
        return plain(row.detector), plain(digest[:8])

    def is_judge(self, detector: str) -> bool:
        """Return whether the policy lets this detector decide; True when no policy can be read."""
        return self.policy is None or detector in self.policy.judges

    def confidence(self) -> str:
        """Return the policy's confidence as `95 %`, or `the policy's`."""
        return "the policy's" if self.policy is None else limit_text(self.policy.confidence)

    def bounds_confidence(self) -> str:
        """Return the confidence of the bounds that decided, which is higher than the policy's in a further attempt."""
        alphas = {decision.alpha for decision in self.result.verdict.decisions if decision.alpha is not None}
        return limit_text(1.0 - min(alphas)) if alphas else self.confidence()

    def targets(self) -> list[CrrRow]:
        """Return the rows of the audited cells and, for comparison, of the same attacks on the un-erased backbone."""
        return [r for r in self.result.crr if r.role == Role.TARGET or r.control == Control.BACKBONE]

    def perturbed(self) -> list[CrrRow]:
        """Return the rows of latent cells whose image or latent was disturbed."""
        return [row for row in self.result.crr if row.control == Control.PERTURBED]

    def relearned(self) -> list[CrrRow]:
        """Return the rows of models that were trained again, at each of their checkpoints."""
        return [row for row in self.result.crr if row.kind == Scenario.RELEARNING]

    def cycles(self) -> list[CrrRow]:
        """Return the rows of models that were edited and erased in turn, at each stage."""
        return [row for row in self.result.crr if row.kind == Scenario.CYCLES]

    def undisturbed(self, row: CrrRow) -> CrrRow | None:
        """Return the default row that a perturbed row, a checkpoint or a stage on the way, belongs to."""
        key = (row.concept, row.subject, row.defence, row.scenario, row.detector)
        default = (None, Control.BACKBONE, Control.UNLEARNED)
        return next(
            (
                r
                for r in self.result.crr
                if r.control in default and (r.concept, r.subject, r.defence, r.scenario, r.detector) == key
            ),
            None,
        )

    def twin(self, row: CrrRow, *, control: str) -> list[CrrRow]:
        """Return control rows of the same concept, defence, scenario and detector as `row`."""
        key = (row.concept, row.defence, row.scenario, row.detector)
        return [
            r for r in self.result.crr if r.control == control and (r.concept, r.defence, r.scenario, r.detector) == key
        ]


def defence_name(row: CrrRow | ControlFinding) -> str:
    """Return the defence as a reader should see it: `none` is the un-erased backbone."""
    return "none (un-erased)" if row.defence == "none" else plain(row.defence)


def subject_name(subject: str) -> str:
    """Return the subject as a reader should see it. A benign cell's is "benign prompts", whose cases have subjects of
    their own.
    """
    return "benign prompts" if subject == BENIGN_PROMPTS else plain(subject)


def cell_title(row: CrrRow) -> str:
    """Return one line that names a cell."""
    how = plain(row.scenario) if row.scenario != "none" else ""
    if row.perturbation is not None:
        how += f", {perturbation_name(row)}"
    elif row.control and row.control != Control.BACKBONE:
        how = f"control {plain(row.control)}" + (f", {how}" if how else "")
    sought = subject_name(row.subject)
    if row.role == Role.BENIGN:
        sought += f" beside {plain(row.concept)}"  # each concept has its own
    return f"{sought} · {defence_name(row)} · {how or 'no attack'}"


def perturbation_name(row: CrrRow) -> str:
    """Return the disturbance of a perturbed row with its strength, `none` for a default row."""
    return "none" if row.perturbation is None else f"{plain(row.perturbation)} {row.strength:g}"


def _policy(spec: Mapping[str, object]) -> Policy | None:
    try:
        return Policy.model_validate(spec.get("gate"))
    except ValidationError:
        return None


def is_testbed(result: RunResult) -> bool:
    """Return whether the audited backbone is the embedded miniature."""
    described = result.provenance.get("backbone")
    if isinstance(described, Mapping) and described.get("source") == "testbed":
        return True
    return str(result.spec.get("backbone", "")).split(":")[0].split("/")[0] == "testbed"
