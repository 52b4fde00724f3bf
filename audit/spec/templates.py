"""The marks of prompt templates, which stand for the concept's phrase and for an attack's answer."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from audit.spec.base import Phrase

MARK = "{attack}"  # stands for an attack's answer in a case's prompt
PHRASE = "{phrase}"  # stands for the concept's phrase


def has_mark(template: str) -> str:
    """Return the template, which contains `{attack}` once. Raises ValueError otherwise."""
    if template.count(MARK) != 1 or re.search(r"[{}]", template.replace(MARK, "")):
        raise ValueError(f"template {template!r} must contain {{attack}} once and no other braces")
    return template


def with_phrase(template: str) -> str:
    """Return the template, which contains `{phrase}` once. Raises ValueError otherwise."""
    if template.count(PHRASE) != 1 or re.search(r"[{}]", template.replace(PHRASE, "")):
        raise ValueError(f"template {template!r} must contain {{phrase}} once and no other braces")
    return template


Template = Annotated[Phrase, AfterValidator(with_phrase)]
