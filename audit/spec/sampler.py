"""The settings of the sampler that a scenario draws its pictures with."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from audit.spec.base import Model

DDIM = "ddim"
AS_PIPELINE = "as-pipeline"
LCM = "lcm"
Scheduler = Literal[
    "ddim", "euler", "euler-ancestral", "dpm++2m", "dpm++2m-karras", "pndm", "unipc", "lcm", "as-pipeline"
]


class Sampler(Model):
    """DDIM (eta 0) on SD v1.4's 'leading' grid, or another scheduler on the grid that diffusers' class gives it.

    DDIM's `steps` must divide 1000, or inversion and sampling grids differ; the others take any number that their class
    takes. `as-pipeline` is the class and the settings of the backbone's `scheduler/scheduler_config.json`.
    """

    scheduler: Scheduler = "ddim"
    "The scheduler, from the settings of the backbone's own; latent scenarios take `ddim` alone, which inverts."
    steps: Annotated[int, Field(ge=1, le=1000)] = 50
    "Denoising steps; for `ddim` they must divide 1000."
    guidance: Annotated[float, Field(ge=1.0, le=30.0)] = 7.5
    "Scale of classifier-free guidance; 1 switches it off."
    dtype: Literal["float32", "bfloat16"] = "float32"
    "Precision of the denoising network; inversion needs float32."
    distilled: bool = False
    "Says that the UNet was distilled into a consistency model, as by a fused LCM-LoRA, which `lcm` needs."

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.scheduler == DDIM and 1000 % self.steps:
            raise ValueError(f"{self.steps} does not divide 1000; use 10, 20, 25, 40, 50, 100, ...")
        if self.distilled and self.scheduler != LCM:
            raise ValueError(f"distilled belongs to scheduler lcm, and this is {self.scheduler}")
        return self
