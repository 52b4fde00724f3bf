"""The retries of tasks: after storage that did not answer, and after nothing else."""

from __future__ import annotations

import errno
from typing import Any

from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from audit.storage.errors import SourceUnavailable, StorageUnavailable

# Retrying a full disk, a missing file or a denied access only delays the message.
_PASSING = {
    errno.EAGAIN, errno.EBUSY, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.EINTR, errno.EIO, errno.ENETDOWN, errno.ENETUNREACH, errno.ESTALE, errno.ETIMEDOUT,
}  # fmt: skip


def passing(error: object) -> bool:
    """Return whether the same call may succeed later."""
    if isinstance(error, StorageUnavailable | SourceUnavailable | ConnectionError | TimeoutError):
        return True
    return isinstance(error, OSError) and error.errno in _PASSING


def io_failed(task: Task[..., object], task_run: TaskRun, state: State[object]) -> bool:
    """Return whether the failed state carries a passing error: Prefect's `retry_condition_fn`."""
    return passing(failure(state))


def failure(state: State[Any]) -> BaseException:
    """Return the exception of a state that did not complete."""
    error = state.result(raise_on_failure=False)
    return error if isinstance(error, BaseException) else RuntimeError(state.message or state.name or "failed")


# NO_CACHE: what is done is read from the journal; Prefect's policies do not see changes below a thin task.
TASK: dict[str, Any] = {
    "cache_policy": NO_CACHE,
    "persist_result": False,
    "retries": 3,
    "retry_delay_seconds": exponential_backoff(backoff_factor=2),
    "retry_jitter_factor": 0.5,
    "retry_condition_fn": io_failed,
}
