"""Text prompts as an attack: templates and synonyms expanded into one prompt per case. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from audit.scenarios import TextScenario
from audit.spec import Concept

NAME = "text"
VERSION = "1"


def prompts(scenario: TextScenario, subject: Concept, cases: int) -> Iterator[str]:
    """`cases` prompts that name `subject`: every template with every word in turn, then from the start again."""
    words = [subject.phrase, *(subject.synonyms if scenario.synonyms else ())]
    for case in range(cases):
        template = scenario.templates[case % len(scenario.templates)]
        word = words[(case // len(scenario.templates)) % len(words)]
        yield template.replace("{phrase}", word)
