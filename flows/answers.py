"""The answers of a new spec's writer: the flags of `init`, and questions on the terminal about what they leave open."""

from __future__ import annotations

import dataclasses
import difflib
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from audit import erasers, guards
from audit.errors import AuditError, SpecError
from audit.spec import starter
from audit.spec.content import is_sexual
from audit.spec.presets import NAMES, Preset, load_preset

NO_ERASER = "none"
UNDECLARED = "third-party"  # the method of a checkpoint of which nobody says how it was made
DEFAULT_ERASER = "uce"  # makes its model in seconds


@dataclasses.dataclass(frozen=True)
class Flags:
    """The flags of `init`, by the names of its options; what is not given is None or empty."""

    preset: str | None = None
    concept: str | None = None
    synonyms: tuple[str, ...] = ()
    neighbours: tuple[str, ...] = ()
    backbone: str | None = None
    erased_with: str | None = None
    checkpoint: str | None = None
    guards: tuple[str, ...] = ()
    scenarios: tuple[str, ...] = ()
    judges: tuple[str, ...] = ()
    corpus: str | None = None
    name: str | None = None

    @property
    def model(self) -> str:
        """The backbone; the default one when none is named."""
        return starter.STABLE_DIFFUSION if self.backbone is None else self.backbone

    @property
    def kind(self) -> str:
        """The preset; the one that fits the concept when none is named."""
        return self.preset or ("nudity" if self.concept is not None and is_sexual(self.concept) else "object")

    def loaded(self) -> Preset:
        """Return the preset itself; raises `SpecError` as `load_preset`."""
        return load_preset(self.kind, self.model)

    def command(self, file: Path) -> str:
        """Return the command that writes the same spec without a question."""
        words = ["erasure-audit", "init", str(file)]
        filled = dataclasses.replace(self, preset=self.kind, backbone=self.model)
        for field, option in _OPTIONS.items():
            value = getattr(filled, field)
            for text in value if isinstance(value, tuple) else () if value is None else (value,):
                words += [option, text]
        return shlex.join(words)


_OPTIONS = {
    "preset": "--preset", "concept": "--concept", "synonyms": "--synonym", "neighbours": "--neighbour",
    "backbone": "--backbone", "erased_with": "--erased-with", "checkpoint": "--checkpoint", "guards": "--guard",
    "scenarios": "--scenario", "judges": "--judge", "corpus": "--corpus", "name": "--name",
}  # fmt: skip


def require_writable(file: Path, force: bool) -> None:
    """Return when the spec may be written to `file`; raises `SpecError` for a folder, and without `force` for a file."""
    if file.is_dir():
        raise SpecError("it is a folder", where=str(file), next_step="name the file in it: erasure-audit init FILE")
    if file.name == starter.SCHEMA:
        raise SpecError("that is the schema's own name", where=str(file), next_step="give the spec another name")
    if file.exists() and not force:
        raise SpecError(
            "the file exists already", where=str(file), next_step="name another file, or overwrite it with --force"
        )


def spec_text(flags: Flags, file: Path) -> str:
    """Return the new spec. Raises `SpecError` for flags that are unknown or do not fit together."""
    return starter.write_spec(
        resolved(flags),
        command=flags.command(file),
        erasers=erasers.ERASERS.names(),
        guards=guards.names_without_parameters(),
    )


def resolved(flags: Flags) -> starter.Answers:
    """Return what the flags say, checked, with defaults filled in. Raises `SpecError` for what is unknown."""
    preset = flags.loaded()
    for name in flags.guards:
        _require_known(name, guards.names_without_parameters(), "guard")
        if flags.guards.count(name) > 1:
            raise SpecError(f"{name!r} is given twice", where="--guard", next_step="give it once")
    answers = starter.Answers(
        preset=preset,
        concept=preset.concept(flags.concept, flags.synonyms, flags.neighbours),
        backbone=flags.model,
        eraser=_eraser(flags),
        guards=flags.guards,
        corpus=flags.corpus,
        scenarios=flags.scenarios,
        judges=flags.judges,
        name=flags.name,
    )
    starter.check(answers)
    return answers


def _eraser(flags: Flags) -> dict[str, object] | None:
    """Return the eraser as a spec has it; None for guards alone."""
    method = flags.erased_with
    if flags.checkpoint is not None:
        if method == NO_ERASER:
            raise SpecError(
                "a checkpoint is given, and nothing was erased",
                where="--erased-with, --checkpoint",
                next_step="leave out one of them",
            )
        return {"method": method or UNDECLARED, "checkpoint": flags.checkpoint}
    if method == NO_ERASER or (method is None and flags.guards):
        if not flags.guards:
            raise SpecError(
                "there is nothing to audit: no eraser and no guard",
                where="--erased-with",
                next_step="name an eraser's method, a --checkpoint or a --guard",
            )
        return None
    method = method or DEFAULT_ERASER
    try:
        erasers.check_method(method)
    except SpecError as error:
        error.where = "--erased-with"
        raise
    return {"method": method, "preset": erasers.default_preset(method, flags.model)}


def _require_known(name: str, known: tuple[str, ...], what: str) -> None:
    if name not in known:
        close = difflib.get_close_matches(name.lower(), known, 1)
        meant = f"; did you mean {close[0]}?" if close else ""
        raise SpecError(
            f"there is no {what} {name!r}{meant}", where=f"--{what}", next_step=f"use one of: {', '.join(known)}"
        )


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, asked where `fields` of the flags are all empty; `answer` puts a text into the flags."""

    fields: tuple[str, ...]
    text: Callable[[Flags], str]
    default: Callable[[Flags], str]
    answer: Callable[[Flags, str], Flags]


def on_terminal() -> bool:
    """Return whether somebody can answer questions."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def asked(flags: Flags, *, interactive: bool) -> Flags:
    """Return the flags with the answers to questions about what they leave open; without a terminal, as they are.

    What is wrong with an answer is said, and the question asked again. Raises `SpecError` for flags that are wrong already,
    and when the answers end early.
    """
    resolved(flags)
    if not interactive:
        return flags
    for question in QUESTIONS:
        if any(getattr(flags, field) for field in question.fields):
            continue
        default = question.default(flags)
        while True:
            text = _ask(f"{question.text(flags)} [{default}]: ").strip()
            if not text:
                break
            try:
                candidate = question.answer(flags, text)
                resolved(candidate)
            except AuditError as error:
                print(f"  {error.what}; {error.next_step}", file=sys.stderr, flush=True)
            else:
                flags = candidate
                break
    return flags


def _ask(text: str) -> str:
    print(text, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        print(file=sys.stderr)
        raise SpecError(
            "the answers end before the questions do",
            where="erasure-audit init",
            next_step="answer by flags: erasure-audit init --help",
        )
    return line


def _several(text: str) -> tuple[str, ...]:
    return tuple(re.split(r"[,\s]+", text.strip(", \t\n")))


def _weights(flags: Flags, text: str) -> Flags:
    """Return a method's name, or else a checkpoint."""
    known = (*erasers.ERASERS.names(), NO_ERASER)
    looks_like_a_name = re.fullmatch(r"[\w-]+", text) is not None and not Path(text).exists()
    if text in known or looks_like_a_name:
        return dataclasses.replace(flags, erased_with=text)
    return dataclasses.replace(flags, checkpoint=text)


QUESTIONS = (
    Question(
        ("backbone",),
        lambda flags: "Which un-erased model: testbed, a folder, or org/name@<commit>?",
        lambda flags: starter.STABLE_DIFFUSION,
        lambda flags, text: dataclasses.replace(flags, backbone=text),
    ),
    Question(
        ("preset",),
        lambda flags: f"What kind of concept was erased: {', '.join(NAMES)}?",
        lambda flags: flags.kind,
        lambda flags, text: dataclasses.replace(flags, preset=text),
    ),
    Question(
        ("concept",),
        lambda flags: "Which concept, as prompts name it?",
        lambda flags: flags.loaded().concepts[0].phrase,
        lambda flags, text: dataclasses.replace(flags, concept=text),
    ),
    Question(
        ("guards",),
        lambda flags: f"Which guards act when it draws ({', '.join(guards.names_without_parameters())})?",
        lambda flags: "none",
        lambda flags, text: flags if text == "none" else dataclasses.replace(flags, guards=_several(text)),
    ),
    Question(
        ("erased_with", "checkpoint"),
        lambda flags: f"How was it erased: {', '.join(erasers.ERASERS.names())}, a checkpoint's path, or none?",
        lambda flags: NO_ERASER if flags.guards else DEFAULT_ERASER,
        _weights,
    ),
    Question(
        ("corpus",),
        lambda flags: "Where are pictures of it, for attacks by latents and embeddings: a folder, s3://..., or none?",
        lambda flags: "none",
        lambda flags, text: flags if text == "none" else dataclasses.replace(flags, corpus=text),
    ),
    Question(
        ("scenarios",),
        lambda flags: f"Which attacks ({', '.join(starter.SCENARIOS if flags.corpus else starter.PROMPTED)})?",
        lambda flags: ", ".join(starter.default_scenarios(flags.corpus)),
        lambda flags, text: dataclasses.replace(flags, scenarios=_several(text)),
    ),
    Question(
        ("judges",),
        lambda flags: f"Which judges decide ({', '.join(flags.loaded().detector_names())})?",
        lambda flags: ", ".join(flags.loaded().judges),
        lambda flags, text: dataclasses.replace(flags, judges=_several(text)),
    ),
)
