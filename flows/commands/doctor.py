"""doctor: checks whether this machine can run an audit, with the meaning of each failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from audit import locations
from audit.errors import EXIT_USAGE
from flows.commands import options
from flows.console import emit_json, runnable

_MARKS = {"ok": "ok     ", "warning": "WARNING", "problem": "PROBLEM"}


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("doctor")(doctor)


def doctor(
    spec: Annotated[Path | None, typer.Option("--spec", help="Check models and storage of this spec too.")] = None,
    root: options.Root = None,
    as_json: options.Json = False,
) -> int:
    """Check Python, packages, devices, disk, weights, storage and Prefect. Exit 0 unless something is a problem."""
    from audit.doctor.checks import examine
    from audit.spec.document import load_spec
    from flows.prefect_check import check_prefect

    parsed = load_spec(spec) if spec else None
    findings = [*examine(locations.storage_root(root), parsed), *check_prefect()]
    if as_json:
        emit_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for finding in findings:
            print(f"{_MARKS[finding.level]}  {finding.check:<18} {finding.found}")
            if finding.level != "ok":
                print(f"         {'':<18} means: {finding.means}")
                print(f"         {'':<18} next:  {runnable(finding.next_step or '')}")
        worst = sum(finding.level == "problem" for finding in findings)
        print(f"\n{worst} problems" if worst != 1 else "\n1 problem")
    return EXIT_USAGE if any(finding.level == "problem" for finding in findings) else 0
