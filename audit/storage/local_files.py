"""Give finished files their names on a local file system: of several writers one wins, and what has a name stays."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path

_CLAIM_SECONDS = 10.0
# What file systems without hard links answer (NFS, SMB, FAT, FUSE), or with a folder on another one mounted inside.
_NO_LINKS = (
    errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.EXDEV, errno.EMLINK,
)  # fmt: skip


def link_new(temporary: Path, target: Path) -> bool:
    """Give the finished file its name unless that is taken; return whether it was given."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with _claimed(target):
            if target.exists():
                return False
            os.replace(temporary, target)
    return True


@contextlib.contextmanager
def _claimed(target: Path) -> Iterator[None]:
    """Let one writer at a time into the block for `target`, on a file system without hard links, by a file as a lock.

    A lock that a killed writer left is taken over after `_CLAIM_SECONDS`; asking and renaming take far less.
    """
    claim = target.with_name(f".{target.name}.claim")
    deadline = time.monotonic() + _CLAIM_SECONDS
    while True:
        try:
            os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            break
        except FileExistsError:
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            os.unlink(claim)


def sync_folder(folder: Path) -> None:
    """Make a rename durable; a file system without folder fsync is left to its own guarantees."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
