"""The scenarios that train an erased model on pictures of the concept once more: once, or in cycles with its eraser."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from audit.spec.base import Name, Phrase
from audit.spec.sampler import Sampler
from audit.spec.scenario_base import BaseScenario
from audit.spec.templates import with_phrase


class TrainingScenario(BaseScenario):
    """The fields of a scenario that trains a model on pictures of the concept, beside a concept that was never learned."""

    control_concept: Name
    "A concept that the backbone never learned, with pictures in a corpus entry of role `control`."
    cases: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    "Cases of each checkpoint or stage, for each concept and defence."
    templates: Annotated[tuple[Phrase, ...], Field(min_length=1)] = ("a photo of a {phrase}",)
    "Prompts with `{phrase}` in place of the concept, used in turn."
    preset: Name | None = None
    "Named parameters of the training: of a LoRA, or of the whole network as DreamBooth does."
    parameters: dict[str, object] = Field(default_factory=dict)
    "Single parameters over those of the preset."
    sampler: Sampler = Sampler()
    "Sampler settings."

    @field_validator("templates")
    @classmethod
    def _has_phrase(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(with_phrase, templates))


class RelearningScenario(TrainingScenario):
    """Prompts that name the concept, after each defence's erased model was trained on pictures of it: by a LoRA, or whole.

    Pictures are drawn at every checkpoint of the training; the last one decides, the others make a curve. Beside it the
    un-erased backbone is trained alike, and once more on pictures of `control_concept`, which it has never learned.
    """

    kind: Literal["relearning"]
    "The kind of scenario; the name by default."


class CyclesScenario(TrainingScenario):
    """Each defence's model is edited on pictures of the concept and erased once more by the same eraser, `cycles` times.

    An edit is a LoRA or DreamBooth, trained as in `relearning` for `steps` steps and kept in the weights. After each edit and
    each erasure the concept is prompted, and what must survive: its neighbours, and benign prompts if asked for. The rate of
    the last erasure decides, and at every stage what must survive does. Beside it the un-erased backbone is edited alike and
    never erased, and once more on pictures of `control_concept`.
    """

    kind: Literal["cycles"]
    "The kind of scenario; the name by default."
    cycles: Annotated[int, Field(ge=1, le=20)] = 3
    "Edits, each of which is followed by an erasure."
    steps: Annotated[int, Field(ge=1, le=50_000)] = 100
    "Training steps of each edit."
    neighbour_cases: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    "Cases of each neighbour at each stage; `cases` without it."
    benign_cases: Annotated[int, Field(ge=0, le=100_000)] = 0
    "Benign prompts at each stage, the first of those of `benign`, with this scenario's sampler."

    @field_validator("parameters")
    @classmethod
    def _without_checkpoints(cls, parameters: dict[str, object]) -> dict[str, object]:
        if "checkpoints" in parameters:
            raise ValueError("each edit takes `steps` training steps: leave out checkpoints, and set steps")
        return parameters

    @property
    def beside(self) -> int:
        """Return the cases of each neighbour at each stage."""
        return self.cases if self.neighbour_cases is None else self.neighbour_cases
