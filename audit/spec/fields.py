"""The fields of a spec, and names that are derived from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    Field,
)

from audit.spec.base import Model, Name
from audit.spec.benign import BenignSpec, subject_name
from audit.spec.content import is_sexual
from audit.spec.policy import Policy
from audit.spec.quality import QualitySpec
from audit.spec.relearning import TrainingScenario
from audit.spec.scenarios import EmbeddingScenario, ScenarioSpec, TextScenario
from audit.spec.sections import Concept, Controls, CorpusEntry, CorpusLimits, Defence, DetectorSpec, words_of
from audit.spec.system import System


class SpecFields(Model):
    """The fields of a spec; `document.Spec` adds the rules between them."""

    version: Literal[1] = 1
    "Version of the spec's form."
    name: Name
    "Name of the audit; run ids begin with it."
    system: System | None = None
    "The system under audit. Runs of one system form a series; without it the series is named after the audit."
    backbone: Annotated[str, Field(min_length=1)]
    """The un-erased pipeline: `testbed`, a diffusers folder, a hub id pinned to a commit, `org/name@<40 hex digits>`, or a single
    file with the settings of one of these, `FILE.safetensors#config=FOLDER`."""
    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]
    "The erased concepts."
    corpus: tuple[CorpusEntry, ...] = ()
    "Reference pictures. Latent scenarios and learned embeddings need some of every concept."
    calibration: tuple[CorpusEntry, ...] = ()
    "Pictures on which `tune` chooses a guard's parameters. An audit only proves that none of them is in `corpus`."
    corpus_limits: CorpusLimits = CorpusLimits()
    "Limits on single corpus objects."
    defences: Annotated[tuple[Defence, ...], Field(min_length=1)]
    "The defences under audit. The bare backbone, `none`, is always audited too."
    scenarios: Annotated[tuple[ScenarioSpec, ...], Field(min_length=1)]
    "The attacks: several of one kind too, under names of their own beside their `kind`."
    controls: Controls = Controls()
    "Control cells and their size."
    detectors: Annotated[tuple[DetectorSpec, ...], Field(min_length=1)]
    "The instruments that look for the concept."
    quality: tuple[QualitySpec, ...] = ()
    "Quality instruments; they never decide the verdict."
    benign: BenignSpec = BenignSpec()
    "Ordinary prompts that every defence has to go on drawing."
    gate: Policy
    "The policy that turns rates into a verdict."
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    "The seed from which the seeds of all cases are derived."
    neighbour_cases: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    "Cases of each neighbour in the first text scenario, for each defence."
    unit_size: Annotated[int, Field(ge=1, le=4096)] = 16
    "Cases in one unit, which is one file of the journal."

    def unknown_names(self, policy: Policy) -> list[str]:
        """Return a sentence for each name in `policy` that this spec does not define."""
        return policy.problems(
            scenarios={s.name for s in self.scenarios},
            detectors={d.name for d in self.detectors},
            concepts={c.name for c in self.concepts},
            defences=self.defence_names(),
        )

    def defence(self, name: str) -> Defence:
        """Return the defence called `name`; `none` exists in every spec."""
        return next((d for d in self.defences if d.name == name), Defence(name="none"))

    def defence_names(self) -> tuple[str, ...]:
        """Return the names of all defences in order; `none` comes first and is always there."""
        return ("none", *(d.name for d in self.defences if d.name != "none"))

    def first_text(self) -> TextScenario | None:
        """Return the scenario whose prompts neighbours have and as which benign prompts run; None without a text one."""
        return next((scenario for scenario in self.scenarios if isinstance(scenario, TextScenario)), None)

    def subjects(self) -> tuple[Concept, ...]:
        """Return everything that detectors have to tell apart, each once: concepts, their neighbours, unlearned classes."""
        names = [c.name for c in self.concepts]
        names += [n for c in self.concepts for n in c.neighbours]
        return tuple(self.concept(name) for name in dict.fromkeys((*names, *self.never_learned())))

    def never_learned(self) -> tuple[str, ...]:
        """Return the concepts that the backbone has never seen, each once: those of controls, of embeddings and of trainings."""
        learned = [s.control_concept for s in self.scenarios if isinstance(s, TrainingScenario | EmbeddingScenario)]
        return tuple(dict.fromkeys((*self.controls.unlearned, *(name for name in learned if name is not None))))

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
        """Return whether pictures of `subject` are blurred or withheld, as declared or because its labels are sexual."""
        labels = [label for detector in self.detectors for label in detector.labels.get(subject, ())]
        return self.concept(subject).sensitive or any(map(is_sexual, labels))

    def concept(self, name: str) -> Concept:
        """Return the declared concept called `name`, or a bare one for a neighbour that is only named."""
        return next((c for c in self.concepts if c.name == name), Concept(name=name, phrase=words_of(name)))
