"""Number pictures by all that they are made from."""

from __future__ import annotations

from collections.abc import Sequence

from audit.identity import Template, int_key_of_text
from audit.plan.identities import GenerateIdentity, as_json
from audit.records import Attempt

_INPUTS = ("seed", "prompt", "item", "attack_key", "attack_item", "invert")


def picture_ids(common: GenerateIdentity, attempts: Sequence[Attempt], inverts: Sequence[str | None]) -> list[int]:
    """Return the identity of each case's picture: all that it is made from, its invert unit included.

    Cells that make the same picture share it. Where there is none, what cannot be made is told apart by its row.
    """
    shared = {name: value for name, value in as_json(common).items() if name not in ("kind", "images")}
    whole, without = Template(shared, _INPUTS), Template(shared, (*_INPUTS, "prompt_key", "problem"))
    ids = []
    for a, invert in zip(attempts, inverts, strict=True):
        inputs = (a.seed, a.prompt, a.item, a.attack_key, a.attack_item, invert)
        text = without.fill((*inputs, a.prompt_key, a.problem)) if a.problem else whole.fill(inputs)
        ids.append(int_key_of_text(text))
    return ids
