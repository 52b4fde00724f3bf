"""Identities of what is put on top of a defence's model before pictures are made, or before it is erased again."""

from __future__ import annotations

import dataclasses
from typing import Literal

from pydantic import ConfigDict


class Record:
    """A record whose stored form has its fields and no others."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclasses.dataclass(frozen=True)
class Personalisation(Record):
    """A personalisation on top of a defence's model: its digest, and the erase unit of the model its training started from."""

    sha256: str
    kind: Literal["lora", "dreambooth"]
    base: str | None  # None: the backbone


@dataclasses.dataclass(frozen=True)
class Relearned(Record):
    """What an attack unit trained on top of the same model: the unit's key, and which of its checkpoints."""

    attack: str
    item: str


@dataclasses.dataclass(frozen=True)
class Edited(Record):
    """A model to erase again: the erase unit that made it, and what was trained on top of it since."""

    model: str
    lora: Relearned
