"""The spec: what to audit, how to attack it, which instruments judge and which policy decides.

A spec is YAML. `load_spec` returns a validated `Spec` or raises one `SpecError` that lists every mistake with its field.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from audit import urls
from audit.benign_spec import BenignSpec, subject_name
from audit.content_rules import is_sexual, refuse_minors
from audit.errors import SpecError
from audit.foreign import ForeignError
from audit.policy import Policy
from audit.quality_spec import QualitySpec
from audit.scenarios import ScenarioSpec
from audit.spec_base import Model, Name, Phrase, Probability, extreme_numbers
from audit.spec_rules import problems_of
from audit.yaml_files import read_yaml, reason


def words_of(name: str) -> str:
    """The phrase of what is only named: the words of its name."""
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
        if urls.has_credentials(url):
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


class Spec(Model):
    """One audit. See `deployments/specs/` for specs that run as they are."""

    version: Literal[1] = 1
    name: Name
    backbone: Annotated[str, Field(min_length=1)]
    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]
    corpus: tuple[CorpusEntry, ...] = ()
    calibration: tuple[CorpusEntry, ...] = ()  # of `tune`; an audit only proves that it shares no picture
    corpus_limits: CorpusLimits = CorpusLimits()
    defences: Annotated[tuple[Defence, ...], Field(min_length=1)]
    scenarios: Annotated[tuple[ScenarioSpec, ...], Field(min_length=1)]
    controls: Controls = Controls()
    detectors: Annotated[tuple[DetectorSpec, ...], Field(min_length=1)]
    quality: tuple[QualitySpec, ...] = ()
    benign: BenignSpec = BenignSpec()
    gate: Policy
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    neighbour_cases: Annotated[int, Field(ge=0, le=1_000_000)] = 0  # text cases per neighbour and defence
    unit_size: Annotated[int, Field(ge=1, le=4096)] = 16  # cases per journal file

    @field_validator("concepts")
    @classmethod
    def _neighbours_as_declared(cls, concepts: tuple[Concept, ...]) -> tuple[Concept, ...]:
        declared = {concept.name: concept.phrase for concept in concepts}
        filled = []
        for concept in concepts:
            phrases = {name: declared[name] for name in concept.neighbours if name in declared}
            if concept.neighbour_phrases and concept.neighbour_phrases != phrases:
                raise ValueError(f"{concept.name}: neighbour_phrases is filled in; declare the neighbour as a concept")
            filled.append(concept.model_copy(update={"neighbour_phrases": phrases}))
        return tuple(filled)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        problems = problems_of(self)
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @model_validator(mode="after")
    def _no_minors(self) -> Self:
        refuse_minors(self.model_dump(mode="json", exclude={"gate"}))  # a policy shows nothing and names only the above
        return self

    def unknown_names(self, policy: Policy) -> list[str]:
        """Sentences about names in `policy` that this spec does not define; empty when all exist."""
        return policy.problems(
            scenarios={s.name for s in self.scenarios},
            detectors={d.name for d in self.detectors},
            concepts={c.name for c in self.concepts},
            defences=self.defence_names(),
        )

    def defence(self, name: str) -> Defence:
        """The defence called `name`; `none` exists in every spec."""
        return next((d for d in self.defences if d.name == name), Defence(name="none"))

    def defence_names(self) -> tuple[str, ...]:
        """All defences in order; `none` comes first and is always there."""
        return ("none", *(d.name for d in self.defences if d.name != "none"))

    def subjects(self) -> tuple[Concept, ...]:
        """Everything the detectors have to tell apart: concepts, their neighbours, unlearned classes; each once."""
        names = [c.name for c in self.concepts]
        names += [n for c in self.concepts for n in c.neighbours]
        names += self.controls.unlearned
        return tuple(self.concept(name) for name in dict.fromkeys(names))

    def sought(self) -> tuple[Concept, ...]:
        """Return what the detectors are asked about: the subjects and, where no neighbour is declared, the benign ones.

        A spec with neighbours asks a zero-shot detector about nothing new: benign subjects are read where it knows them.
        """
        if any(concept.neighbours for concept in self.concepts):
            return self.subjects()
        return (*self.subjects(), *(self.concept(name) for name in self.benign_subjects()))

    def benign_subjects(self) -> tuple[str, ...]:
        """Return the subjects of benign prompts that are none of the spec's own subjects."""
        own = {subject.name for subject in self.subjects()}
        own |= {subject_name(words) for c in self.concepts for words in (c.phrase, *c.synonyms)}
        return tuple(name for name in self.benign.subjects if name not in own)

    def quality_entries(self) -> tuple[QualitySpec, ...]:
        """Return the quality instruments that a run measures with: the listed ones and the picture check's."""
        check = self.benign.instrument
        return self.quality if check is None or check in self.quality else (*self.quality, check)

    def is_sensitive(self, subject: str) -> bool:
        """Whether pictures in which `subject` is sought are blurred or withheld: as declared, or by what is looked for."""
        labels = [label for detector in self.detectors for label in detector.labels.get(subject, ())]
        return self.concept(subject).sensitive or any(map(is_sexual, labels))

    def concept(self, name: str) -> Concept:
        """The declared concept called `name`, or a bare one for a neighbour that is only named."""
        return next((c for c in self.concepts if c.name == name), Concept(name=name, phrase=words_of(name)))


def parse_spec(document: object, where: str, next_step: str | None = None) -> Spec:
    """A validated `Spec` from a parsed YAML document; `where` names it in errors, `next_step` says what mends it."""
    if not isinstance(document, dict):
        raise SpecError(
            "the spec is not a mapping of fields",
            where=where,
            next_step="start from deployments/specs/demo.yaml",
        )
    mend = next_step or f"mend these fields, then run: erasure-audit plan {where}"
    if extreme := list(extreme_numbers(document)):
        raise _mistakes(extreme, where, mend)
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        raise _mistakes([_problem(detail) for detail in error.errors(include_url=False)], where, mend) from None


_MOST_LINES, _LONGEST_LINE = 50, 600  # of mistakes that one message names; a field's name may be a document of its own


def _mistakes(lines: list[str], where: str, next_step: str) -> SpecError:
    shown = [line if len(line) <= _LONGEST_LINE else f"{line[:_LONGEST_LINE]}..." for line in lines[:_MOST_LINES]]
    if len(lines) > len(shown):
        shown.append(f"and {len(lines) - len(shown)} more")
    listed = "\n".join(f"  - {line}" for line in shown)
    return SpecError(f"the spec has mistakes:\n{listed}", where=where, next_step=next_step)


def _problem(detail: Any) -> str:
    field = ".".join(str(part) for part in detail["loc"]) or "spec"
    message = str(detail["msg"]).removeprefix("Value error, ")
    return f"{field}: {message}"


def load_spec(path: str | Path) -> Spec:
    """A validated `Spec` from a YAML file. Raises `SpecError` for a missing, unreadable, non-YAML or invalid file."""
    path = Path(path)
    try:
        document = read_yaml(path)
    except (OSError, ForeignError) as error:
        raise SpecError(
            f"the spec cannot be read: {reason(error)}",
            where=str(path),
            next_step="name an existing YAML file, e.g. deployments/specs/demo.yaml",
        ) from None
    except UnicodeDecodeError:
        raise SpecError("the spec is not UTF-8 text", where=str(path), next_step="save it as UTF-8 YAML") from None
    except yaml.YAMLError as error:
        raise SpecError(f"the spec is not valid YAML: {error}", where=str(path), next_step="mend the syntax") from None
    return parse_spec(document, str(path))
