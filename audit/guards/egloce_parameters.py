"""Parameters of EGLOCE, and the guard as a method. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from audit.guards.parameters import GuardMethod, Parameters, Template
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.families import FAMILIES


class EgloceParameters(Parameters):
    """Parameters of EGLOCE. No constant of the paper is public, so these are this project's own starting values."""

    moves_latents: ClassVar[bool] = True

    energy: str | None = Field(None, min_length=1)
    "The CLIP model of the energy, never one that also scores; by default `testbed/energy`, on the testbed only."
    iterations: int = Field(3, ge=1, le=50)
    "Updates of the latent at each step inside the window (K)."
    rho: float = Field(0.02, gt=0, le=1)
    "Length of an update, as a share of the norm of the step's latent."
    repulsion: float = Field(1.0, gt=0)
    "Weight of the similarity to the concept (lam_rep)."
    retention: float = Field(1.0, ge=0)
    "Weight of the similarity to the prompt, or to the picture under way where there is no prompt (lam_ret)."
    window: tuple[int, int] = (801, 201)
    "First and last training timestep of the updates, noisiest first, both inclusive."
    trust: float = Field(0.1, gt=0, le=1)
    "Farthest that the updates of one step move the latent, as a share of its norm (delta)."
    gradient: Literal["full", "stop"] = "full"
    "`full` differentiates through the UNet; `stop` holds its prediction fixed, so that dz0/dz is 1 / sqrt(abar)."
    checkpointing: bool = True
    "Trade time for memory: compute activations once more for the backward pass instead of keeping them."
    views: int = Field(0, ge=0, le=16)
    "Augmented copies (crop and colour) over which the energy is averaged; 0 uses the picture itself."
    floor: float = Field(-1.0, ge=-1, le=1)
    "Cosine to the concept at or below which a case is left alone; -1 moves every case."
    templates: tuple[Template, ...] = Field(("a photo of a {phrase}",), min_length=1)
    "Prompts whose embeddings are averaged into the direction of each phrase (f_k)."
    synonyms: bool = True
    "Repel the concept's synonyms too."

    @model_validator(mode="after")
    def _descends(self) -> Self:
        if self.window[0] < self.window[1]:
            raise ValueError(f"window {list(self.window)} must run from noisy to clean, as in [801, 201]")
        return self

    def resolved(self, concept: Concept) -> Values:
        """Return all values and the repelled phrases, but for the energy model, which counts by its digest."""
        phrases = [concept.phrase, *(concept.synonyms if self.synonyms else ())]
        return {**self.model_dump(mode="json", exclude={"synonyms", "energy"}), "phrases": phrases}

    @property
    def energy_name(self) -> str:
        """The energy model's name, as a spec writes it; the testbed's own unless the spec names another."""
        return self.energy or "testbed/energy"

    def models(self) -> dict[str, str]:
        """Return the energy model by its role."""
        return {"energy": self.energy_name}

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[float], guidance: float) -> int:
        """Return the evaluations of the updates at each step of the window; backward passes are not counted."""
        inside = sum(values["window"][1] <= t <= values["window"][0] for t in timesteps)
        return inside * int(values["iterations"]) * (1 if guidance == 1.0 else 2)

    @classmethod
    def quiet_steps(cls, values: Values, timesteps: Sequence[float]) -> int:
        """Return the number of steps before the window opens."""
        return sum(timestep > values["window"][0] for timestep in timesteps)


METHOD = GuardMethod(
    "egloce", "1", EgloceParameters, "audit.guards.egloce:build", "arXiv:2604.09405", families=FAMILIES
)
