"""Find the testbed's shipped weights."""

from __future__ import annotations

from pathlib import Path

from audit.errors import CheckpointError

NAMES = ("pipeline", "sd3", "judge", "energy", "classifier")


def weights_path(name: str) -> Path:
    """Return the folder of shipped weights called `name`, one of `NAMES`: two backbones, three judges.

    Raises `CheckpointError` when the name is unknown or the folder is missing.
    """
    path = Path(__file__).parents[1] / "testbed" / "weights" / name
    if name not in NAMES or not path.is_dir():
        raise CheckpointError(
            f"the testbed has no weights called {name!r}", where=str(path), next_step="train them with: make testbed"
        )
    return path
