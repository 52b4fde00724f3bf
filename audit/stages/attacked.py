"""What attack units found, put into the prompts of cases."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch

from audit.attacks.parameters import MARK
from audit.journal import Journal
from audit.learned import Vocabulary
from audit.records import Status
from audit.unit_files import header_of


@dataclasses.dataclass(frozen=True)
class Refused:
    """Why a case has no prompt."""

    status: Status
    reason: str


def prompt_of(case: Mapping[str, Any], journal: Journal, vocabulary: Vocabulary) -> str | Refused:
    """The case's prompt: what its attack found replaces `{attack}`, or is the prompt where the case has none.
    A prompt without the mark stays as it is.

    A learned embedding enters as a word that `vocabulary` then knows. What the attack could not find carries its status
    and its reason on. Raises `JournalError` when the attack's unit is absent.
    """
    given: str | None = case["prompt"]
    if not case.get("attack_key"):
        return given or ""
    rows, tensors = _read(journal, case["attack_key"])
    item = case["attack_item"]
    row = rows.get(item)
    if row is None:
        return Refused(Status.ERROR, f"attack: its unit says nothing about {item!r}")
    if row["status"] != Status.OK:
        return Refused(Status(row["status"]), f"attack: {row['error']}")
    if given and MARK not in given:
        return given  # the attack changed the model, and the prompt is the attacker's own
    found = vocabulary.add(tensors[item]) if item in tensors else row["prompt"]
    if not found:
        return Refused(Status.ERROR, "attack: it is said to have found something, and nothing is there")
    return given.replace(MARK, found) if given else found


@functools.lru_cache(maxsize=8)
def _read(journal: Journal, key: str) -> tuple[dict[str, dict[str, Any]], dict[str, torch.Tensor]]:
    table = journal.read("attack", key, ["item", "status", "error", "prompt"])
    header = header_of(table)
    tensors = safetensors.torch.load(journal.blob_of("attack", key, header)) if header.get("blob_sha256") else {}
    return {row["item"]: row for row in table.to_pylist()}, tensors
