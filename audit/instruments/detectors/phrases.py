"""What judges that read text are asked about: every concept and neighbour of a spec, and its further classes."""

from __future__ import annotations

from collections.abc import Sequence

from audit.errors import DetectorError
from audit.instruments.detectors import folders
from audit.spec.sections import Concept, DetectorSpec, words_of
from audit.weights.references import ModelRef


def phrases(spec: DetectorSpec, concepts: Sequence[Concept], *, synonyms: bool = False) -> dict[str, tuple[str, ...]]:
    """Return label -> phrases of the concepts, their neighbours and `parameters.extra_classes`.

    With `synonyms` those of a concept follow its own phrase. Raises `DetectorError` for extra classes that are no phrases.
    """
    extra = spec.parameters.get("extra_classes", ())
    if not isinstance(extra, list | tuple) or not all(isinstance(name, str) and name.strip() for name in extra):
        raise mistake(spec, "parameters.extra_classes", "extra classes must be a list of phrases", "write [dog, cat]")
    named: dict[str, tuple[str, ...]] = {}
    for concept in concepts:
        named.setdefault(concept.name, (concept.phrase, *(concept.synonyms if synonyms else ())))
    for concept in concepts:
        for name in concept.neighbours:
            named.setdefault(name, (concept.phrase_of(name),))
    for name in extra:
        named.setdefault(name, (words_of(name),))
    return named


def require_place(spec: DetectorSpec, field: str, template: str, example: str) -> None:
    """Raise `DetectorError` unless `template` has exactly one place for a phrase."""
    if template.count("{phrase}") != 1:
        raise mistake(spec, field, f"template {template!r} must contain {{phrase}} once", f"write {example!r}")


def choice(spec: DetectorSpec, name: str, known: Sequence[str]) -> str:
    """Return a parameter that is one of `known`, of which the first is the default. Raises `DetectorError` otherwise."""
    value = spec.parameters.get(name, known[0])
    if not isinstance(value, str) or value not in known:
        raise mistake(spec, f"parameters.{name}", f"unknown {name} {value!r}", f"use {' or '.join(known)}")
    return value


def folder_of(spec: DetectorSpec, kinds: Sequence[str], example: str) -> ModelRef:
    """Return the model folder of an entry whose network must be one of `kinds` (`model_type` of its config.json).

    Raises `DetectorError` for an entry without one and for a folder of another kind; `example` says what would do.
    """
    next_step = f"set 'model' to {example}"
    if spec.model is None:
        raise mistake(spec, "model", "names no model", next_step)
    ref = folders.resolve(spec)
    kind = folders.model_type(ref)
    if kind not in kinds:
        raise mistake(
            spec, "model", f"needs a network of type {' or '.join(kinds)}, and the folder holds {kind!r}", next_step
        )
    return ref


def mistake(spec: DetectorSpec, field: str, what: str, next_step: str) -> DetectorError:
    """Return the error for a field of a spec's detector."""
    return DetectorError(f"detector {spec.name!r}: {what}", where=f"detectors.{spec.name}.{field}", next_step=next_step)
