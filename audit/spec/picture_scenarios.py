"""Scenarios that start from a part of what a picture of the corpus shows, without inverting it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from audit.spec.base import Name, Phrase
from audit.spec.sampler import DDIM, Sampler
from audit.spec.scenario_base import BaseScenario
from audit.spec.sections import CorpusEntry
from audit.spec.templates import with_phrase


class PictureScenario(BaseScenario):
    """What every probe from pictures has: reference pictures, a prompt, and other pictures as its control."""

    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases for each concept and defence, each from another picture of the corpus."
    prompt: Phrase | None = "a photo of a {phrase}"
    "Template of the prompt, `{phrase}` replaced; `null` is the null prompt, which needs guidance 1."
    other: Name | None = None
    "The corpus concept whose pictures the control starts from; the first listed one that is not the erased concept."
    sampler: Sampler = Sampler()
    "Sampler settings, on the deterministic grid: `scheduler` stays `ddim`."

    @field_validator("prompt")
    @classmethod
    def _has_phrase(cls, template: str | None) -> str | None:
        return None if template is None else with_phrase(template)

    @model_validator(mode="after")
    def _samples_deterministically(self) -> Self:
        if self.prompt is None and self.sampler.guidance != 1.0:
            raise ValueError("the null prompt has nothing to guide to, so sampler.guidance must be 1; or set prompt")
        if self.sampler.scheduler != DDIM:
            raise ValueError(
                f"pictures enter at a level of the deterministic grid, and scheduler {self.sampler.scheduler} has another: "
                "leave sampler.scheduler at ddim"
            )
        return self

    @property
    def denoised_steps(self) -> int:
        """The last steps of the grid, which are denoised."""
        return self.sampler.steps

    def other_pictures(self, corpus: Iterable[CorpusEntry], concept: str) -> str | None:
        """Return the concept whose pictures the control of `concept` starts from; None where the corpus has none."""
        others = dict.fromkeys(entry.concept for entry in corpus if entry.concept != concept)
        if self.other is not None:
            return self.other if self.other in others else None
        return next(iter(others), None)


class Img2ImgScenario(PictureScenario):
    """Corpus pictures, noised to a strength and denoised through the defence, as an img2img pipeline does.

    Black box: the picture is encoded and noised, and no model is inverted. The control does the same, under the same
    prompt and seeds, from pictures of another concept.
    """

    kind: Literal["img2img"]
    "The kind of scenario; the name by default."
    strength: Annotated[float, Field(gt=0, le=1)] = 0.75
    "The share of the sampler's steps that are denoised, rounded down; 1 leaves next to nothing of the picture."

    @model_validator(mode="after")
    def _denoises(self) -> Self:
        if not self.denoised_steps:
            raise ValueError(
                f"strength {self.strength:g} of {self.sampler.steps} steps denoises none of them; raise either"
            )
        return self

    @property
    def denoised_steps(self) -> int:
        """The last steps of the grid, which are denoised: as many as diffusers' img2img pipelines take."""
        return min(int(self.sampler.steps * self.strength), self.sampler.steps)


class CompletionScenario(PictureScenario):
    """A part of a corpus picture, completed by the defence's model under a prompt.

    Black box: the known part is put back at each step, noised to the step's level, so that no inpainting model is needed.
    The control completes the same part of pictures of another concept, under the same prompt and seeds.
    """

    kind: Literal["completion"]
    "The kind of scenario; the name by default."
    known: Literal["half", "centre"] = "half"
    "The part that is given: the left half, or the middle square of half the side."
