"""Choose the device that models run on."""

from __future__ import annotations

import torch

from audit.errors import EnvironmentProblem

DEFAULT_BATCH = {"cpu": 32, "cuda": 64, "mps": 16}


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or the best one of this machine (cuda, then cpu).

    Raises `EnvironmentProblem` for a name that torch does not know or that this machine cannot use.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise EnvironmentProblem(
            f"the device {name!r} cannot be used: {str(error).splitlines()[0]}",
            where="--device",
            next_step="name a device of this machine, such as cpu or cuda:0; erasure-audit doctor lists them",
        ) from None
    return device
