"""Read a spec: models and concepts to audit, attacks, instruments, and the policy that decides.

A spec is YAML. `load_spec` returns a validated `Spec` or raises one `SpecError` that lists every mistake with its field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Self

import yaml
from pydantic import (
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from audit.errors import SpecError
from audit.files import ForeignError
from audit.spec.base import extreme_numbers
from audit.spec.content import refuse_minors
from audit.spec.fields import SpecFields
from audit.spec.rules import problems_of
from audit.spec.sections import Concept
from audit.yaml_files import read_yaml, reason


class Spec(SpecFields):
    """One audit. See `deployments/specs/` for specs that run as they are."""

    @field_validator("concepts")
    @classmethod
    def _neighbours_as_declared(cls, concepts: tuple[Concept, ...]) -> tuple[Concept, ...]:
        declared = {concept.name: concept.phrase for concept in concepts}
        filled = []
        for concept in concepts:
            phrases = {name: declared[name] for name in concept.neighbours if name in declared}
            if concept.neighbour_phrases and concept.neighbour_phrases != phrases:
                raise ValueError(f"{concept.name}: neighbour_phrases is filled in; declare the neighbour as a concept")
            filled.append(concept.model_copy(update={"neighbour_phrases": phrases}))
        return tuple(filled)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = problems_of(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _no_minors(self) -> Self:
        refuse_minors(self.model_dump(mode="json", exclude={"gate"}))  # a policy shows nothing and names only the above
        return self


def parse_spec(document: object, where: str, next_step: str | None = None) -> Spec:
    """Return a validated `Spec` from a parsed YAML document; `where` names it in errors, `next_step` says what mends it."""
    if not isinstance(document, dict):
        raise SpecError(
            "the spec is not a mapping of fields",
            where=where,
            next_step="start from deployments/specs/demo.yaml",
        )
    mend = next_step or f"mend these fields, then run: erasure-audit plan {where}"
    if extreme := list(extreme_numbers(document)):
        raise _mistakes(extreme, where, mend)
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        raise _mistakes([_problem(detail) for detail in _causes(error)], where, mend) from None


_MOST_LINES, _LONGEST_LINE = 50, 600  # of mistakes that one message names; a field's name may be a document of its own


def _mistakes(lines: list[str], where: str, next_step: str) -> SpecError:
    shown = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..." for line in lines[:_MOST_LINES]]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    listed = "\n".join(f"  - {line}" for line in shown)
    return SpecError(f"the spec has mistakes:\n{listed}", where=where, next_step=next_step)


def _causes(error: ValidationError) -> list[ErrorDetails]:
    """Return the mistakes without lists that are too short because pydantic leaves out the bad entries that it names."""
    details = error.errors(include_url=False)
    lists = {detail["loc"][:depth] for detail in details for depth in range(len(detail["loc"]))}
    return [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in lists]


def _problem(detail: ErrorDetails) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "spec"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}"


def load_spec(path: str | Path) -> Spec:
    """Return a validated `Spec` from a YAML file. Raises `SpecError` for a missing, unreadable, non-YAML or invalid one."""
    path = Path(path)
    try:
        document = read_yaml(path)
    except (OSError, ForeignError) as error:
        raise SpecError(
            f"the spec cannot be read: {reason(error)}",
            where=str(path),
            next_step="name an existing YAML file, e.g. deployments/specs/demo.yaml",
        ) from None
    except UnicodeDecodeError:
        raise SpecError("the spec is not UTF-8 text", where=str(path), next_step="save it as UTF-8 YAML") from None
    except yaml.YAMLError as error:
        raise SpecError(f"the spec is not valid YAML: {error}", where=str(path), next_step="mend the syntax") from None
    return parse_spec(document, str(path))
