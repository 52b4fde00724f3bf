"""Parameters of EGLOCE, and the guard as a method. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from audit.guards.parameters import GuardMethod, Parameters, Template, Values
from audit.spec.sections import Concept


class EgloceParameters(Parameters):
    """EGLOCE. No constant of the paper is public, so these are this project's own starting values.

    gradient    `full` goes through the UNet; `stop` holds its prediction fixed, so that dz0/dz is 1 / sqrt(abar)
    floor       cases whose repulsion energy is not above it are left alone; -1 moves all
    views       augmented copies (crop and colour) that the energy is averaged over; 0 uses the picture itself
    """

    energy: str | None = Field(None, min_length=1)  # None: testbed/energy, on the testbed only
    iterations: int = Field(3, ge=1, le=50)  # K
    rho: float = Field(0.02, gt=0, le=1)  # step length relative to the norm of the latent
    repulsion: float = Field(1.0, gt=0)
    retention: float = Field(1.0, ge=0)
    window: tuple[int, int] = (801, 201)  # training timesteps, noisiest first, both inclusive
    trust: float = Field(0.1, gt=0, le=1)  # farthest from the step's latent, relative to its norm
    gradient: Literal["full", "stop"] = "full"
    checkpointing: bool = True
    views: int = Field(0, ge=0, le=16)
    floor: float = Field(-1.0, ge=-1, le=1)
    templates: tuple[Template, ...] = Field(("a photo of a {phrase}",), min_length=1)
    synonyms: bool = True

    @model_validator(mode="after")
    def _descends(self) -> Self:
        if self.window[0] < self.window[1]:
            raise ValueError(f"window {list(self.window)} must run from noisy to clean, as in [801, 201]")
        return self

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """All values but the energy model, which counts by its digest, and the phrases that are repelled."""
        phrases = [concept.phrase, *(concept.synonyms if self.synonyms else ())]
        return {**self.model_dump(mode="json", exclude={"synonyms", "energy"}), "phrases": phrases}

    @property
    def energy_name(self) -> str:
        """The energy model as `resolve_model` reads it; the testbed's own unless the spec names another."""
        return self.energy or "testbed/energy"

    def models(self) -> dict[str, str]:
        """The energy model."""
        return {"energy": self.energy_name}

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[int], guidance: float) -> int:
        """The updates at each step of the window; backward passes are not counted."""
        inside = sum(values["window"][1] <= t <= values["window"][0] for t in timesteps)
        return inside * int(values["iterations"]) * (1 if guidance == 1.0 else 2)


METHOD = GuardMethod("egloce", "1", EgloceParameters, "audit.guards.egloce:build", "arXiv:2604.09405")
