"""Parameters and presets of SLD, and the guard as a method. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from audit.guards.parameters import GuardMethod, Parameters, Text, Values
from audit.spec.sections import Concept

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
    """A preset, or single values over it. `text` is the safety concept; warm-up counts steps of the sampler in use."""

    preset: Literal["weak", "weak-200", "medium", "strong", "max"] = "medium"
    text: Text | None = None  # None: the concept's phrase and synonyms
    warmup_steps: int | None = Field(None, ge=0)
    scale: float | None = Field(None, gt=1)  # diffusers switches SLD off at 1 and below
    threshold: float | None = None
    momentum_scale: float | None = Field(None, ge=0, le=1)
    momentum_beta: float | None = Field(None, ge=0, lt=1)

    def settings(self) -> dict[str, float]:
        """The preset's values with the single ones over them."""
        preset = dict(zip(_SLD_FIELDS, SLD_PRESETS[self.preset], strict=True))
        return {**preset, **self.model_dump(include=set(_SLD_FIELDS), exclude_none=True)}

    def resolved(self, concept: Concept) -> dict[str, Any]:
        """The five numbers, and the text, by default the concept's phrase and synonyms."""
        return {**self.settings(), "text": self.text or " and ".join((concept.phrase, *concept.synonyms))}

    @classmethod
    def texts(cls, values: Values) -> list[str]:
        """The safety concept."""
        return [values["text"]]

    @classmethod
    def extra_calls(cls, values: Values, timesteps: Sequence[int], guidance: float) -> int:
        """A third branch at each step, unless guidance is off."""
        return len(timesteps) if guidance != 1.0 else 0


METHOD = GuardMethod(
    "sld",
    "1",
    SldParameters,
    "audit.guards.sld:build",
    "arXiv:2211.05105",
    presets={name: {"preset": name} for name in SLD_PRESETS},
)
