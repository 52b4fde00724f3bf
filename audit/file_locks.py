"""Advisory locks on files: held by one process, waited for, or not to be had on this file system."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

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
    """Return when the file at `path` can be locked by some process. Raises `NoLocks`, or `OSError` when it cannot be opened."""
    handle = os.open(path, os.O_RDWR)
    try:
        try_lock(handle)
    finally:
        os.close(handle)
