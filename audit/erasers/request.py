"""The request for an erased model, as the command line and the flow make it, checked before anything is loaded.

Importing this loads no torch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from audit import erasers, identity
from audit.errors import EraserError, SpecError
from audit.methods.parameters import Values
from audit.names import composed
from audit.spec.base import Model
from audit.spec.content import refuse_minors
from audit.spec.sections import Concept, Eraser, words_of
from audit.yaml_files import load_yaml

if TYPE_CHECKING:
    from audit.erasers.base import Record
    from audit.progress import Listener

_NAME = 64  # characters of a name, as in specs


class Request(Model):
    """The concepts to erase from a backbone, and the method."""

    backbone: Annotated[str, Field(min_length=1)]
    method: str
    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]
    preset: str | None = None  # without one: `testbed` for the testbed, the method's default for everything else
    parameters: dict[str, object] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _no_minors(self) -> Self:
        refuse_minors(self.model_dump(mode="json"))
        return self

    def resolved(self) -> Values:
        """Return all parameters of the method. Raises `SpecError` for an unknown method, preset or parameter."""
        erasers.check_method(self.method)
        eraser = Eraser.model_construct(method=self.method, preset=self.preset, parameters=self.parameters)
        return erasers.resolve_parameters(eraser, self.backbone)


def make_request(
    backbone: str,
    method: str,
    concepts: Sequence[str],
    *,
    synonyms: Sequence[str] = (),
    neighbours: Sequence[str] = (),
    preset: str | None = None,
    settings: Sequence[str] = (),
) -> Request:
    """Return the request of a command line: phrases become concepts, `settings` are `key=value` with YAML values.

    `synonyms` of the one concept are erased with it. Raises `SpecError` for a mistake in any of them, and for what the
    method would not use.
    """
    names = [_neighbour(text) for text in neighbours]
    parameters = _parameters(settings)
    if synonyms:
        parameters.setdefault("synonyms", True)
    try:
        erased = tuple(_concept(text, synonyms, names) for text in concepts)
        request = Request(backbone=backbone, method=method, concepts=erased, preset=preset, parameters=parameters)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in detail["loc"]) or "request"
        message = str(detail["msg"]).removeprefix("Value error, ")
        raise SpecError(f"{field}: {message}", where="erase", next_step="erasure-audit erase --help") from None
    try:
        resolved = request.resolved()
    except SpecError as error:
        error.where = "erase"  # the message is shared with specs, which call the place `defences`
        raise
    _require_used(request, resolved)
    return request


def _require_used(request: Request, parameters: Values) -> None:
    """Raise `SpecError` for synonyms or neighbours that would change nothing, and for synonyms that are missing."""
    given = {text for concept in request.concepts for text in concept.synonyms}
    if given and len(request.concepts) > 1:
        raise SpecError(
            "synonyms of several concepts cannot be told apart here",
            where="--synonym",
            next_step="name one --concept, or name every synonym as a --concept of its own",
        )
    if given and not parameters["synonyms"]:
        raise SpecError(
            "the synonyms would not be erased: synonyms is false",
            where="--synonym",
            next_step="leave out --set synonyms=false, or the synonyms",
        )
    if parameters["synonyms"] and not given:
        raise SpecError(
            "the concept's synonyms shall be erased, and it has none",
            where="--set",
            next_step="name them: --synonym WORD",
        )
    if not any(concept.neighbours for concept in request.concepts):
        return
    if "preserve_neighbours" not in parameters:
        raise SpecError(
            f"{request.method} knows no neighbours to hold in place",
            where="--neighbour",
            next_step="leave --neighbour out, or use --method uce",
        )
    if not parameters["preserve_neighbours"] or parameters.get("preserve_scale") == 0:
        raise SpecError(
            "the neighbours would not be held in place: preserve_neighbours is false or preserve_scale is 0",
            where="--neighbour",
            next_step="leave out --neighbour, or that --set",
        )


def name_of(phrase: str) -> str:
    """Return a concept's name from its phrase, at most 64 characters of ASCII; different phrases that look alike stay apart.

    Letters that a name cannot hold and what is too long are replaced by eight digits of the phrase's hash.
    """
    spelled = composed(phrase).strip().lower()
    name = re.sub(r"[^a-z0-9._+]+", "-", spelled).strip("-._+")
    whole = len(name) <= _NAME and not any(c.isalnum() and not c.isascii() for c in spelled)
    if name and whole:
        return name
    return f"{name[: _NAME - 9].strip('-._+') or 'concept'}-{identity.key(spelled)[:8]}"


def _require_words(phrase: str, option: str) -> None:
    if not phrase.strip():
        raise SpecError("a phrase is empty", where=option, next_step=f"write words, such as {option} star")


def _concept(phrase: str, synonyms: Sequence[str], neighbours: Sequence[str]) -> Concept:
    _require_words(phrase, "--concept")
    for synonym in synonyms:
        _require_words(synonym, "--synonym")
    return Concept(name=name_of(phrase), phrase=phrase, synonyms=tuple(synonyms), neighbours=tuple(neighbours))


def _neighbour(phrase: str) -> str:
    """Return the name of a neighbour, which is preserved under the very words that its name spells."""
    _require_words(phrase, "--neighbour")
    name = name_of(phrase)
    spelled = words_of(name)
    if spelled != " ".join(phrase.lower().split()):
        raise SpecError(
            f"the neighbour {phrase!r} would be preserved as {spelled!r}: it can hold Latin letters, digits and spaces, "
            f"at most {_NAME} characters",
            where="--neighbour",
            next_step="write it in such words",
        )
    return name


def _parameters(settings: Sequence[str]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise SpecError(f"{setting!r} is not key=value", where="--set", next_step="write --set iterations=100")
        try:
            value = load_yaml(text)
        except yaml.YAMLError:
            raise SpecError(f"the value of {key} is not valid YAML", where="--set", next_step="quote it") from None
        # YAML 1.1 reads 1e-5 as text because it lacks a dot.
        parameters[key.strip()] = float(text) if isinstance(value, str) and _is_number(text) else value
    return parameters


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


class OtherArtefact(EraserError):
    """The output folder holds an artefact that answers another request."""


def fulfil(
    request: Request, out: Path, *, device: str | None = None, listener: Listener | None = None, official: bool = True
) -> tuple[Path, Record | None]:
    """Erase into `out`; return the artefact's path and its record, None when `out` held this very artefact already.

    An interrupted training goes on where it stopped when the same request is fulfilled again. Before anything is loaded,
    raises `SpecError` when the method cannot act on the backbone, `OtherArtefact` when `out` holds another artefact,
    `EraserError` when it holds files of somebody else and `EnvironmentProblem` when it cannot be written; afterwards
    everything that loading and erasing raise.
    """
    parameters = request.resolved()
    from audit.diffusion.devices import pick_device
    from audit.diffusion.pipeline import load_pipeline
    from audit.erasers import saving
    from audit.erasers.produce import produce, request_key
    from audit.progress import Session, Silent
    from audit.weights.families import require_family
    from audit.weights.references import pipeline_family, resolve_model

    chosen, ref = pick_device(device), resolve_model(request.backbone)
    families = erasers.find(request.method).families
    require_family(pipeline_family(ref), families, f"eraser {request.method!r}", "erase")
    artefact = saving.held(out)
    if artefact and artefact.key != request_key(ref, request.method, request.concepts, parameters):
        raise OtherArtefact(
            "the output folder holds another artefact",
            where=str(artefact.path),
            next_step="name another folder with --out, or remove this one",
        )
    if artefact and artefact.complete:
        return artefact.path, None
    saving.prepare(out)
    pipeline = load_pipeline(ref, chosen)
    session = Session(folder=out / saving.UNFINISHED, listener=listener or Silent())
    odd = erasers.oddity(request.method, request.preset or erasers.default_preset(request.method, request.backbone))
    if odd:
        session.listener.note(f"as the official code does: {odd}")
    erased = produce(pipeline, request.method, request.concepts, parameters, session)
    return saving.save(erased, out, official=official), erased.record


def summary(record: Record) -> Mapping[str, object]:
    """Return the facts of a record that a person wants first, by label."""
    change = record.change
    effect = ", ".join(f"{text or 'null prompt'} {value:.3f}" for text, value in change.effect.items())
    return {
        "erased": ", ".join(record.prompts),
        "preserved": ", ".join(record.preserved) or "-",
        "changed": f"{change.tensors} tensors, {change.parameters:,} parameters ({change.parameter_share:.2%})",
        "effect": effect,
        "loss": f"{record.curve[0].loss:.5f} -> {record.curve[-1].loss:.5f}" if record.curve else "closed form",
        "seconds": round(record.seconds, 1),
    }
