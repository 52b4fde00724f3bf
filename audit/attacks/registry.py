"""The attacks that search for an input before pictures are made, by name. Importing this loads no torch.

A method is a parameters model that imports no torch, and one module with `run(search) -> Found`. It is registered here.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from audit.attacks.parameters import (
    EmbeddingFileParameters,
    Parameters,
    PersonalisationParameters,
    RingABellParameters,
    TextualInversionParameters,
)
from audit.errors import SpecError

if TYPE_CHECKING:
    from audit.attacks.protocol import Run


@dataclasses.dataclass(frozen=True)
class Method:
    """One registered attack; `module` lies in `audit.attacks` and is loaded when a unit runs."""

    name: str
    version: str
    parameters: type[Parameters]
    module: str


# Nothing of a common loop is journalled before all of it is learned, and other processes leave its units alone.
MOST_TOGETHER = 4

METHODS: Mapping[str, Method] = {
    method.name: method
    for method in (
        Method("embedding-file", "1", EmbeddingFileParameters, "given_embedding"),
        Method("personalisation", "1", PersonalisationParameters, "personalisation_unit"),
        Method("ring-a-bell", "1", RingABellParameters, "ring_a_bell_unit"),
        Method("textual-inversion", "1", TextualInversionParameters, "textual_inversion"),
    )
}


def parse(name: str, given: Mapping[str, Any], preset: str | None = None, where: str = "scenarios") -> Parameters:
    """The checked parameters of a method. Raises `SpecError` for an unknown preset or the first bad parameter."""
    model = METHODS[name].parameters
    if preset is not None and preset not in model.PRESETS:
        known = ", ".join(model.PRESETS) or "none"
        raise SpecError(
            f"attack {name} has no preset {preset!r}", where=where, next_step=f"use one of its presets: {known}"
        )
    try:
        return model.model_validate({**(model.PRESETS[preset] if preset else {}), **given})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"]) or "combination"
        known = f"attack {name} takes: {', '.join(model.model_fields)}"
        raise SpecError(
            f"attack {name} parameter {field}: {str(detail['msg']).removeprefix('Value error, ')}",
            where=where,
            next_step=known if detail["type"] == "extra_forbidden" else "mend this parameter",
        ) from None


def runner(name: str) -> Run:
    """The code of a method. Raises KeyError for an unknown one."""
    run: Run = importlib.import_module(f"audit.attacks.{METHODS[name].module}").run
    return run


def unet_calls(described: Mapping[str, Any]) -> float:
    """UNet evaluations of one attack unit, by its identity."""
    parameters = METHODS[described["method"]].parameters.model_validate(described["parameters"])
    return parameters.unet_calls(len(described["items"]))


def room_for_more(described: Mapping[str, Any], batch_size: int) -> int:
    """How many further units fit into one UNet call of `batch_size` rows beside this one; 0 where none may."""
    rows = METHODS[described["method"]].parameters.model_validate(described["parameters"]).rows_together()
    return max(0, min(batch_size // rows, MOST_TOGETHER) - 1) if rows else 0


def text_calls(described: Mapping[str, Any]) -> float:
    """Texts that one attack unit, by its identity, puts through the text encoder alone."""
    parameters = METHODS[described["method"]].parameters.model_validate(described["parameters"])
    return parameters.text_calls(len(described["items"]))
