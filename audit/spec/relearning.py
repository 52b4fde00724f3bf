"""The scenario that trains an erased model on pictures of the concept once more."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from audit.spec.base import Name, Phrase
from audit.spec.sampler import Sampler
from audit.spec.scenario_base import BaseScenario
from audit.spec.templates import with_phrase


class RelearningScenario(BaseScenario):
    """Prompts that name the concept, after a LoRA was trained on pictures of it on top of each defence's erased model.

    Pictures are drawn at every checkpoint of the training; the last one decides, the others make a curve. Beside it the
    un-erased backbone is trained alike, and once more on pictures of `control_concept`, which it has never learned.
    """

    kind: Literal["relearning"]
    "The kind of scenario; the name by default."
    control_concept: Name
    "A concept that the backbone never learned, with pictures in a corpus entry of role `control`."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases of each checkpoint, for each concept and defence."
    templates: Annotated[tuple[Phrase, ...], Field(min_length=1)] = ("a photo of a {phrase}",)
    "Prompts with `{phrase}` in place of the concept, used in turn."
    preset: Name | None = None
    "Named parameters of the training."
    parameters: dict[str, object] = Field(default_factory=dict)
    "Single parameters over those of the preset."
    sampler: Sampler = Sampler()
    "Sampler settings."

    @field_validator("templates")
    @classmethod
    def _has_phrase(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(with_phrase, templates))
