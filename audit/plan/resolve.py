"""Look up everything that a spec names, once: models, checkpoints, prompts, embeddings and instruments.

No model is loaded and nothing is compared here; `audit.plan.preflight` does that. An input that cannot be used raises
no error but is a value of the result: a forecast reports all of them, `doctor` each by itself, and a run the first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

from audit import files, guards
from audit.attacks.parameters import MAX_BYTES
from audit.checkpoints.personalisation import resolve_personalisation
from audit.corpus.prompts import prompt_sources, read_prompt_set
from audit.errors import AbsentFile, AuditError, SpecError
from audit.instruments import detectors, quality
from audit.instruments.detectors import folders
from audit.instruments.quality.networks import folder_of
from audit.plan.benign import BenignPrompt, planned_with_benign
from audit.plan.preflight.methods import check_methods
from audit.plan.resolved import (
    EmbeddingFile,
    Kind,
    Measuring,
    Missing,
    Pictures,
    Problem,
    Resolved,
    Tokenizers,
)
from audit.plan.samplers import schedulers_of
from audit.records import QualityInstrument
from audit.spec.classifier_guidance import ClassifierGuidanceScenario
from audit.spec.document import Spec
from audit.spec.quality import QualitySpec
from audit.spec.scenarios import EmbeddingScenario
from audit.spec.sections import DetectorSpec
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef, pipeline_family, resolve_model

T = TypeVar("T")


def resolve(spec: Spec, pictures: Pictures | None = None) -> Resolved:
    """Return everything that `spec` names, looked up, with its corpus's `pictures` if they were listed.

    No mistake of a user raises an error.
    """
    pictures = pictures or Pictures()
    look, tokenizers = _Lookups(pictures.problems), Tokenizers()
    look.up("model", "methods", partial(check_methods, spec), mistake=True)
    backbone = look.up("model", spec.backbone, partial(resolve_model, spec.backbone))
    if isinstance(backbone, ModelRef):
        backbone = look.up("model", spec.backbone, partial(_fit, backbone, spec, tokenizers), mistake=True)
    spec, benign = _benign(spec, backbone, tokenizers, look)
    energies = {
        name: look.up("model", name, partial(resolve_model, name)) for name in dict.fromkeys(_energies(spec, look))
    }
    scenarios = [scenario for scenario in spec.scenarios if isinstance(scenario, EmbeddingScenario)]
    personal = dict.fromkeys(name for scenario in scenarios for name in scenario.personalisations().values())
    return Resolved(
        spec=spec,
        backbone=backbone,
        benign=benign,
        energies=energies,
        checkpoints={
            name: look.up("checkpoint", name, partial(resolve_checkpoint, name)) for name in declared_checkpoints(spec)
        },
        personalisations={
            name: look.up("checkpoint", name, partial(resolve_personalisation, name)) for name in personal
        },
        prompt_sets={
            name: look.up("prompts", source.file or str(source.set), partial(read_prompt_set, source))
            for name, source in prompt_sources(spec).items()
        },
        embeddings={
            (scenario.name, concept.name): look.up("embedding", path, partial(_embedding_file, path, scenario.name))
            for scenario in scenarios
            for concept in spec.concepts
            if scenario.embedding is not None
            for path in [scenario.files(concept.name)[concept.name]]
        },
        detectors={
            entry.name: look.up("model", entry.name, partial(_measuring, entry, spec)) for entry in spec.detectors
        },
        quality={
            entry.name: look.up("model", entry.name, partial(_quality, entry)) for entry in spec.quality_entries()
        },
        networks={who: look.up("model", who, folder) for who, folder in _scoring(spec)},
        pictures=pictures,
        tokenizers=tokenizers,
        problems=tuple(look.problems),
    )


def declared_checkpoints(spec: Spec) -> list[str]:
    """Return the checkpoints of a spec's defences, each once."""
    erasers = [defence.eraser for defence in spec.defences if defence.eraser is not None]
    return list(dict.fromkeys(eraser.checkpoint for eraser in erasers if eraser.checkpoint is not None))


class _Lookups:
    """The problems met while inputs are looked up, each once."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.problems = list(problems)

    def up(self, kind: Kind, name: str, look: Callable[[], T], *, mistake: bool = False) -> T | Missing:
        """Return what `look` returns; where it raises an `AuditError`, a `Missing` beside a problem more."""
        try:
            return look()
        except AuditError as error:
            problem = Problem.of(kind, error, mistake=mistake)
            if problem not in self.problems:
                self.problems.append(problem)
            return Missing(name, error)


def _fit(backbone: ModelRef, spec: Spec, tokenizers: Tokenizers) -> ModelRef:
    """Return the backbone when it is of the supported family, with a scheduler that the spec's samplers honour and a
    tokenizer that fits. Raises `CheckpointError`.
    """
    pipeline_family(backbone, schedulers_of(spec))
    tokenizers.backbone(backbone)
    return backbone


def _benign(
    spec: Spec, backbone: ModelRef | Missing, tokenizers: Tokenizers, look: _Lookups
) -> tuple[Spec, tuple[BenignPrompt, ...]]:
    tokenizer = tokenizers.backbone(backbone) if isinstance(backbone, ModelRef) else None
    filled = look.up("prompts", "benign.prompts", partial(planned_with_benign, spec, tokenizer), mistake=True)
    return (spec, ()) if isinstance(filled, Missing) else filled


def _energies(spec: Spec, look: _Lookups) -> Iterator[str]:
    """Yield the name of each model that a guard asks beside the one that it protects, or that guides an attack."""
    for guard in (guard for defence in spec.defences for guard in defence.guards):
        parameters = look.up("model", guard.name, partial(guards.parse, guard))
        if not isinstance(parameters, Missing):
            yield from parameters.models().values()
    for scenario in spec.scenarios:
        if isinstance(scenario, ClassifierGuidanceScenario):
            yield scenario.guide_name


def _scoring(spec: Spec) -> Iterator[tuple[str, Callable[[], ModelRef]]]:
    """Yield each network that scores pictures: the name of its instrument, and a function that returns its folder."""
    for detector in spec.detectors:
        if detector.model is not None:
            yield f"detector {detector.name!r}", partial(folders.resolve, detector)
    for entry in spec.quality_entries():
        if entry.model is not None:
            yield f"quality instrument {entry.name!r}", partial(folder_of, entry)


def _measuring(entry: DetectorSpec, spec: Spec) -> Measuring:
    return Measuring(*detectors.instrument_and_rules(entry, spec))


def _quality(entry: QualitySpec) -> QualityInstrument:
    return quality.build(entry).instrument


def _embedding_file(path: str, scenario: str) -> EmbeddingFile:
    """Return the file of an embedding with its digest.

    Raises `AbsentFile` for one that cannot be opened, `SpecError` for what is no file of an embedding's size.
    """
    try:
        return EmbeddingFile(Path(path), hashlib.sha256(files.read_bounded(Path(path), MAX_BYTES)).hexdigest())
    except files.ForeignError as error:
        raise SpecError(
            f"the embedding file cannot be used: {error}",
            where=str(Path(path)),
            next_step=f"name an embedding's file in scenario {scenario}",
        ) from None
    except OSError as error:
        raise AbsentFile(
            f"the embedding file cannot be read: {error.strerror or error}",
            where=str(Path(path)),
            next_step=f"name an existing file in scenario {scenario}",
        ) from None
