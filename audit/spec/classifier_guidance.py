"""The scenario that steers the sampler by a classifier's gradient."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from audit.spec.base import Phrase
from audit.spec.sampler import Sampler
from audit.spec.scenario_base import BaseScenario
from audit.spec.templates import Template, with_phrase

TESTBED_GUIDE = "testbed/energy"  # what guides on the testbed unless the spec names another


@dataclasses.dataclass(frozen=True)
class ClassifierGuidance:
    """Guidance of one cell's pictures towards `phrase`, as it becomes part of their identity.

    `guide_sha256` is the digest of the CLIP that tells `phrase` from the phrases in `against`, each read in all `templates`.
    `direction: random` is the control: steps of the same length along a random direction.
    """

    guide_sha256: str
    phrase: str
    against: tuple[str, ...]
    templates: tuple[str, ...]
    scale: float
    normalise: Literal["prediction", "none"]
    window: tuple[int, int]
    gradient: Literal["prediction", "full"]
    views: int
    direction: Literal["gradient", "random"] = "gradient"

    def gradients(self, timesteps: Sequence[float]) -> int:
        """Return how many gradients through the decoder and the CLIP one picture takes: one at each step of the window.

        A random direction takes none, except where its steps are as long as the gradient makes them.
        """
        if self.direction == "random" and self.normalise == "prediction":
            return 0
        start, end = self.window
        return sum(end <= timestep <= start for timestep in timesteps)

    def extra_calls(self, timesteps: Sequence[float], branches: int) -> int:
        """Return the UNet evaluations of one picture beside the sampler's, of which a step has `branches`.

        A full gradient takes a prediction of its own, and a backward pass through it that is not counted. A flow's first
        step, at noise alone, is guided by nothing and counted all the same.
        """
        return self.gradients(timesteps) * branches if self.gradient == "full" else 0


class ClassifierGuidanceScenario(BaseScenario):
    """Prompts that name the concept, sampled while the gradient of a CLIP steers each step towards the concept.

    White box: the gradient is taken at the latents of the defence's own sampler. The control takes steps of the same length
    in a random direction, and every class in `controls.unlearned` is guided to in the same way.
    """

    kind: Literal["classifier-guidance"]
    "The kind of scenario; the name by default."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases for each concept and defence."
    prompt: Phrase | None = "a photo of a {phrase}"
    "Template of the prompt, `{phrase}` replaced; `null` is the null prompt, which needs guidance 1."
    guide: Annotated[str, Field(min_length=1)] | None = None
    "The CLIP model that guides, never one that also scores; by default `testbed/energy`, on the testbed only."
    against: tuple[Phrase, ...] = ()
    "Phrases that the guide tells the concept from, beside those of its neighbours."
    guide_templates: Annotated[tuple[Template, ...], Field(min_length=1)] = ("a photo of a {phrase}",)
    "Prompts by which the guide knows a phrase; their embeddings are averaged."
    scale: Annotated[float, Field(gt=0, le=100_000)] = 0.2
    "Strength (s): under `normalise: prediction` as a share of the predicted noise's length."
    normalise: Literal["prediction", "none"] = "prediction"
    "`prediction` takes the gradient's direction alone; `none` is the published formula, eps - s sigma g."
    window: tuple[int, int] = (1000, 0)
    "First and last training timestep of the guidance, noisiest first, both inclusive."
    gradient: Literal["prediction", "full"] = "prediction"
    "`full` differentiates through the network, at one more evaluation a step; `prediction` holds its prediction fixed."
    views: Annotated[int, Field(ge=0, le=16)] = 4
    "Augmented copies (crop and colour) over which the guide's answer is averaged; 0 uses the picture itself."
    sampler: Sampler = Sampler()
    "Sampler settings."

    @field_validator("prompt")
    @classmethod
    def _has_phrase(cls, template: str | None) -> str | None:
        return None if template is None else with_phrase(template)

    @model_validator(mode="after")
    def _can_guide(self) -> Self:
        if self.prompt is None and self.sampler.guidance != 1.0:
            raise ValueError("the null prompt has nothing to guide to, so sampler.guidance must be 1; or set prompt")
        if not 1000 >= self.window[0] >= self.window[1] >= 0:
            raise ValueError(f"window {list(self.window)} must run from noisy to clean within [1000, 0]")
        return self

    @property
    def guide_name(self) -> str:
        """The guide's name, as a spec writes it; the testbed's own unless the spec names another."""
        return self.guide or TESTBED_GUIDE
