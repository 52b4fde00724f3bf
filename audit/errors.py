"""Errors that name the next step. Every mistake that a user can cause is an `AuditError`; any other exception is a defect."""

from __future__ import annotations

EXIT_PASS = 0
EXIT_CRASH = 1
EXIT_USAGE = 2
EXIT_FAIL = 3
EXIT_INCONCLUSIVE = 4
EXIT_NOT_VERIFIED = 5
EXIT_INTERRUPTED = 130


class AuditError(Exception):
    """A mistake or a missing thing that the user can mend.

    `what` says what is wrong, `where` names the file, field or service, `next_step` names a command or an edit.
    The command line prints it without a traceback and ends with `exit_code`.
    """

    exit_code = EXIT_USAGE

    def __init__(self, what: str, *, where: str | None = None, next_step: str | None = None) -> None:
        self.what, self.where, self.next_step = what, where, next_step
        super().__init__(what)

    def __str__(self) -> str:
        lines = [self.what]
        if self.where:
            lines.append(f"  where: {self.where}")
        if self.next_step:
            lines.append(f"  next:  {self.next_step}")
        return "\n".join(lines)


class Interrupted(AuditError):
    """Ctrl-C or SIGTERM; `what` says how to go on."""

    exit_code = EXIT_INTERRUPTED


class SpecError(AuditError):
    """The spec is malformed, contradicts itself or asks for something forbidden."""


class AbsentFile(SpecError):
    """A file that the spec names cannot be opened: it is not there, or not for this user."""


class CorpusError(AuditError):
    """The corpus cannot be listed, read or used."""


class CheckpointError(AuditError):
    """A model folder or an erased checkpoint is missing, unreadable, of another family, or changes nothing."""


class EraserError(AuditError):
    """An eraser selects no parameters, changes nothing, diverges, or is asked for something it cannot do."""


class JournalError(AuditError):
    """The storage root cannot be read or written, or a journal file is corrupt."""


class StoreError(AuditError):
    """The DuckDB index is locked, corrupt or out of date."""


class DetectorError(AuditError):
    """A detector cannot be used: missing weights or package, an input it cannot read, a threshold below its floor."""


class MissingInstrument(DetectorError):
    """The package or the weights that a detector or a quality instrument reads with are not on this machine."""


class LabelsError(AuditError):
    """Labels of pictures cannot be exported, read, or used for this run."""


class EnvironmentProblem(AuditError):
    """The machine lacks something the run needs: disk, device, package, Prefect API, concurrency limit."""


class DeviceLost(EnvironmentProblem):
    """The device stopped answering while it computed. The unit it was computing is not journalled."""


class KeyProblem(AuditError):
    """A key file cannot be read, written or used."""


class EvidenceError(AuditError):
    """A run cannot be sealed, or a folder is no bundle that can be signed."""


class NotVerified(AuditError):
    """Evidence does not show what it says: a signature, a digest or a derivation does not hold."""

    exit_code = EXIT_NOT_VERIFIED
