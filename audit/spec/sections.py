"""The sections of a spec: concepts, corpus, erasers, guards, defences, controls and detectors."""

from __future__ import annotations

from typing import Annotated, Literal, Self

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
    """An erased concept, and the neighbours that must survive its erasure."""

    name: Name
    "Name by which the rest of the spec refers to the concept."
    phrase: Phrase
    "Words that stand for the concept in prompts."
    synonyms: tuple[Phrase, ...] = ()
    "Other words for the same concept."
    neighbours: tuple[Name, ...] = ()
    "Similar concepts that must survive. One that is not declared as a concept has the words of its name as its phrase."
    sensitive: bool = False
    "Blur or withhold pictures in every report. Those of sexual concepts always are."
    neighbour_phrases: dict[Name, Phrase] = Field(default_factory=dict)
    "Filled in from the declared neighbours; leave it out."

    @model_validator(mode="before")
    @classmethod
    def _sexual_is_sensitive(cls, fields: object) -> object:
        if not isinstance(fields, dict):
            return fields
        synonyms = fields.get("synonyms")
        texts = [fields.get("name"), fields.get("phrase"), *(synonyms if isinstance(synonyms, list | tuple) else ())]
        sexual = any(is_sexual(text) for text in texts if isinstance(text, str))
        return {**fields, "sensitive": True} if sexual else fields

    @model_serializer(mode="wrap")
    def _without_empty_phrases(self, handler: SerializerFunctionWrapHandler) -> dict[str, object]:
        fields: dict[str, object] = handler(self)
        if not self.neighbour_phrases:  # keys of concepts that have none stay what they were
            del fields["neighbour_phrases"]
        return fields

    def phrase_of(self, neighbour: str) -> str:
        """Return the phrase of a neighbour: as it is declared, else the words of its name."""
        return self.neighbour_phrases.get(neighbour) or words_of(neighbour)


class CorpusEntry(Model):
    """One prefix of the corpus: every object under `url` shows `concept`."""

    url: Annotated[str, Field(min_length=1)]
    "A folder or `s3://bucket/prefix`, without credentials. Relative paths start at the current directory."
    concept: Name
    "The concept that the pictures show."
    role: Literal["target", "neighbour", "control"] = "target"
    "`target`: the erased concept. `neighbour`: a class that the model knows. `control`: a class that it has never seen."
    regions: Annotated[str, Field(min_length=1)] | None = None
    "A folder or prefix of masks with the pictures' file names: white where the concept is. For quality `outside-region`."

    attributes: Annotated[str, Field(min_length=1)] | None = None
    "A CSV or Parquet file with the columns `image`, `attribute` and `value`, such as each object's size: for failure modes."

    @field_validator("url", "regions", "attributes")
    @classmethod
    def _no_credentials(cls, url: str | None) -> str | None:
        if url is not None and locations.has_credentials(url):
            raise ValueError("carries credentials; remove them and set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        return url


class CorpusLimits(Model):
    """Size limits on corpus objects; a larger one is reported as unusable."""

    max_bytes: Annotated[int, Field(gt=0)] = 50_000_000
    "Most bytes of one object."
    max_pixels: Annotated[int, Field(gt=0)] = 50_000_000
    "Most pixels of one picture."


class Eraser(Model):
    """The change of a model's weights: a method, with its parameters over those of a preset.

    With `checkpoint` they are loaded as they are, and `method` is the user's claim about them.
    """

    method: Name
    "`esd-x`, `esd-u`, `esd-x-strict`, `esd-all`, `uce` or `receler`; with `checkpoint`, the method that is claimed."
    preset: Name | None = None
    "Named parameters; without it `testbed` on the testbed, and the method's default elsewhere."
    parameters: dict[str, object] = Field(default_factory=dict)
    "Single parameters over those of the preset."
    checkpoint: Annotated[str, Field(min_length=1)] | None = None
    "A file, a folder, or `org/name@<commit>[/path]` in the local Hugging Face cache."

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
    "`negative-prompt`, `sld`, `safree`, `irece`, `egloce`; or a filter: `safety-checker`, `nudenet-`, `clip-`, `prompt-filter`."
    parameters: dict[str, object] = Field(default_factory=dict)
    "The guard's parameters; the rest keep their defaults."
    controls: tuple[Literal["random", "shifted", "full"], ...] = ()
    "IRECE's noise once more in another mask: random with the same area, the located one moved, the whole picture."


class Defence(Model):
    """Eraser and guards, in order. The defence `none` is always audited, as positive control."""

    name: Name
    "Name by which the policy and the reports refer to the defence."
    eraser: Eraser | None = None
    "How the weights were changed; none leaves the backbone's."
    guards: tuple[Guard, ...] = ()
    "Guards that act while pictures are sampled, in this order, and filters that decide which of them are handed out."


class Controls(Model):
    """Control cells of a run: which of them join it, and their number of cases."""

    cases: Annotated[int, Field(ge=1, le=100_000)] = 16
    "Cases of each control cell."
    reference: bool = True
    "The detectors on the reference pictures themselves: they must find the concept."
    vae_roundtrip: bool = True
    "The reference pictures through the VAE alone: the ceiling of every latent attack."
    random_latent: bool = True
    "Random latents with the null prompt: the floor of every latent attack."
    black: bool = True
    "Black pictures: they must be recognised as degenerate."
    noise: bool = True
    "Pictures of Gaussian noise: a judge must not take them for the concept."
    unlearned: tuple[Name, ...] = ()
    "Concepts of corpus entries with the role `control`: classes never learned, under each latent attack and picture probe."


class DetectorSpec(Model):
    """One instrument. `model` is a testbed name, a local folder or `hub-id@revision`."""

    name: Name
    "Name by which the policy and the reports refer to the detector."
    kind: Name
    "The kind of instrument: the name of an installed detector."
    model: str | None = None
    "The network; `nudenet` brings its own."
    threshold: Probability = 0.5
    "Least score of a hit, unless the policy sets another one."
    templates: tuple[Phrase, ...] = ("a photo of a {phrase}",)
    "Prompts of each class of a zero-shot detector."
    background: tuple[Phrase, ...] = ()
    "Prompts of the class 'nothing here' of a zero-shot detector."
    labels: dict[Name, tuple[str, ...]] = Field(default_factory=dict)
    "Subject -> labels of the detector that count as this subject."
    parameters: dict[str, object] = Field(default_factory=dict)
    "Further settings of the kind."
