"""Find the folders of this user that libraries write to, or a private temporary one where there are none.

Containers often have a user id without a name, no HOME, and a read-only root file system.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pwd
import stat
import tempfile
from pathlib import Path

PREFECT = "PREFECT_HOME"


def settle() -> list[str]:
    """Give every library a folder it can write to; return sentences about what lies elsewhere than usual.

    What the user has set stays, and so does everything that can be written where it usually lies.
    """
    notices = []
    home = _home()
    if home is None or not (home.is_dir() or writable(home)):
        missing = "HOME is not set and this user has no home folder" if home is None else f"there is no {home}"
        other = temporary_folder()
        if other is None:
            os.environ["HOME"] = str(home or "/")  # whoever asks gets an answer, and an error only on writing
            return [f"{missing}, and no temporary folder can be written: set HOME, or TMPDIR"]
        os.environ["HOME"] = str(other)
        notices.append(f"{missing}: caches and Prefect's records go to {other}")
    elif not os.environ.get("HOME"):
        os.environ["HOME"] = str(home)  # libraries in C and C++ do not ask for the user's name
    notices += _move_prefect()
    return notices


def writable(path: Path) -> bool:
    """Return whether `path` is a folder that this user can write to, or can be created as one."""
    while not os.path.lexists(path) and path != path.parent:
        path = path.parent
    return path.is_dir() and os.access(path, os.W_OK | os.X_OK)


def cache_folder() -> Path:
    """Return `$XDG_CACHE_HOME`, else `~/.cache`; a private temporary folder when that cannot be written."""
    usual = _usual_cache()
    if writable(usual / "erasure-audit"):
        return usual
    other = temporary_folder()
    return other / "cache" if other else usual


def prefect_home() -> Path:
    """Return the folder of Prefect's database and settings, as the environment now gives it."""
    return Path(os.environ.get(PREFECT) or Path.home() / ".prefect").expanduser()


@functools.cache
def temporary_folder() -> Path | None:
    """Return a temporary folder that only this user can read, the same for all processes. None when there is no place
    for it.
    """
    try:
        folder = Path(tempfile.gettempdir()) / f"erasure-audit-{os.getuid()}"
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077:
            return folder
        return Path(tempfile.mkdtemp(prefix="erasure-audit-"))  # somebody else has taken the name
    except OSError:
        return None


def _home() -> Path | None:
    """Return the home folder by HOME, else by the list of users; None when neither knows one."""
    home = os.environ.get("HOME")
    if not home:
        try:
            home = pwd.getpwuid(os.getuid()).pw_dir
        except KeyError:
            return None
    return Path(home).absolute()


def _usual_cache() -> Path:
    folder = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return folder if folder.is_absolute() else Path.home() / ".cache"


def _move_prefect() -> list[str]:
    """Set Prefect's home where the usual one cannot be written; return a sentence about it.

    Profiles are still read from the usual one.
    """
    usual = Path.home() / ".prefect"
    if os.environ.get(PREFECT) or writable(usual):
        return []
    other = temporary_folder()
    if other is None:
        return [f"{usual} cannot be written, nor a temporary folder: set {PREFECT}, or TMPDIR"]
    os.environ[PREFECT] = str(other / "prefect")
    profiles = usual / "profiles.toml"
    if os.access(profiles, os.R_OK):
        os.environ.setdefault("PREFECT_PROFILES_PATH", str(profiles))
    return [f"{usual} cannot be written: Prefect's records go to {other / 'prefect'}"]
