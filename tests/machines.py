"""Children on machines of other kinds: a user id without a name, a home that cannot be written, streams that break."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
NAMELESS = 54321  # a user id that no list of users has
SETTLED = (
    "HOME",
    "PREFECT_",
    "XDG_",
    "MPLCONFIGDIR",
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


def nameless(
    arguments: list[str], environment: Mapping[str, str], cwd: Path, seconds: float = 120
) -> subprocess.CompletedProcess[str]:
    """A finished Python process of a user without a name, when this one may choose; of this user otherwise."""
    who = {"user": NAMELESS, "group": NAMELESS, "extra_groups": []} if os.getuid() == 0 else {}
    return subprocess.run(
        [sys.executable, *arguments], env=dict(environment), cwd=cwd, capture_output=True, text=True,
        stdin=subprocess.DEVNULL, check=False, timeout=seconds, **who,  # type: ignore[call-overload]
    )  # fmt: skip
