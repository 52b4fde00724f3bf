"""The section that names the system under audit, by which runs of one product form a series."""

from __future__ import annotations

import unicodedata
from typing import Annotated

from pydantic import AfterValidator, Field

from audit.names import composed
from audit.spec.base import Model


def _one_line(text: str) -> str:
    if any(unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") for character in text):
        raise ValueError("write one line of visible characters")
    return composed(text)


Line = Annotated[str, Field(min_length=1, max_length=120), AfterValidator(_one_line)]


class System(Model):
    """A released model or product, of which a run audits one version."""

    name: Line
    "Name under which runs of all versions form one series."
    version: Line | None = None
    "The version under audit, as its owner names it."
    owner: Line | None = None
    "Who answers for the system."
    contact: Line | None = None
    "Where its owner is reached."
