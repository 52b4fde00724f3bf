"""Children on machines of other kinds: a user id without a name, a home that cannot be written, streams that break."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
NAMELESS = 54321  # a user id that no list of users has
SETTLED = (
    "HOME",
    "PREFECT_",
    "XDG_",
    "TMPDIR",
    "HF_",
    "ORT_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "GX_",
    "DO_NOT",
)
CI = ("CI", "GITHUB_ACTIONS", "GITLAB_CI", "TF_BUILD", "BUILDKITE", "JENKINS_URL")


def fresh_environment(**changes: str) -> dict[str, str]:
    """This process's environment without what is settled for it, its home included, but for `changes`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(SETTLED)
        and not name.lower().endswith("_proxy")
        and name not in (*CI, "PYTHONUNBUFFERED")
    }
    return {**kept, "PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", **changes}


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that any user can write to; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="machines-"))
    folder.chmod(0o777)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# An interpreter whose own folder is closed to it runs on another one's library, and starts no children.
_PROBE = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True); print(sys.base_prefix)"


@functools.cache
def _as_nameless() -> list[str]:
    """The command that runs another one as a user without a name, who can read what this one can; skips without a way.

    Nothing for anybody but root, who cannot become somebody else: what such a user may not write is the same.
    """
    if os.getuid() != 0:
        return []
    become = ["setpriv", f"--reuid={NAMELESS}", f"--regid={NAMELESS}", "--clear-groups"]
    reading = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=+dac_read_search"]  # an interpreter below /root
    for command in (become, [*become, *reading]):
        with contextlib.suppress(OSError):
            tried = subprocess.run(
                [*command, sys.executable, "-c", _PROBE], capture_output=True, text=True, cwd="/", check=False
            )
            if tried.stdout.strip() == sys.base_prefix:
                return command
    pytest.skip("no way here to run Python as another user")


def nameless(
    arguments: list[str], environment: Mapping[str, str], cwd: Path, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """A finished Python process of a user without a name, when this one may choose; of this user otherwise."""
    return subprocess.run(
        [*_as_nameless(), sys.executable, *arguments], env=dict(environment), cwd=cwd, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False, timeout=seconds,
    )  # fmt: skip
