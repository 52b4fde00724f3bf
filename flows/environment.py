"""Defaults of the process environment, set before Prefect is imported.

Everything is set with `setdefault`: what the user has set stays.
"""

from __future__ import annotations

import os

from audit.machine import telemetry

TELEMETRY_OFF = telemetry.OFF
DEFAULTS = {
    **TELEMETRY_OFF,
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",  # 20 are too few on a busy machine
}
QUIET = {
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    "TRANSFORMERS_VERBOSITY": "error",
    "DIFFUSERS_VERBOSITY": "error",
    "TQDM_DISABLE": "1",
}


def apply() -> None:
    """Set the defaults that are not set yet."""
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def quiet() -> None:
    """Keep log lines and progress bars of libraries off the terminal.

    Prefect's lines still reach its API when a server is configured.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
