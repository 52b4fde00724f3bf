"""A process of the pool of `--runner processes`: its GPU, its share of the cores, and its end when the run has ended."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import threading

from audit.machine import threads

VISIBLE = "CUDA_VISIBLE_DEVICES"

_own: dict[str, str] = {}  # environment variables of this process alone
_gpus = 0  # that the machine had when the pool was started


def begin_process(gpus: int, share: int | None) -> None:
    """Prepare a process of the pool: one of the machine's `gpus`, a `share` of threads, and an end with its parent.

    A killed run cannot end its processes itself, and each would finish its unit first, with the memory of its GPU.
    """
    global _gpus
    _gpus = gpus
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()
    _take_gpu(gpus)
    if share is not None:
        _take_threads(share)


def has_gpu() -> bool:
    """Return whether this process is of a pool that was started on a machine with GPUs, each process with one of them."""
    return _gpus > 0


def restore_environment() -> None:
    """Set this process's own variables again: Prefect gives every task all variables of the process that submits it.

    CUDA reads its variable when a task first uses a GPU. In a process of no pool there is nothing to set.
    """
    os.environ.update(_own)


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


def _take_gpu(count: int) -> None:
    """Leave this process one of the machine's GPUs, before anything looks for them."""
    if count < 2:
        return
    number = multiprocessing.current_process().name.rpartition("-")[2]
    visible = [name for name in os.environ.get(VISIBLE, "").split(",") if name]
    visible = visible or [str(index) for index in range(count)]
    _own[VISIBLE] = visible[(int(number) - 1) % len(visible) if number.isdigit() else 0]
    restore_environment()


def _take_threads(count: int) -> None:
    """Compute with `count` threads in torch, loaded or not, and in what else counts by OpenMP's variable when it loads."""
    _own[threads.COUNT] = str(count)
    restore_environment()
    import torch

    torch.set_num_threads(count)
