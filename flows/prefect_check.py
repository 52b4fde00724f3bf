"""The Prefect API that this machine would use, and whether it answers: for doctor, and before a flow starts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from audit.doctor.findings import Finding
from audit.errors import EnvironmentProblem
from audit.machine import homes


def check_prefect() -> Iterator[Finding]:
    """Yield one finding about the Prefect API; a missing server is fine as long as the temporary one can start."""
    import httpx
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    address = settings.api.url
    if not address:
        if settings.server.ephemeral.enabled and not homes.writable(settings.home):
            yield Finding(
                "prefect",
                "problem",
                f"the folder of Prefect's database cannot be written: {settings.home}",
                "the temporary server that a run starts would wait for it in vain",
                f"set {homes.PREFECT} to a folder that this user can write to, or unset it",
            )
        elif settings.server.ephemeral.enabled:
            text = "no server configured: each run starts a temporary one (which may lose task records)"
            yield Finding("prefect", "ok", text)
        else:
            yield Finding(
                "prefect",
                "problem",
                "no Prefect server is configured and the temporary one is forbidden",
                "no flow can start",
                "set PREFECT_API_URL, or PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=true",
            )
        return
    try:
        answer = httpx.get(f"{address.rstrip('/')}/health", timeout=10.0)
        answer.raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        yield Finding(
            "prefect",
            "problem",
            f"the Prefect server at {address} does not answer: {str(error) or type(error).__name__}",
            "no flow can start while PREFECT_API_URL points there",
            "start it (prefect server start), correct PREFECT_API_URL, or unset it to run without a server",
        )
    else:
        yield Finding("prefect", "ok", f"{address} answers")


def require_prefect() -> None:
    """Return when a flow can start. Raises `EnvironmentProblem` otherwise."""
    from prefect.settings import get_current_settings

    for finding in check_prefect():
        if finding.level == "problem":
            where = "PREFECT_API_URL" if get_current_settings().api.url else "this machine"
            raise EnvironmentProblem(finding.found, where=where, next_step=finding.next_step)


def prefect_failure(error: BaseException) -> str | None:
    """Return what the Prefect server in use answered, or that it did not, when that is what led to `error`; else None."""
    import httpx
    from prefect.settings import get_current_settings

    address = get_current_settings().api.url
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx.HTTPStatusError | httpx.RequestError):
            with contextlib.suppress(RuntimeError):  # httpx's own, for an error without a request
                if address and str(cause.request.url).startswith(address):
                    return (str(cause).strip() or type(cause).__name__).splitlines()[0]
        cause = cause.__cause__ or cause.__context__
    return None
