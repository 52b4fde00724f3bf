"""The settings of the sampler that a scenario draws its pictures with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from audit.spec.base import Model


class Sampler(Model):
    """DDIM (eta 0) on SD v1.4's 'leading' grid; `steps` must divide 1000, or inversion and sampling grids differ."""

    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    "Denoising steps; must divide 1000."
    guidance: Annotated[float, Field(ge=1.0, le=30.0)] = 7.5
    "Scale of classifier-free guidance; 1 switches it off."
    dtype: Literal["float32", "bfloat16"] = "float32"
    "Precision of the UNet; inversion needs float32."

    @field_validator("steps")
    @classmethod
    def _divides(cls, steps: int) -> int:
        if 1000 % steps:
            raise ValueError(f"{steps} does not divide 1000; use 10, 20, 25, 40, 50, 100, ...")
        return steps
