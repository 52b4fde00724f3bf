"""Put the results of attack units into the prompts of cases."""

from __future__ import annotations

import dataclasses

from audit.compute.stages.inputs import unit_result
from audit.diffusion.placeholder_tokens import Vocabulary
from audit.records import Case, Status
from audit.spec.templates import MARK
from audit.storage.journal import Journal


@dataclasses.dataclass(frozen=True)
class Refused:
    """The status and reason of a case that has no prompt."""

    status: Status
    reason: str


def prompt_of(case: Case, journal: Journal, vocabulary: Vocabulary) -> str | Refused:
    """Return the case's prompt, with the attack's result in the place of `{attack}`.

    The result is the whole prompt where the case has none, and a prompt without the mark stays as it is. A learned
    embedding enters as a word that `vocabulary` then knows. For an attack that failed, return its status and reason.
    Raises `JournalError` when the attack's unit is absent.
    """
    template, item = case.prompt, case.attack_item
    if not case.attack_key:
        return template or ""
    attack = unit_result(journal, "attack", case.attack_key)
    row = attack.rows.get(item) if item else None
    if item is None or row is None:
        return Refused(Status.ERROR, f"attack: its unit says nothing about {item!r}")
    if row["status"] != Status.OK:
        return Refused(Status(str(row["status"])), f"attack: {row['error']}")
    if template and MARK not in template:
        return template  # the attack changed the model, and the prompt is the attacker's own
    prompt = vocabulary.add(attack.tensors[item]) if item in attack.tensors else str(row["prompt"] or "")
    if not prompt:
        return Refused(Status.ERROR, "attack: it is said to have found something, and nothing is there")
    return template.replace(MARK, prompt) if template else prompt
