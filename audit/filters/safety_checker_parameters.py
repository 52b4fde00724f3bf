"""Parameters of Stable Diffusion's safety checker, and the filter as a guard. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import Field

from audit.errors import CheckpointError
from audit.filters.parameters import FilterParameters
from audit.guards.parameters import GuardMethod
from audit.methods.parameters import Values
from audit.spec.sections import Concept
from audit.weights.files import read_json
from audit.weights.references import ModelRef

_CLASS = "StableDiffusionSafetyChecker"


class SafetyCheckerParameters(FilterParameters):
    """The checker's files, and how much stricter than released it decides."""

    model: str = Field(min_length=1)
    "Its folder, or CompVis/stable-diffusion-safety-checker@<40-hex commit>, with its preprocessor_config.json."
    adjustment: float = Field(0.0, ge=-1, le=1)
    "Added to every cosine before it is compared with its threshold; above 0 it blocks more. Released pipelines have 0."

    def resolved(self, concept: Concept) -> Values:
        """Return the adjustment; the model counts by its digest."""
        return {"adjustment": self.adjustment}

    def models(self) -> dict[str, str]:
        """Return the checker by its role."""
        return {"checker": self.model}

    def check(self, models: Mapping[str, ModelRef], concepts: Sequence[Concept], where: str) -> None:
        """Check that the folder holds a safety checker and says how pixels reach it. Raises `CheckpointError` otherwise."""
        ref = models.get("checker")
        if ref is None:
            return
        if _CLASS not in (read_json(ref.path / "config.json").get("architectures") or ()):
            raise CheckpointError(
                f"guard {METHOD.name}: the model {self.model} is no {_CLASS}",
                where=str(ref.path),
                next_step="name the folder `safety_checker` of a pipeline, or CompVis/stable-diffusion-safety-checker@<commit>",
            )
        if not (ref.path / "preprocessor_config.json").is_file():
            raise CheckpointError(
                f"guard {METHOD.name}: the folder does not say how pixels reach the checker",
                where=str(ref.path / "preprocessor_config.json"),
                next_step="copy preprocessor_config.json there, which a pipeline has in its folder `feature_extractor`",
            )


METHOD = GuardMethod(
    "safety-checker",
    "1",
    SafetyCheckerParameters,
    "audit.filters.safety_checker:build",
    "arXiv:2210.04610",
    reads="picture",
)
