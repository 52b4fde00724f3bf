"""The section `quality` of a spec: what is said of the pictures themselves, beside the rates."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from audit.spec_base import Model, Name

FORMULAS = ("psnr", "ssim", "gmsd")  # need neither weights nor a network
PAIRED = (*FORMULAS, "lpips")  # one picture against another
NETWORKS = ("clip-score", "features")  # read with the network that `model` names


class QualitySpec(Model):
    """One quality instrument. `model`, for kinds with a network: a testbed name, a local folder or `hub-id@revision`."""

    name: Name
    kind: Literal["psnr", "ssim", "gmsd", "lpips", "clip-score", "features"]
    model: Annotated[str, Field(min_length=1)] | None = None

    @model_validator(mode="after")
    def _model_where_one_is_used(self) -> Self:
        if (self.model is not None) != (self.kind in NETWORKS):
            verb = "needs" if self.kind in NETWORKS else "takes no"
            raise ValueError(f"a {self.kind} instrument {verb} 'model'")
        return self
