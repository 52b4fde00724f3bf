"""The disturbances of a latent attack's input."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from audit.spec.base import Model

_STRONGEST = {
    "latent-noise": 3.0, "latent-noise-sphere": 3.0, "image-noise": 128.0, "image-jpeg": 95.0, "image-resize": 0.99,
}  # fmt: skip


class Perturbation(Model):
    """One disturbance of the attack's input, on a cell of its own beside the scenario's default row.

    `latent-noise` adds Gaussian noise of standard deviation `strength` to the inverted latent, `latent-noise-sphere` does
    the same and restores the latent's norm. `image-noise` adds Gaussian noise to the reference image, in grey levels of
    255; `image-jpeg` stores it as JPEG of that quality; `image-resize` scales it by `strength` and back.
    """

    kind: Literal["latent-noise", "latent-noise-sphere", "image-noise", "image-jpeg", "image-resize"] = "latent-noise"
    "The disturbance."
    strength: Annotated[float, Field(gt=0)]
    "Its strength, in the unit of the kind."

    @model_validator(mode="before")
    @classmethod
    def _a_number_is_latent_noise(cls, value: object) -> object:
        return {"strength": value} if isinstance(value, int | float) and not isinstance(value, bool) else value

    @model_validator(mode="after")
    def _in_range(self) -> Self:
        if self.strength > _STRONGEST[self.kind]:
            raise ValueError(f"{self.kind} takes a strength of at most {_STRONGEST[self.kind]:g}")
        if self.kind == "image-jpeg" and self.strength != int(self.strength):
            raise ValueError("image-jpeg takes a whole number from 1 to 95, JPEG's quality")
        return self

    @property
    def of_latent(self) -> bool:
        """Return whether the latent is disturbed, so that inversions are shared with the default row."""
        return self.kind.startswith("latent-")
