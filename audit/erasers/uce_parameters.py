"""Parameters of UCE: the official defaults for Stable Diffusion v1.x, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from audit.erasers.parameters import Parameters, Template, resolve_with


class UceParameters(Parameters):
    """Options of the closed-form edit. Defaults are those of the official Stable Diffusion script (2025).

    `tokens` says which positions of a prompt are edited: `last` is the concept's last token (official, new code);
    `tail` runs from there through every padding position, aligned at its start, and preserves whole sequences and the
    null prompt's (official, old code): it also reaches what a causal text encoder copies into later positions.
    `templates` wrap the concept in further prompts ({phrase} is replaced).
    """

    regularisation: float = Field(0.5, gt=0)  # lambda: pulls the edit towards the old matrix
    erase_scale: float = Field(1.0, gt=0)
    preserve_scale: float = Field(1.0, ge=0)
    guide: str = ""  # what the concept is mapped to; '' is the null prompt
    tokens: Literal["last", "tail"] = "last"
    templates: tuple[Template, ...] = ()
    preserve_neighbours: bool = True


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "official": {},
    # The testbed's text encoder is trained from scratch and carries the class word into the end and padding positions,
    # so editing the word's own position alone leaves the concept readable there.
    "testbed": {
        "tokens": "tail",
        "templates": ("a photo of a {phrase}", "a {phrase}"),
        "regularisation": 0.1,
        "erase_scale": 4.0,
    },
}


def resolve(preset: str | None, parameters: Mapping[str, Any], method: str = "uce") -> dict[str, Any]:
    """Every parameter's value; raises `SpecError` naming the first bad one."""
    return resolve_with(UceParameters, PRESETS, method, preset, parameters)
