"""The settings by which a cell's pictures are inverted."""

from __future__ import annotations

import dataclasses

from audit import identity
from audit.plan.identities import InvertIdentity
from audit.spec.perturbation import Perturbation
from audit.spec.scenarios import LatentScenario


@dataclasses.dataclass(frozen=True)
class Inversion:
    """The settings of a cell's inversion: the model of an erase unit (None is the backbone), a prompt ("" is the null
    prompt), and the disturbance that is applied to each reference image first, if any.
    """

    scenario: LatentScenario
    model: str | None
    prompt: str = ""
    perturbation: Perturbation | None = None

    def identity(self, backbone: str) -> InvertIdentity:
        """Return the common part of its invert units' identities, without any items."""
        scenario = self.scenario
        iterated = scenario.method == "fixed-point"
        return InvertIdentity(
            backbone=backbone,
            model=self.model,
            method=scenario.method,
            steps=scenario.sampler.steps,
            passes=scenario.fixed_point_passes if iterated else None,
            tolerance=scenario.fixed_point_tolerance if iterated else None,
            prompt=self.prompt,
            perturbation=self.perturbation,
            code=identity.code_digest("invert"),
        )
