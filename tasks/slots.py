"""The optional GPU slot: a global concurrency limit of Prefect that each unit holds while it computes."""

from __future__ import annotations

import contextlib

from prefect.client.orchestration import get_client
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectNotFound

from audit.errors import EnvironmentProblem

# A killed holder gives its slot back when its lease ends; the lease of a living one is renewed in the background.
LEASE_SECONDS = 120


def gpu_slot(name: str | None) -> contextlib.AbstractContextManager[None]:
    """Hold one slot of the limit called `name` inside the block; without a name, hold nothing."""
    if name is None:
        return contextlib.nullcontext()
    return concurrency(name, occupy=1, strict=True, lease_duration=LEASE_SECONDS, raise_on_lease_renewal_failure=False)


def require_slot(name: str) -> None:
    """Return when the limit exists and is active. Raises `EnvironmentProblem` that names the command that makes it.

    Prefect treats a missing limit as no limit at all unless it is asked to be strict.
    """
    try:
        with get_client(sync_client=True) as client:
            limit = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        raise EnvironmentProblem(
            f"there is no GPU slot called {name!r} at the Prefect API",
            where="--gpu-slot or ERASURE_AUDIT_GPU_SLOT",
            next_step=f"prefect gcl create {name} --limit 1",
        ) from None
    if not limit.active or limit.limit < 1:
        raise EnvironmentProblem(
            f"the GPU slot {name!r} is switched off, so no unit could ever start",
            where=f"global concurrency limit {name!r}: active={limit.active}, limit={limit.limit}",
            next_step=f"prefect gcl update {name} --limit 1 && prefect gcl enable {name}",
        )
