"""Inputs of a spec after look-up: files with their digests and, where one cannot be used, the reason.

Nothing here reads a file; `audit.plan.resolve` does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from audit.checkpoints.personalisation import PersonalisationRef
from audit.corpus.manifest import MANIFEST_SCHEMA, manifest_sha256
from audit.corpus.prompts import PromptSet
from audit.diffusion.text import check_tokenizer, load_t5_tokenizer, load_tokenizer
from audit.errors import AbsentFile, AuditError, CheckpointError, CorpusError, MissingInstrument
from audit.identity import key
from audit.plan.benign import BenignPrompt
from audit.records import Instrument, QualityInstrument
from audit.spec.document import Spec
from audit.weights.checkpoints import CheckpointRef
from audit.weights.families import family_of
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5TokenizerFast

Kind = Literal["model", "checkpoint", "corpus", "embedding", "prompts"]
ABSENT = "absent-"  # what the digest of everything missing starts with; real ones are hexadecimal
# About files, packages and storage of this machine, which somebody can put there. Every other error is a mistake.
_OF_THE_MACHINE = (AbsentFile, CheckpointError, CorpusError, MissingInstrument)


@dataclasses.dataclass(frozen=True)
class Problem:
    """A problem that keeps an audit from running: what is wrong, where, and what to do about it."""

    kind: Kind
    what: str
    where: str
    next_step: str
    error: AuditError = dataclasses.field(compare=False, repr=False)
    mistake: bool = dataclasses.field(compare=False)  # no file or package that is fetched can mend it

    @classmethod
    def of(cls, kind: Kind, error: AuditError, *, mistake: bool = False) -> Problem:
        """Return the problem of `error`. It is a mistake of the spec if `mistake`, or if the error is not about this machine."""
        where, next_step = error.where or "the spec", error.next_step or "mend it, then plan again"
        return cls(kind, error.what, where, next_step, error, mistake or not isinstance(error, _OF_THE_MACHINE))

    def as_row(self) -> dict[str, str]:
        """Return the problem as one JSON object for a reader."""
        return {"kind": self.kind, "what": self.what, "where": self.where, "next_step": self.next_step}


@dataclasses.dataclass(frozen=True)
class Missing:
    """A placeholder for an input that cannot be used here. Its type keeps it from being computed with."""

    name: str  # as the spec writes it
    error: AuditError

    @property
    def sha256(self) -> str:
        """Return a stand-in digest for the name, which is that of no bytes."""
        return absent_digest(self.name)


def absent_digest(name: str) -> str:
    """Return 64 characters in the form of a digest, which is that of no bytes."""
    return (ABSENT + key(name))[:64]


def is_absent(digest: str) -> bool:
    """Return whether a digest stands for something missing."""
    return digest.startswith(ABSENT)


@dataclasses.dataclass(frozen=True)
class CorpusItem:
    """One planned reference image. `item` is its pixel hash, or a name of its own when it cannot be decoded."""

    item: str
    uri: str
    region: str | None = None  # pixel hash of the mask of the concept's region; None where no instrument asks for it
    region_uri: str | None = None
    attributes: str | None = None  # a JSON object of what the corpus says of the picture; None where it says nothing


@dataclasses.dataclass(frozen=True)
class Pictures:
    """The reference pictures of a corpus. `items` may include names of pictures that are still missing; see `problems`."""

    items: Mapping[str, Sequence[CorpusItem]] = dataclasses.field(default_factory=dict)  # by concept, in a fixed order
    empty: Mapping[str, CorpusError] = dataclasses.field(
        default_factory=dict
    )  # by concept: its entries have no objects
    manifest: pa.Table = dataclasses.field(default_factory=MANIFEST_SCHEMA.empty_table, compare=False)
    problems: tuple[Problem, ...] = ()

    def facts(self) -> dict[str, object]:
        """Return the manifest's number of objects and its digest."""
        return {"objects": self.manifest.num_rows, "sha256": manifest_sha256(self.manifest)}


@dataclasses.dataclass(frozen=True)
class EmbeddingFile:
    """A learned embedding that the spec brings; its content has not been read."""

    path: Path
    sha256: str


@dataclasses.dataclass(frozen=True)
class Measuring:
    """A detector's instrument, and the rules by which its scores count."""

    instrument: Instrument
    rules: Sequence[Mapping[str, object]]


class Tokenizers:
    """The tokenizers of model folders, each loaded once, when it is first asked for."""

    def __init__(self) -> None:
        self._loaded: dict[Path, CLIPTokenizer] = {}

    def of(self, folder: Path) -> CLIPTokenizer:
        """Return the tokenizer saved in `folder`. Raises `CheckpointError` when it cannot be loaded."""
        if folder not in self._loaded:
            self._loaded[folder] = load_tokenizer(folder)
        return self._loaded[folder]

    def backbone(self, model: ModelRef) -> CLIPTokenizer:
        """Return the tokenizer of a pipeline folder. Raises `CheckpointError` when it does not fit the text encoder."""
        folder = model.path / "tokenizer"
        if folder not in self._loaded:
            self._loaded[folder] = check_tokenizer(model)
        return self._loaded[folder]

    def attended(self, model: ModelRef) -> CLIPTokenizer | T5TokenizerFast:
        """Return the tokenizer of the text that a pipeline's attention reads first: Flux reads T5's."""
        if family_of(read_json(model.path / "model_index.json"), {}, {}) == "flux":
            return load_t5_tokenizer(model.path / "tokenizer_2")
        return self.backbone(model)


@dataclasses.dataclass(frozen=True)
class Resolved:
    """Everything that a spec names, looked up once. An input that cannot be used is a `Missing`, and one of the `problems`.

    `spec` is the user's, with its section `benign` filled in.
    """

    spec: Spec
    backbone: ModelRef | Missing
    benign: Sequence[BenignPrompt] = ()
    energies: Mapping[str, ModelRef | Missing] = dataclasses.field(
        default_factory=dict
    )  # of guards and guidance, by name
    networks: Mapping[str, ModelRef | Missing] = dataclasses.field(default_factory=dict)  # of judges, by whose it is
    checkpoints: Mapping[str, CheckpointRef | Missing] = dataclasses.field(default_factory=dict)  # by name
    personalisations: Mapping[str, PersonalisationRef | Missing] = dataclasses.field(default_factory=dict)  # by name
    embeddings: Mapping[tuple[str, str], EmbeddingFile | Missing] = dataclasses.field(
        default_factory=dict
    )  # by scenario and concept
    prompt_sets: Mapping[str, PromptSet | Missing] = dataclasses.field(default_factory=dict)  # by scenario
    detectors: Mapping[str, Measuring | Missing] = dataclasses.field(default_factory=dict)  # by name
    quality: Mapping[str, QualityInstrument | Missing] = dataclasses.field(default_factory=dict)  # by name
    pictures: Pictures = dataclasses.field(default_factory=Pictures)
    tokenizers: Tokenizers = dataclasses.field(default_factory=Tokenizers, compare=False)
    problems: tuple[Problem, ...] = ()

    def require_complete(self) -> None:
        """Raise the error of the first problem, if there is one."""
        raise_first(self.problems)

    def require_no_mistake(self) -> None:
        """Raise the error of the first mistake of the spec, if there is one. Missing files, packages and storage are none."""
        raise_first([problem for problem in self.problems if problem.mistake])

    def energy_digests(self) -> dict[str, str]:
        """Return the digest of every energy model, by name."""
        return {name: model.sha256 for name, model in self.energies.items()}


def raise_first(problems: Sequence[Problem]) -> None:
    """Raise the error of the first problem, if there is one."""
    for problem in problems:
        raise problem.error
