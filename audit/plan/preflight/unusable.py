"""Cases that can only end unassessed, known before planning. Each problem costs its own cases, never the run."""

from __future__ import annotations

import dataclasses
import logging
from collections import Counter
from collections.abc import Iterator, Mapping

from audit.corpus.prompts import PromptSet
from audit.errors import AuditError, CorpusError, SpecError
from audit.plan.document import Draft
from audit.plan.resolved import Problem
from audit.records import Control, Role

log = logging.getLogger(__name__)
EmbeddingUse = tuple[str, str, str]  # scenario, concept, template


def reason(error: AuditError) -> str:
    """Return an error as its cases state it: what is wrong, and where."""
    return f"{error.what} ({error.where})" if error.where else error.what


@dataclasses.dataclass(frozen=True)
class Unusable:
    """The inputs that cases cannot be made from, with the error that ends a run where nothing else is left."""

    embeddings: Mapping[EmbeddingUse, SpecError] = dataclasses.field(default_factory=dict)  # of files that are brought
    pictures: Mapping[str, CorpusError] = dataclasses.field(default_factory=dict)  # by concept: its entries are empty
    prompts: Mapping[str, SpecError] = dataclasses.field(default_factory=dict)  # that a text encoder cannot read whole

    def errors(self) -> Iterator[AuditError]:
        """Yield every error."""
        yield from self.embeddings.values()
        yield from self.pictures.values()
        yield from self.prompts.values()


@dataclasses.dataclass(frozen=True)
class Checked:
    """The results of checking a spec's inputs. Mistakes of the spec are not among them: they are raised."""

    unusable: Unusable = dataclasses.field(default_factory=Unusable)
    prompt_sets: Mapping[str, PromptSet] = dataclasses.field(default_factory=dict)  # by scenario
    problems: tuple[Problem, ...] = ()  # of files that are here and cannot be used


def require_some(plan: Draft, unusable: Unusable) -> None:
    """Check that every scenario has a case that can be made, and log how many cannot be made and why.

    Raises the `AuditError` behind the cases of a scenario when none of its attacks can be made.
    """
    errors = {reason(error): error for error in unusable.errors()}
    if not errors:
        return
    cells = {planned.cell.cell_id: planned.cell for planned in plan.cells}
    whole: dict[str, set[str | None]] = {}
    counts: Counter[tuple[str, str, str]] = Counter()
    columns = (plan.cases[name].to_pylist() for name in ("cell_id", "problem"))
    for cell_id, problem in zip(*columns, strict=True):
        cell = cells[cell_id]
        known = problem if problem in errors else None
        if known is not None:
            counts[cell.scenario, cell.subject, known] += 1
        if cell.role is Role.TARGET or cell.control is Control.BACKBONE:
            whole.setdefault(cell.scenario, set()).add(known)
    for scenario, problems in whole.items():
        if None not in problems:
            raise _nothing_left(scenario, [errors[problem] for problem in sorted(filter(None, problems))])
    for (scenario, subject, problem), count in counts.items():
        place = f"scenario {scenario}" if scenario != "none" else "controls"
        log.warning("%s: %d cases of %r cannot be made and stay unassessed: %s", place, count, subject, problem)


def _nothing_left(scenario: str, errors: list[AuditError]) -> AuditError:
    if len(errors) == 1:
        return errors[0]
    return SpecError(
        f"no case of scenario {scenario} can be made:\n" + "\n".join(f"  - {reason(error)}" for error in errors),
        where=f"scenarios.{scenario}",
        next_step=errors[0].next_step,
    )
