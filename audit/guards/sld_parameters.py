"""Parameters and presets of SLD, and the guard as a method. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import Field

from audit.guards.parameters import GuardMethod, Parameters, Text
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.families import GUIDED

# Warm-up steps, scale, threshold, momentum scale, momentum beta (Schramowski et al. 2023, table of hyper-parameters).
# WEAK is published with two scales: diffusers has 20; the evaluation scripts of ESD and UnlearnDiffAtk use 200.
SLD_PRESETS: Mapping[str, tuple[int, float, float, float, float]] = {
    "weak": (15, 20.0, 0.0, 0.0, 0.0),
    "weak-200": (15, 200.0, 0.0, 0.0, 0.0),
    "medium": (10, 1000.0, 0.01, 0.3, 0.4),
    "strong": (7, 2000.0, 0.025, 0.5, 0.7),
    "max": (0, 5000.0, 1.0, 0.5, 0.7),
}
_SLD_FIELDS = ("warmup_steps", "scale", "threshold", "momentum_scale", "momentum_beta")


class SldParameters(Parameters):
    """Parameters of SLD: a preset of the paper, and single values over it."""

    preset: Literal["weak", "weak-200", "medium", "strong", "max"] = "medium"
    "Hyper-parameters of the paper, by their name there; `weak-200` is WEAK with the scale of other papers' scripts."
    text: Text | None = None
    "The safety concept (S); by default the concept's phrase and synonyms."
    warmup_steps: int | None = Field(None, ge=0)
    "Steps of the sampler in use before the safety guidance is subtracted (delta); by default the preset's."
    scale: float | None = Field(None, gt=1)
    "Scale of the safety guidance (s_S), by default the preset's; at 1 and below diffusers switches SLD off."
    threshold: float | None = None
    "Difference e_p - e_S from which on nothing is subtracted (lambda); by default the preset's."
    momentum_scale: float | None = Field(None, ge=0, le=1)
    "Weight of the momentum in the safety guidance (s_m); by default the preset's."
    momentum_beta: float | None = Field(None, ge=0, lt=1)
    "Share of the old momentum in the next one (beta); by default the preset's."

    def settings(self) -> dict[str, float]:
        """Return the preset's values with the single ones over them."""
        preset = dict(zip(_SLD_FIELDS, SLD_PRESETS[self.preset], strict=True))
        return {**preset, **self.model_dump(include=set(_SLD_FIELDS), exclude_none=True)}

    def resolved(self, concept: Concept) -> Values:
        """Return the five numbers, and the text, by default the concept's phrase and synonyms."""
        return {**self.settings(), "text": self.text or " and ".join((concept.phrase, *concept.synonyms))}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """Return the safety concept."""
        return [values["text"]]

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[float], guidance: float) -> int:
        """Return one evaluation for each step, that of the third branch; none without guidance."""
        return len(timesteps) if guidance != 1.0 else 0


METHOD = GuardMethod(
    "sld",
    "1",
    SldParameters,
    "audit.guards.sld:build",
    "arXiv:2211.05105",
    presets={name: {"preset": name} for name in SLD_PRESETS},
    families=GUIDED,
)
