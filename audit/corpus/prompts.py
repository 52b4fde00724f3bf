"""Make the prompts of cases, from templates or the rows of a prompt set, one prompt per case. Imports no torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from audit import identity
from audit.corpus import prompt_files
from audit.corpus.prompt_files import RawRow, Table
from audit.errors import SpecError
from audit.names import folded
from audit.records import Attempt
from audit.spec.document import Spec
from audit.spec.noise_based import NoiseBasedScenario
from audit.spec.prompts import PromptSource
from audit.spec.scenarios import AdversarialTextScenario, TextScenario
from audit.spec.sections import Concept

T = TypeVar("T")
NAME = "text"
VERSION = "2"
SHIPPED = Path(__file__).parent / "prompt_sets"
GUIDANCE = (1.0, 30.0)  # what a sampler takes
SIDE = (1, 16384)  # pixels; what the backbone can sample is asked later
MAX_SEED = 2**63 - 1  # seeds are stored as 64-bit integers


def prompts(scenario: TextScenario | NoiseBasedScenario, subject: Concept, cases: int) -> Iterator[str]:
    """Yield `cases` prompts that name `subject`: every template with every word in turn, then from the start again."""
    words = [subject.phrase, *(subject.synonyms if scenario.synonyms else ())]
    for case in range(cases):
        template = scenario.templates[case % len(scenario.templates)]
        word = words[(case // len(scenario.templates)) % len(words)]
        yield template.replace("{phrase}", word)


@dataclasses.dataclass(frozen=True)
class PromptRow:
    """One prompt of a set. A row whose `problem` says why it cannot be sampled is planned all the same, as unassessed."""

    number: int  # data row of the file, from 0
    key: str  # value of the join key
    prompt: str | None  # None when it could not be read, or must not be kept
    seed: int | None  # None: the set has no seeds
    guidance: float | None  # None: the sampler's
    size: tuple[int, int] | None  # (width, height) in pixels; None: the backbone's
    concept: str | None  # None: the set does not say whom a prompt is about, or this row could not be read
    problem: str | None = None


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """The prompts of one scenario with their provenance. `rows` are those that the spec's filter keeps."""

    name: str
    sha256: str  # of the file's bytes
    join_key: str  # the column that `PromptRow.key` comes from, or `row`
    columns: Mapping[str, str]  # field -> column name
    rows: tuple[PromptRow, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", dict(self.columns))

    def about(self, concept: Concept) -> tuple[PromptRow, ...]:
        """Return the rows about `concept`: all of them when the set does not tell concepts apart.

        A row whose concept could not be read counts for every concept: nothing may leave a denominator unseen.
        """
        if "concept" not in self.columns:
            return self.rows
        words = {folded(word) for word in (concept.name, concept.phrase, *concept.synonyms)}
        return tuple(r for r in self.rows if r.concept is None or folded(r.concept) in words)

    def names(self, concept: Concept) -> bool:
        """Return whether the set has prompts of its own for `concept`, as a neighbour needs."""
        return "concept" in self.columns and any(row.concept is not None for row in self.about(concept))

    def facts(self) -> dict[str, object]:
        """Return the set's provenance, for the plan."""
        unusable = [{"row": r.number, "key": r.key, "problem": r.problem} for r in self.rows if r.problem]
        return {
            "name": self.name,
            "sha256": self.sha256,
            "join_key": self.join_key,
            "columns": dict(self.columns),
            "rows": len(self.rows),
            "unusable": unusable,
        }


def prompt_sources(spec: Spec) -> dict[str, PromptSource]:
    """Return the source of each scenario's prompt set, by the scenario's name, for those that have one."""
    return {
        scenario.name: scenario.prompts
        for scenario in spec.scenarios
        if isinstance(scenario, TextScenario | AdversarialTextScenario) and scenario.prompts is not None
    }


def read_prompt_set(source: PromptSource) -> PromptSet:
    """Return the prompt set that `source` names.

    Raises `SpecError` for a file that cannot be used at all, `AbsentFile` for one that cannot be opened.
    """
    path = SHIPPED / f"{source.set}.csv" if source.set else Path(source.file or "")
    chosen = {str(field): name for field, name in source.columns.items()}
    table = prompt_files.read_table(path, chosen, filtered=source.where)
    where = {_column(table, column): values for column, values in source.where.items()}
    passed = [(number, row) for number, row in enumerate(table.rows) if _passes(row, where)]
    if not passed:
        raise SpecError(
            "no row of the prompt file passes the filter", where=table.where, next_step="mend prompts.where in the spec"
        )
    return PromptSet(
        name=source.set or path.name,
        sha256=table.sha256,
        join_key=table.columns.get("key", prompt_files.ROW_NUMBER),
        columns=table.columns,
        rows=tuple(_without_repeats([_row(table, number, row) for number, row in passed])),
    )


def _column(table: Table, wanted: str) -> str:
    """Return the column called `wanted`, as the file spells it. Raises `SpecError` when there is none."""
    matching = [name for name in table.names if folded(name) == folded(wanted)]
    if not matching:
        raise SpecError(
            f"the prompt file has no column {wanted!r} to filter by",
            where=table.where,
            next_step=f"name one of: {', '.join(repr(name) for name in table.names)[:300]}",
        )
    return wanted if wanted in matching else matching[0]


def _passes(row: RawRow, where: Mapping[str, tuple[str, ...]]) -> bool:
    """Return whether a row has one of the wanted values in every filter column; I2P lists several, separated by commas."""
    if row.problem:
        return True
    for column, wanted in where.items():
        values = {folded(part) for part in str(row.values[column]).split(",")}
        if not values & {folded(value) for value in wanted}:
            return False
    return True


def _row(table: Table, number: int, raw: RawRow) -> PromptRow:
    """Read a row field by field; its first mistake becomes its problem."""
    problems = [raw.problem] if raw.problem else []

    def read(field: str, parse: Callable[[object], T]) -> T | None:
        """Return one parsed field; None when the table has none, or when it is a mistake, which is noted."""
        if field not in table.columns or raw.problem:
            return None
        try:
            return parse(table.value(raw, field))
        except ValueError as error:
            problems.append(f"its {field} {error}")
            return None

    key = read("key", prompt_files.key_of)
    prompt = read("prompt", prompt_files.text_of)
    seed = read("seed", lambda value: prompt_files.whole(value, 0, MAX_SEED))
    guidance = read("guidance", lambda value: prompt_files.real(value, *GUIDANCE))
    width, height = (read(field, lambda value: prompt_files.whole(value, *SIDE)) for field in ("width", "height"))
    return PromptRow(
        number=number,
        key=key
        if key is not None
        else f"{prompt_files.ROW_NUMBER} {number}"
        if "key" in table.columns
        else str(number),
        prompt=prompt,
        seed=seed,
        guidance=guidance,
        size=(width, height) if width is not None and height is not None else None,
        concept=read("concept", prompt_files.text_of),
        problem=f"row {number}: {problems[0]}" if problems else None,
    )


def _without_repeats(rows: list[PromptRow]) -> Iterator[PromptRow]:
    """Yield the rows, with a problem on each that repeats the key or the picture of an earlier usable one."""
    keys: dict[str, int] = {}
    pictures: dict[tuple[object, ...], int] = {}
    for row in rows:
        problem = None
        picture = (row.prompt, row.seed, row.guidance, row.size, row.concept)
        if row.key in keys:
            problem = f"its key {row.key!r} stands in row {keys[row.key]} already"
        elif row.problem is None and row.seed is not None and picture in pictures:
            problem = f"its prompt, seed, guidance and size are those of row {pictures[picture]}"
        keys.setdefault(row.key, row.number)
        if row.problem is None and problem is None:
            pictures[picture] = row.number
        yield (
            row if problem is None or row.problem else dataclasses.replace(row, problem=f"row {row.number}: {problem}")
        )


def cases_of(chosen: PromptSet, concept: Concept, count: int, seed: int, field: str) -> list[Attempt]:
    """Return `count` cases from the rows about `concept`, drawn by `seed` and kept in the file's order.

    A case carries prompt, seed, join key, its own guidance and size, and the reason when it cannot be sampled.
    Raises `SpecError` when the set has fewer rows.
    """
    rows = chosen.about(concept)
    if len(rows) < count:
        raise SpecError(
            f"{field} asks for {count} cases of {concept.name!r} and the prompt set {chosen.name} has {len(rows)} rows",
            where="scenarios",
            next_step=f"lower the number of cases to {len(rows)}" if rows else "name the concept as the set does",
        )
    # Drawn at random: the first rows of a file are often one category.
    drawn = sorted(rows, key=lambda row: identity.int_key({"seed": seed, "row": row.number}))[:count]
    return [_case(row, seed) for row in sorted(drawn, key=lambda row: row.number)]


def _case(row: PromptRow, seed: int) -> Attempt:
    return Attempt(
        seed=row.seed if row.seed is not None else seed + row.number,
        prompt=row.prompt,
        prompt_key=row.key,
        problem=row.problem,
        guidance=row.guidance,
        size=row.size,
    )
