"""Choose the device that models run on, say how precisely it computes, and notice when it is gone."""

from __future__ import annotations

from collections.abc import Callable

import torch

from audit.errors import DeviceLost, EnvironmentProblem

DEFAULT_BATCH = {"cpu": 32, "cuda": 64, "mps": 16}


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called `name`, or the best one of this machine (cuda, then cpu), under `set_precision`.

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
    set_precision()
    return device


def set_precision() -> None:
    """Let float32 be float32 on every device: no TF32 in products and convolutions, no reduced sums in bfloat16.

    TF32 keeps ten bits of a factor. Inversion solves its equations to a relative residual of 1e-4, which it could not
    reach. bfloat16 is used where a sampler's dtype says so, which is part of every picture's identity, and nowhere else.
    """
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False  # torch allows it by default
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def require_device(error: Exception, answers: Callable[[], None] | None = None) -> None:
    """Return when the GPU of this process still answers after `error`, or none is in use. Raises `DeviceLost` otherwise.

    A CUDA context does not survive its first fatal error: whatever is asked of it later fails too. `answers` raises when
    it is gone; by default this process's own device is asked.
    """
    try:
        (answers or _answers)()
    except Exception:
        first = (str(error) or "no message").splitlines()[0]
        raise DeviceLost(
            f"the GPU stopped answering: {type(error).__name__}: {first}"[:500],
            where="the device of this process",
            next_step="look at nvidia-smi and the kernel's log, then go on with: erasure-audit resume RUN_ID",
        ) from error


def _answers() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
