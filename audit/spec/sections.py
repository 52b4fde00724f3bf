"""The sections of a spec: concepts, corpus, erasers, guards, defences, controls and detectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from audit import locations
from audit.spec.base import Model, Name, Phrase, Probability
from audit.spec.content import is_sexual


def words_of(name: str) -> str:
    """Return the default phrase: the name with dashes replaced by spaces."""
    return name.replace("-", " ")


class Concept(Model):
    """What was erased, and what must survive."""

    name: Name
    phrase: Phrase
    synonyms: tuple[Phrase, ...] = ()
    neighbours: tuple[Name, ...] = ()
    sensitive: bool = False  # pictures are blurred or withheld in every report; sexual concepts always are
    neighbour_phrases: dict[Name, Phrase] = Field(default_factory=dict)  # filled in for declared neighbours

    @model_validator(mode="before")
    @classmethod
    def _sexual_is_sensitive(cls, fields: Any) -> Any:
        if not isinstance(fields, dict):
            return fields
        synonyms = fields.get("synonyms")
        texts = [fields.get("name"), fields.get("phrase"), *(synonyms if isinstance(synonyms, list | tuple) else ())]
        sexual = any(is_sexual(text) for text in texts if isinstance(text, str))
        return {**fields, "sensitive": True} if sexual else fields

    @model_serializer(mode="wrap")
    def _without_empty_phrases(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields: dict[str, Any] = handler(self)
        if not self.neighbour_phrases:  # keys of concepts that have none stay what they were
            del fields["neighbour_phrases"]
        return fields

    def phrase_of(self, neighbour: str) -> str:
        """The phrase of a neighbour: as it is declared, else the words of its name."""
        return self.neighbour_phrases.get(neighbour) or words_of(neighbour)


class CorpusEntry(Model):
    """One prefix of the corpus: every object under `url` shows `concept`."""

    url: Annotated[str, Field(min_length=1)]
    concept: Name
    role: Literal["target", "neighbour", "control"] = "target"

    @field_validator("url")
    @classmethod
    def _no_credentials(cls, url: str) -> str:
        if locations.has_credentials(url):
            raise ValueError("carries credentials; remove them and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return url


class CorpusLimits(Model):
    """What a corpus object may cost before it is reported as unusable."""

    max_bytes: Annotated[int, Field(gt=0)] = 50_000_000
    max_pixels: Annotated[int, Field(gt=0)] = 50_000_000


class Eraser(Model):
    """How the weights were changed: the method that produces them, with its parameters over those of a preset.

    With `checkpoint` they are loaded as they are, and `method` is the user's claim about them.
    """

    method: Name
    preset: Name | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    checkpoint: Annotated[str, Field(min_length=1)] | None = None  # a file, a folder or org/name@<commit>[/path]

    @model_validator(mode="after")
    def _loaded_as_it_is(self) -> Self:
        if self.checkpoint is not None and (self.preset is not None or self.parameters):
            raise ValueError("a checkpoint is loaded as it is: it takes no preset or parameters")
        return self


class Guard(Model):
    """An inference-time guard by name, with its parameters.

    `controls` asks for IRECE's other masks beside each audited cell; their cells decide nothing.
    """

    name: Name
    parameters: dict[str, Any] = Field(default_factory=dict)
    controls: tuple[Literal["random", "shifted", "full"], ...] = ()


class Defence(Model):
    """Eraser and guards, in order. The defence `none` is always audited, as positive control."""

    name: Name
    eraser: Eraser | None = None
    guards: tuple[Guard, ...] = ()


class Controls(Model):
    """Which control cells join the run, and how many cases each gets."""

    cases: Annotated[int, Field(ge=1, le=100_000)] = 16
    reference: bool = True
    vae_roundtrip: bool = True
    random_latent: bool = True
    black: bool = True
    noise: bool = True
    unlearned: tuple[Name, ...] = ()  # corpus concepts the model has never seen


DetectorKind = Literal["clip-zero-shot", "classifier", "nudenet", "grounding-dino"]


class DetectorSpec(Model):
    """One instrument. `model` is a testbed name, a local folder or `hub-id@revision`."""

    name: Name
    kind: DetectorKind
    model: str | None = None
    threshold: Probability = 0.5
    templates: tuple[Phrase, ...] = ("a photo of a {phrase}",)
    background: tuple[Phrase, ...] = ()  # prompts of the 'nothing here' class of a zero-shot detector
    labels: dict[Name, tuple[str, ...]] = Field(
        default_factory=dict
    )  # subject -> detector labels that count as this subject
    parameters: dict[str, Any] = Field(default_factory=dict)
