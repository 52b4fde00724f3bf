"""Check the settings made before libraries load: telemetry, threads, folders, proxies."""

from __future__ import annotations

import os
import tempfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from audit import locations
from audit.doctor.findings import Finding
from audit.machine import environment, homes, telemetry, threads


def check_telemetry() -> Iterator[Finding]:
    """Yield the state of every known library with telemetry: off, on and by which variable, or not installed."""
    known = [reporter.library for reporter in telemetry.REPORTERS]
    absent = [reporter.library for reporter in telemetry.REPORTERS if not reporter.installed]
    on = list(telemetry.talking())
    talking = {reporter.library for reporter, _ in on}
    off = ", ".join(name for name in known if name not in talking and name not in absent)
    found = f"off: {off or 'none'}" + (f"; not installed: {', '.join(absent)}" if absent else "")
    if on:
        named = "; ".join(f"{reporter.library} ({', '.join(settings)})" for reporter, settings in on)
        variables = {name: value for reporter, _ in on for name, value in reporter.off.items()}
        yield Finding(
            "telemetry",
            "warning",
            f"not switched off: {named}; {found}",
            "these libraries may send usage data out of this machine, or keep a device id for it",
            f"export {' '.join(f'{name}={value}' for name, value in variables.items())}",
        )
    else:
        yield Finding("telemetry", "ok", found)


def check_endpoint() -> Iterator[Finding]:
    """Yield whether this tool sends metrics and traces of its own: nowhere, unless an OpenTelemetry endpoint is set."""
    endpoints = telemetry.endpoints()
    if not endpoints:
        yield Finding("metrics and traces", "ok", f"off: {telemetry.ENDPOINT} is not set")
        return
    found = "; ".join(f"{signal} to {telemetry.shown_endpoint(url)}" for signal, url in endpoints.items())
    if telemetry.exporter_installed():
        yield Finding("metrics and traces", "ok", f"on: {found}; no prompts, pictures or paths")
    else:
        yield Finding(
            "metrics and traces",
            "warning",
            f"an endpoint is set and its packages are not installed: {found}",
            "runs send nothing there",
            telemetry.EXTRA,
        )


def check_threads() -> Iterator[Finding]:
    """Yield the number of computing threads and how idle ones wait, each with its origin; a warning on a busy machine."""
    import torch

    count, waiting = threads.count(), threads.waiting()
    found = f"{torch.get_num_threads()} ({count.origin}); waiting: {waiting.value} ({waiting.origin})"
    if threads.crowded():
        yield Finding(
            "threads",
            "warning",
            f"{found}; {threads.running_elsewhere()} other tasks are running on {os.cpu_count()} cores",
            "threads of one picture wait for each other: beside a busy process each picture takes several times as long",
            f"run when the machine is free, or with {threads.COUNT}=1",
        )
    else:
        yield Finding("threads", "ok", found)


def check_folders() -> Iterator[Finding]:
    """Yield the folders for caches, Prefect's records and temporary files, and a problem when one cannot be written."""
    cache, prefect = locations.cache_folder(), homes.prefect_home()
    try:
        temporary: Path | None = Path(tempfile.gettempdir())
    except FileNotFoundError:
        temporary = None
    bad = [str(folder) for folder in (cache, prefect) if not homes.writable(folder)]
    if temporary is None:
        yield Finding(
            "folders", "problem", "no temporary folder can be written", "no run can start", "set TMPDIR to one that can"
        )
    elif bad:
        yield Finding(
            "folders",
            "problem",
            f"cannot be written: {', '.join(bad)}",
            "a run's temporary Prefect server would not start, or trainings could not be resumed",
            f"set HOME, or {homes.PREFECT} and XDG_CACHE_HOME, to folders that this user can write to",
        )
    else:
        yield Finding(
            "folders", "ok", f"caches in {cache}, Prefect's records in {prefect}, temporary files in {temporary}"
        )


def check_proxies() -> Iterator[Finding]:
    """Yield the proxies of the environment and whether this machine's own addresses are exempt; nothing without proxies."""
    if not environment.proxies():
        return
    set_here = ", ".join(sorted(environment.proxies()))
    if urllib.request.proxy_bypass("127.0.0.1"):
        yield Finding("proxies", "ok", f"{set_here} set; requests to this machine itself do not go there")
    else:
        yield Finding(
            "proxies",
            "problem",
            f"{set_here} set, and requests to this machine itself go there too",
            "a run cannot reach its temporary Prefect server",
            "export NO_PROXY=127.0.0.1,localhost,::1 no_proxy=127.0.0.1,localhost,::1",
        )
