"""The documents of labelling, each with its format's name and version: task, hidden record, a rater's file, stored labels."""

from __future__ import annotations

import datetime as dt
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from audit.errors import LabelsError
from audit.files import ForeignError, parse_json
from audit.identity import canonical, key

VERSION = 1
DOMAINS = ("generated", "reference")
Domain = Literal["generated", "reference"]
Answer = Literal["hit", "clear", "unassessed"]  # as `records.Outcome`
Sample = Literal["random", "hits", "clears"]  # only `random` calibrates; see the package
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PictureId = Annotated[str, Field(pattern=r"^[0-9a-f]{16}$")]
Count = Annotated[int, Field(ge=0, le=10**9)]
AnyDocument = TypeVar("AnyDocument", bound="Document")


class Label(StrEnum):
    """What a rater says of one picture."""

    SHOWS = "shows"
    DOES_NOT = "does-not"
    CANNOT_TELL = "cannot-tell"


class Part(BaseModel):
    """Part of a document: frozen, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Document(Part):
    """A document with its format's name and version."""

    FORMAT: ClassVar[str]
    format: str
    version: int

    def digest(self) -> str:
        """Return the hex SHA-256 of the document's canonical JSON."""
        return key(self.model_dump(mode="json"))

    def encoded(self) -> bytes:
        """Return the document's canonical JSON."""
        return canonical(self.model_dump(mode="json")).encode()

    @classmethod
    def new(cls, **fields: Any) -> Self:
        """Return a document of this version."""
        return cls(format=cls.FORMAT, version=VERSION, **fields)


class Question(Part):
    """A concept and the words in which raters are asked for it."""

    name: str
    phrase: str


class Stratum(Part):
    """How many pictures of a concept and domain there are of one kind, and how many of them are labelled."""

    concept: str
    domain: Domain
    sample: Sample
    pictures: Count
    drawn: Count


class TaskPicture(Part):
    """One picture to label. `file` is None for one that could not be blurred and is withheld."""

    id: PictureId
    concept: str
    pixel_sha256: Digest
    file: str | None
    file_sha256: Digest | None


class Task(Document):
    """What raters get: pictures in the order in which they are shown, and nothing that a judge said of any of them.

    `record` is the digest of the hidden `Record`: what the judges said was fixed before anybody labelled.
    """

    FORMAT = "erasure-audit label task"
    run_id: str
    exported_at: str
    seed: int
    questions: tuple[Question, ...]
    strata: tuple[Stratum, ...]
    pictures: tuple[TaskPicture, ...]
    record: Digest


class Judge(Part):
    """A judge of one concept: everything on which its answer depends. Another threshold is another judge."""

    detector: str
    instrument_id: int  # covers weights, preprocessing and parameters
    concept: str
    phrase: str
    threshold: float
    labels: tuple[str, ...]  # of the detector that count as the concept, sorted


class RecordedPicture(Part):
    """What is kept from raters about one picture."""

    id: PictureId
    concept: str
    pixel_sha256: Digest
    domain: Domain
    sample: Sample
    defended: bool  # of an audited cell, not of the un-erased model or the corpus
    outcomes: dict[str, Answer]  # by detector


class Record(Document):
    """The part of a task that stays below the storage root until the labels are in."""

    FORMAT = "erasure-audit label record"
    salt: str  # without it the digest in the task would tell who tries all outcomes
    judges: tuple[Judge, ...]
    pictures: tuple[RecordedPicture, ...]


class Exported(Document):
    """Task and record together, as they are kept with the run."""

    FORMAT = "erasure-audit label export"
    task: Task
    record: Record


def _utc(text: str) -> str:
    """Return a time as ISO 8601 in UTC, to the second."""
    at = dt.datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError("a time without a time zone")
    try:
        return at.astimezone(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    except OverflowError:
        raise ValueError("a time outside of the years 1 to 9999") from None


class RaterFile(Document):
    """What the page saves: one rater's label for each picture id."""

    FORMAT = "erasure-audit labels"
    run_id: str
    task: str
    rater: Annotated[str, Field(max_length=80)]
    started_at: str
    saved_at: str
    labels: dict[str, Label]

    @field_validator("started_at", "saved_at")
    @classmethod
    def _time(cls, text: str) -> str:
        return _utc(text)

    @field_validator("rater")
    @classmethod
    def _name(cls, text: str) -> str:
        name = " ".join(text.split())
        if not name or not name.isprintable():
            raise ValueError("a name of letters is needed")
        return name


class Rater(Part):
    """Who labelled, and when."""

    name: str
    started_at: str
    saved_at: str


class LabelledPicture(RecordedPicture):
    """A picture with the raters' labels, in the order of `StoredLabels.raters`."""

    labels: tuple[Label, Label]


class StoredLabels(Document):
    """Two raters' labels of one task with what the judges said: all that a calibration is counted from. No pixels."""

    FORMAT = "erasure-audit stored labels"
    run_id: str
    task: Digest
    exported_at: str
    raters: tuple[Rater, Rater]
    strata: tuple[Stratum, ...]
    judges: tuple[Judge, ...]
    pictures: tuple[LabelledPicture, ...]

    @property
    def labelled_at(self) -> str:
        """When the first of the raters was done."""
        return min(rater.saved_at for rater in self.raters)


def parse(kind: type[AnyDocument], data: bytes, where: str, next_step: str) -> AnyDocument:
    """Return a document of `kind`. Raises `LabelsError`: unreadable, another format, a newer version, or damaged."""
    try:
        document = parse_json(data)
    except ForeignError as error:
        raise LabelsError(f"the labels cannot be read: {error}", where=where, next_step=next_step) from None
    found = document.get("format") if isinstance(document, dict) else None
    if found != kind.FORMAT:
        raise LabelsError(f"this is no file of the kind {kind.FORMAT!r}", where=where, next_step=next_step)
    version = document.get("version")
    if type(version) is int and version > VERSION:
        raise LabelsError(
            f"this file is of version {version}, and this erasure-audit reads version {VERSION}",
            where=where,
            next_step="use the erasure-audit that wrote it",
        )
    try:
        if version != VERSION or type(version) is not int:
            raise ValueError(f"its version is {str(version)[:40]!r}, which is none")
        return kind.model_validate(document)
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        field = ".".join(str(part)[:80] for part in detail["loc"])
        what = f"{field}: {str(detail['msg']).removeprefix('Value error, ')}"
    except ValueError as error:
        what = str(error)
    raise LabelsError(f"the labels have a mistake: {what}", where=where, next_step=next_step)
