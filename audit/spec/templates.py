"""The marks of prompt templates, which stand for the concept's phrase and for an attack's answer."""

from __future__ import annotations

import re

MARK = "{attack}"  # where a find goes in a case's prompt


PHRASE = "{phrase}"  # where the concept's phrase goes


def has_mark(template: str) -> str:
    """Return the template, which contains `{attack}` once. Raises ValueError otherwise."""
    if template.count(MARK) != 1 or re.search(r"[{}]", template.replace(MARK, "")):
        raise ValueError(f"template {template!r} must contain {{attack}} once and no other braces")
    return template
