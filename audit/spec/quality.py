"""The section `quality` of a spec: instruments that measure pictures, beside the rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from audit.spec.base import Model, Name

FORMULAS = ("psnr", "ssim", "gmsd")  # need neither weights nor a network
PAIRED = (*FORMULAS, "lpips")  # one picture against another
NETWORKS = ("clip-score", "features")  # read with the network that `model` names
# Treatments of the border, where a formula's window hangs over it; the first is the default, and that of the authors' code.
BORDERS: Mapping[str, tuple[str, ...]] = {"ssim": ("crop", "reflect"), "gmsd": ("zero", "reflect")}


class QualitySpec(Model):
    """One quality instrument. `model`, for kinds with a network: a testbed name, a local folder or `hub-id@revision`.

    `border`, for ssim and gmsd, is the treatment of the picture's edge: `crop` leaves out the frame of five pixels that
    SSIM's window hangs over (Wang et al.'s code, scikit-image, piq); `zero` continues the picture with zeros (GMSD as in
    Xue et al.'s code and in piq); `reflect` mirrors it and counts every pixel (as torchmetrics does for SSIM).

    `where: outside-region` counts only pixels outside the concept's region, as the `regions` of the corpus show it: how far
    a defence moves what it should leave alone. It reads inverted latents only, whose pictures have a region.
    """

    name: Name
    "Name by which the reports refer to the instrument."
    kind: Name
    "The kind of instrument: the name of an installed one."
    model: Annotated[str, Field(min_length=1)] | None = None
    "The network of `clip-score` and `features`; the other kinds take none."
    border: Literal["crop", "zero", "reflect"] | None = None
    "The picture's edge: `crop` (default) or `reflect` for ssim, `zero` (default) or `reflect` for gmsd."
    where: Literal["outside-region"] | None = None
    "The pixels that psnr, ssim and gmsd count: all of them, or those outside the concept's region."

    @model_validator(mode="after")
    def _model_where_one_is_used(self) -> Self:
        known = self.kind in PAIRED or self.kind in NETWORKS  # a plug-in says itself what it needs
        if known and (self.model is not None) != (self.kind in NETWORKS):
            verb = "needs" if self.kind in NETWORKS else "takes no"
            raise ValueError(f"a {self.kind} instrument {verb} 'model'")
        return self

    @model_validator(mode="after")
    def _region_of_a_formula(self) -> Self:
        if self.where is not None and self.kind not in FORMULAS:
            raise ValueError(f"a {self.kind} instrument takes no 'where'; {', '.join(FORMULAS)} do")
        return self

    @model_validator(mode="after")
    def _border_of_its_kind(self) -> Self:
        allowed = BORDERS.get(self.kind, ())
        if self.border is not None and self.border not in allowed:
            knows = f"knows the borders {' and '.join(allowed)}" if allowed else "takes no 'border'"
            raise ValueError(f"a {self.kind} instrument {knows}")
        return self
