"""Parameters of ESD: the official values of 2025 and of 2023, and the testbed's preset. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from audit.erasers.parameters import Precision, TrainedParameters, resolve_with


class EsdParameters(TrainedParameters):
    """Options of ESD. Defaults are those of the official Stable Diffusion script (2025, esd_sd.py).

    `convention` says how `negative_guidance` (eta) enters the target. With c_from equal to c the two agree when
    eta_new = eta_old + 1: the 2025 script's 2 is the 2023 script's 1. The 2025 script fixes 1024 pixels, also for
    Stable Diffusion v1.4, whose own side is 512; `pixels: 512` trains at it.
    """

    negative_guidance: float = Field(2.0, gt=0)
    convention: Literal["new", "old"] = "new"
    erase_from: str | None = None  # erase the concept from this prompt only; None is the concept itself
    iterations: int = Field(200, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    sampler: Literal["pndm", "ddim"] = "pndm"
    pixels: int | None = Field(1024, ge=8)
    compute: Literal["float32", "bfloat16"] = "bfloat16"
    stored: Precision = "bfloat16"


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "official": {},
    "official-2023": {
        "negative_guidance": 1.0,
        "convention": "old",
        "iterations": 1000,
        "learning_rate": 1e-5,
        "sampler": "ddim",
        "latents_from": "trained",
        "pixels": 512,
        "jitter": True,
        "compute": "float32",
        "stored": "float32",
    },
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


def resolve(preset: str | None, parameters: Mapping[str, Any], method: str = "esd-x") -> dict[str, Any]:
    """Every parameter's value; raises `SpecError` naming the first bad one."""
    return resolve_with(EsdParameters, PRESETS, method, preset, parameters)
