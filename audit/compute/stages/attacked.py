"""What attack units found, put into the prompts of cases."""

from __future__ import annotations

import dataclasses

from audit.compute.stages.inputs import given_by
from audit.diffusion.placeholder_tokens import Vocabulary
from audit.records import Case, Status
from audit.spec.templates import MARK
from audit.storage.journal import Journal


@dataclasses.dataclass(frozen=True)
class Refused:
    """Why a case has no prompt."""

    status: Status
    reason: str


def prompt_of(case: Case, journal: Journal, vocabulary: Vocabulary) -> str | Refused:
    """The case's prompt: what its attack found replaces `{attack}`, or is the prompt where the case has none.
    A prompt without the mark stays as it is.

    A learned embedding enters as a word that `vocabulary` then knows. What the attack could not find carries its status
    and its reason on. Raises `JournalError` when the attack's unit is absent.
    """
    given, item = case.prompt, case.attack_item
    if not case.attack_key:
        return given or ""
    attack = given_by(journal, "attack", case.attack_key)
    row = attack.rows.get(item) if item else None
    if item is None or row is None:
        return Refused(Status.ERROR, f"attack: its unit says nothing about {item!r}")
    if row["status"] != Status.OK:
        return Refused(Status(str(row["status"])), f"attack: {row['error']}")
    if given and MARK not in given:
        return given  # the attack changed the model, and the prompt is the attacker's own
    found = vocabulary.add(attack.tensors[item]) if item in attack.tensors else str(row["prompt"] or "")
    if not found:
        return Refused(Status.ERROR, "attack: it is said to have found something, and nothing is there")
    return given.replace(MARK, found) if given else found
