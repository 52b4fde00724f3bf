"""Read files from outside within bounds, write files whole or not at all, and lock a file for one process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from audit.errors import AuditError, EnvironmentProblem

# A JSON or YAML object, or a mapping out of a pickle, as it was read: its values are checked where they are used.
Document: TypeAlias = Mapping[str, Any]
_HELD = (errno.EAGAIN, errno.EACCES, errno.EWOULDBLOCK)


class NoLocks(OSError):
    """The file system has no locks: network mounts without a lock service, some FUSE and SMB mounts."""


def try_lock(handle: int) -> bool:
    """Return whether this process now holds the lock of an open file; False while another process does.

    Raises `NoLocks`, whose `strerror` is the system's own, where files cannot be locked at all.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise NoLocks(error.errno, error.strerror) from None
    return True


def check_lockable(path: Path) -> None:
    """Check that the file at `path` can be locked. Raises `NoLocks`, or `OSError` when it cannot be opened."""
    handle = os.open(path, os.O_RDWR)
    try:
        try_lock(handle)
    finally:
        os.close(handle)


_DEEPEST = 64  # levels of lists and objects
_DIGITS = 300  # of one integer: no float reaches further
# Strings are skipped as a whole, also one that never ends: brackets in them open nothing.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class ForeignError(ValueError):
    """Bytes from outside that cannot be used; the message is a short reason in plain words."""


def open_regular(path: Path) -> BinaryIO:
    """Return a regular file, opened to read its bytes; links are followed.

    Raises `ForeignError` for folders, named pipes, sockets and devices, none of which is read. An `OSError` of the file
    system passes through.
    """
    try:
        _require_regular(path.stat())
        # Not blocking: what was a file a moment ago may be a named pipe now.
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ForeignError:
        raise
    except ValueError:  # a NUL or half a surrogate pair in the name
        raise ForeignError("its name is none that a file can have") from None
    stream = os.fdopen(handle, "rb")
    try:
        _require_regular(os.fstat(handle))
    except ForeignError:
        stream.close()
        raise
    return stream


def read_bounded(path: Path, limit: int) -> bytes:
    """Return the content of a regular file of at most `limit` bytes; links are followed.

    Raises `ForeignError` for a larger file and for folders, named pipes, sockets and devices, none of which is read.
    An `OSError` of the file system passes through.
    """
    with open_regular(path) as stream:
        size = os.fstat(stream.fileno()).st_size
        if size > limit:
            raise ForeignError(f"it has {size} bytes, and at most {limit} are read")
        content = stream.read(limit + 1)
    if len(content) > limit:
        raise ForeignError(f"it has more than {limit} bytes, and no more are read")
    return content


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON document.

    Raises `ForeignError` for what is not UTF-8 or not JSON, for lists and objects nested deeper than 64 levels, for
    integers of more than 300 digits and for text that no encoding can write. NaN and Infinity are read as `json` does.
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ForeignError(f"it is not UTF-8 text (byte {error.start})") from None
    _check_depth(text)
    try:
        value = json.loads(text, parse_int=_integer)
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except json.JSONDecodeError as error:
        raise ForeignError(f"it is not valid JSON (line {error.lineno}, column {error.colno})") from None
    except UnicodeEncodeError:
        raise ForeignError("it holds half a surrogate pair, which is no character") from None
    return value


def reason(error: BaseException) -> str:
    """Return the message of a foreign file's parser in one line. An interruption and our own errors are raised again.

    A panic of a library in Rust is no `Exception`, and its class can only be told by its name.
    """
    if isinstance(error, AuditError) or not (isinstance(error, Exception) or type(error).__name__ == "PanicException"):
        raise error
    return " ".join(str(error).split())[:300] or type(error).__name__


def _require_regular(status: os.stat_result) -> None:
    for matches, name in _KINDS:
        if matches(status.st_mode):
            raise ForeignError(f"it is {name}, not a file")


def _check_depth(text: str) -> None:
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        sign = match[0][0]
        if sign in "[{":
            depth += 1
            if depth > _DEEPEST:
                raise ForeignError(f"it is nested deeper than {_DEEPEST} levels")
        elif sign in "]}":
            depth -= 1


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > _DIGITS:
        raise ForeignError(f"it holds an integer of more than {_DIGITS} digits")
    return int(digits)


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def partial(path: Path) -> Path:
    """Return the path that a file is written to before it gets its name; for one that only this process writes."""
    return path.with_name(f".{path.name}.partial")


def shared(path: Path) -> Path:
    """Return the path that this process writes a file to that others may write at the same time."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}")


def _renamed(unfinished: Path, path: Path) -> bool:
    os.replace(unfinished, path)
    return True


def place(
    path: Path,
    write: Callable[[Path], object],
    *,
    unfinished: Path | None = None,
    finish: Callable[[Path, Path], bool] = _renamed,
) -> bool:
    """Write a file by `write(path)` so that it exists whole or not at all, whenever the process is killed.

    It is written as `unfinished`, on the same file system, and `finish` gives it its name: by default in the place of
    what is there. Return what `finish` says. An `OSError` passes through, and nothing is left of the file then.
    """
    unfinished = unfinished or partial(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        write(unfinished)
        with unfinished.open("rb") as stream:
            os.fsync(stream.fileno())
        unfinished.chmod(0o666 & ~_umask())  # safetensors writes files that only their owner can read
        return finish(unfinished, path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to write to that gets the name `folder` when the block ends, whole; nothing is left when it raises.

    Raises `EnvironmentProblem` when something is there, an empty folder apart, and when it cannot be written.
    """
    folder = Path(os.path.abspath(folder))
    unfinished = shared(folder)
    try:
        if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
            raise EnvironmentProblem(
                "the folder is in use, and nothing is overwritten", where=str(folder), next_step="name a new folder"
            )
        unfinished.mkdir(parents=True)
        yield unfinished
        os.replace(unfinished, folder)
    except OSError as error:
        raise EnvironmentProblem(
            f"the folder cannot be written: {error.strerror or error}",
            where=str(folder),
            next_step="make room, or name a folder that can be written",
        ) from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file as `place` does. Raises `EnvironmentProblem` when it cannot be written."""
    try:
        place(path, write)
    except (OSError, RuntimeError) as error:  # torch reports a full disk as a RuntimeError
        reason = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise EnvironmentProblem(
            f"{path.name} cannot be written: {reason}",
            where=str(path.parent),
            next_step="make room or name a folder that can be written, then run the same command again",
        ) from error
