"""Doctor's look at Prefect: which API this machine would use, and whether it answers."""

from __future__ import annotations

from collections.abc import Iterator

from audit.doctor import Finding


def check_prefect() -> Iterator[Finding]:
    """Findings about the Prefect API; a missing server is fine as long as the ephemeral one is allowed."""
    import httpx
    from prefect.settings import get_current_settings

    settings = get_current_settings()
    address = settings.api.url
    if not address:
        if settings.server.ephemeral.enabled:
            found = "no server configured: each run starts a temporary one (which may lose task records)"
            yield Finding("prefect", "ok", found)
        else:
            yield Finding(
                "prefect",
                "problem",
                "no server configured and the temporary one is forbidden",
                "no flow can start",
                "set PREFECT_API_URL, or PREFECT_SERVER_ALLOW_EPHEMERAL_MODE=true",
            )
        return
    try:
        answer = httpx.get(f"{address.rstrip('/')}/health", timeout=5.0)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        yield Finding(
            "prefect",
            "problem",
            f"{address} does not answer: {error or type(error).__name__}",
            "no flow can start while PREFECT_API_URL points there",
            "start it (prefect server start), correct PREFECT_API_URL, or unset it to run without a server",
        )
    else:
        yield Finding("prefect", "ok", f"{address} answers")
