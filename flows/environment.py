"""Defaults of the process environment, set before Prefect and Great Expectations are imported.

Everything is set with `setdefault`: what the user has set stays.
"""

from __future__ import annotations

import os

TELEMETRY_OFF = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",  # also prevents 'database is locked' at ephemeral start
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
}
DEFAULTS = {
    **TELEMETRY_OFF,
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 are too few on a busy machine
    "HF_HUB_DISABLE_TELEMETRY": "1",
}


def apply() -> None:
    """Set the defaults that are not set yet."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def quiet() -> None:
    """Keep Prefect's log lines off the terminal. They still reach the Prefect API when a server is configured."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_CLI_COLORS", "false")
