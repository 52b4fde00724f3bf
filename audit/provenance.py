"""Describe the making of a run: versions, machine, code revision, and who decides. No environment variables."""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

_PACKAGES = (
    "erasure-audit", "torch", "diffusers", "transformers", "safetensors", "numpy", "pillow", "onnxruntime", "nudenet",
    "duckdb", "pyarrow", "pandas", "scipy", "prefect", "great-expectations", "s3fs",
)  # fmt: skip


def provenance() -> dict[str, object]:
    """Return package versions, platform, host name and the revision of the code, as a JSON object."""
    return {"platform": platform.platform(), "host": platform.node(), **versions()}


def versions() -> dict[str, object]:
    """Return package versions, Python's version and the revision of the code, as a JSON object."""
    return {
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "code": _revision(),
    }


def operator() -> str:
    """Return who runs this process, for records of decisions: ERASURE_AUDIT_USER, else the login name and host name."""
    if named := os.environ.get("ERASURE_AUDIT_USER", "").strip():
        return named[:200]
    try:
        login = getpass.getuser()
    except (OSError, KeyError):  # a container's user id without a name
        login = f"uid {os.getuid()}"
    return f"{login}@{platform.node()}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _revision() -> dict[str, object] | None:
    """Return the commit and whether the tree differs from it; None outside a checkout, such as an installed wheel."""
    root = Path(__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return {"commit": commit, "modified": bool(_git(root, "status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.strip()
