"""Parameters of ESD: the official values of 2025 and of 2023, and presets beside them. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from audit.erasers.parameters import Precision, TrainedParameters, resolve_with
from audit.errors import SpecError


class EsdParameters(TrainedParameters):
    """Options of ESD. Values are those of the official Stable Diffusion script (2025, esd_sd.py).

    `convention` says how `negative_guidance` (eta) enters the target. With c_from equal to c the two agree when
    eta_new = eta_old + 1: the 2025 script's 2 is the 2023 script's 1. The 2025 script fixes 1024 pixels, also for
    Stable Diffusion v1.4, whose own side is 512; `pixels: 512` trains at it.

    `selection` says which tensors a method's name means: those of the 2025 script, or those of the 2023 one, which trains
    the normalisation layers too and, in esd-u, leaves out the time embedding and the output layers. `compute` bfloat16 is
    autocast over float32 weights; bfloat16-weights trains weights that are bfloat16 themselves, as the 2025 script does.
    """

    LATER: ClassVar[frozenset[str]] = TrainedParameters.LATER | {"selection"}

    negative_guidance: float = Field(2.0, gt=0)
    convention: Literal["new", "old"] = "new"
    selection: Literal["2025", "2023"] = "2025"
    erase_from: str | None = None  # erase the concept from this prompt only; None is the concept itself
    iterations: int = Field(200, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    sampler: Literal["pndm", "ddim"] = "pndm"
    pixels: int | None = Field(1024, ge=8)
    compute: Literal["float32", "bfloat16", "bfloat16-weights"] = "bfloat16"
    stored: Precision = "bfloat16"


_PAPER: Mapping[str, Any] = {
    "negative_guidance": 1.0,
    "convention": "old",
    "selection": "2023",
    "iterations": 1000,
    "learning_rate": 1e-5,
    "sampler": "ddim",
    "latents_from": "trained",
    "pixels": 512,
    "jitter": True,
    "compute": "float32",
    "stored": "float32",
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "float32-weights": {},
    "official": {"compute": "bfloat16-weights"},
    "official-2023": {**_PAPER, "trajectory": "compvis"},
    "paper": _PAPER,
    "testbed": {
        "iterations": 200,
        "learning_rate": 2e-4,
        "batch_size": 8,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "sampler": "ddim",
        "steps": 25,
        "pixels": None,
        "pool": 24,
        "stored": "float16",
    },
}
DEFAULT = "float32-weights"  # the paper's own training kept float32 weights
ODDITIES: Mapping[str, str] = {
    "official": "trains the bfloat16 weights themselves, so that many an update is rounded away or up, at 1024 pixels",
    "official-2023": "its latents lie one to two sampling steps below the timestep that the model is told",
}


def resolve(preset: str | None, parameters: Mapping[str, Any], method: str = "esd-x") -> dict[str, Any]:
    """Every parameter's value; raises `SpecError` naming the first bad one, and for a method that 2023 did not have."""
    found = resolve_with(EsdParameters, PRESETS, method, preset, parameters)
    if method == "esd-x-strict" and found.get("selection") == "2023":
        raise SpecError(
            "esd-x-strict is a method of the 2025 code; the 2023 code has none that trains keys and values alone",
            where="defences",
            next_step="use preset official or float32-weights, or the method esd-x",
        )
    return found
