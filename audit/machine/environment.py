"""Settle the process environment before any library reads it. Importing `audit` does so, for every entry point.

Variables that the user has set stay. Child processes inherit the others.
"""

from __future__ import annotations

import os

from audit.machine import homes, telemetry, threads

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")

_notices: list[str] = []


def apply() -> None:
    """Switch telemetry off, settle threads and folders that libraries write to, and keep loopback from any proxy."""
    telemetry.settle()
    threads.settle()
    _notices.extend(homes.settle())
    spare_loopback()


def take_notices() -> list[str]:
    """Return sentences about settings that `apply` had to change in an unusual way; each is returned once."""
    notices = list(_notices)
    _notices.clear()
    return notices


def proxies() -> dict[str, str]:
    """Return the variables that set a proxy, in lower or upper case, with their values."""
    return {name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value}


def spare_loopback() -> None:
    """Add loopback to NO_PROXY and no_proxy, so that no request to this machine itself goes through a proxy.

    Libraries read one spelling or the other, so both hold what either has. Nothing is set where there is no proxy.
    """
    if not proxies():
        return
    lower, upper = os.environ.get("no_proxy"), os.environ.get("NO_PROXY")
    given = {"no_proxy": upper if lower is None else lower, "NO_PROXY": lower if upper is None else upper}
    for name, value in given.items():
        entries = [entry.strip() for entry in (value or "").split(",") if entry.strip()]
        if entries != ["*"]:  # which means any host
            entries += [host for host in _LOOPBACK if host not in entries]
        os.environ[name] = ",".join(entries)
