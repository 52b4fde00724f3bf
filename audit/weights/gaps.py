"""What a spec names and this machine lacks, collected instead of raised, so that a forecast can say all of it at once.

Inside `collecting`, a model or checkpoint that cannot be resolved is noted as a `Gap` and a stand-in takes its place: it
has a name and no files, and a digest that no bytes can have (`absent-...`), so that nothing can ever be computed from it
or be taken for it. Outside, which is everywhere but in `erasure-audit plan`, every such error is raised as it always is.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

from audit.errors import AbsentFile, AuditError, CheckpointError, CorpusError, MissingInstrument
from audit.identity import key

ABSENT = "absent-"  # what the digest of every stand-in starts with; real ones are hexadecimal
NOWHERE = "(absent)"  # the folder of every stand-in; relative, with a name that nobody gives to a folder


@dataclasses.dataclass(frozen=True)
class Gap:
    """One thing that has to be there before the audit can run: what is wrong, where, and what to do about it."""

    kind: str  # model | checkpoint | corpus | embedding | prompts
    what: str
    where: str
    next_step: str


class Gaps:
    """The gaps found so far, each once."""

    def __init__(self) -> None:
        self.found: list[Gap] = []

    def add(self, kind: str, error: AuditError) -> None:
        """Note what `error` says."""
        gap = Gap(kind, error.what, error.where or "the spec", error.next_step or "mend it, then plan again")
        if gap not in self.found:
            self.found.append(gap)


_CURRENT: contextvars.ContextVar[Gaps | None] = contextvars.ContextVar("gaps", default=None)


@contextlib.contextmanager
def collecting() -> Iterator[Gaps]:
    """Collect gaps inside this block."""
    gaps = Gaps()
    token = _CURRENT.set(gaps)
    try:
        yield gaps
    finally:
        _CURRENT.reset(token)


def current() -> Gaps | None:
    """The collection of the block around the caller; None where errors are raised."""
    return _CURRENT.get()


def absent_digest(name: str) -> str:
    """The digest of a stand-in for `name`: 64 characters as a real one, and never equal to one."""
    return (ABSENT + key(name))[:64]


def is_absent(digest: str) -> bool:
    """Whether a digest is that of a stand-in."""
    return digest.startswith(ABSENT)


@contextlib.contextmanager
def noted(kind: str) -> Iterator[None]:
    """Note instead of raise, inside `collecting`, what files of the block's work are missing or unusable.

    What is missing because a stand-in has no files is a consequence of a gap that is known already, and is not noted.
    Mistakes of the spec are raised in any case.
    """
    gaps = current()
    try:
        yield
    except (AbsentFile, CheckpointError, CorpusError, MissingInstrument) as error:
        if gaps is None:
            raise
        if NOWHERE not in (error.where or ""):
            gaps.add(kind, error)
