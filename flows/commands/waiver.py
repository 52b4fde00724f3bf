"""waiver: accept a measured risk for a while, in a signed file."""

from __future__ import annotations

import datetime as dt
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import SpecError
from flows.commands import options
from flows.commands.keys import Trusted, signing_key, trusted_keys
from flows.commands.results import PolicyFile, load_policy
from flows.console import emit_json, say

if TYPE_CHECKING:
    from audit.plan.document import Outline
    from audit.spec.policy import Policy
    from audit.verdict.waivers import Selection, Waiver

app = typer.Typer(help="Accept a measured risk for a while, in a signed file.", no_args_is_help=True)

File = Annotated[Path, typer.Argument(help="The file to write; it must not exist.")]
Run = Annotated[str, typer.Option("--run", help="Run id, as `erasure-audit db runs` lists it.")]
Cells = Annotated[
    list[str],
    typer.Option(
        "--cells",
        help="Decisions that it covers, such as concept=ring,defence=uce,scenario=text,judge=clip; side=retention for what "
        "must survive. May be given several times.",
    ),
]
Reason = Annotated[str, typer.Option("--reason", help="Why the risk is accepted.")]
Owner = Annotated[str, typer.Option("--owner", help="Who carries the risk.")]
Approver = Annotated[str, typer.Option("--approver", help="Who approves that; somebody else.")]
Until = Annotated[str, typer.Option("--until", help="Last day of it, such as 2027-01-31; at most 90 days from now.")]
Control = Annotated[str, typer.Option("--compensating-control", help="What keeps the risk small meanwhile.")]
Key = Annotated[Path, typer.Option("--key", help="Private key of the approver.")]


@app.callback()
def _group() -> None:
    """Accept a measured risk for a while, in a signed file."""


@app.command("create")
def create(
    file: File,
    run: Run,
    cells: Cells,
    reason: Reason,
    owner: Owner,
    approver: Approver,
    until: Until,
    compensating_control: Control,
    key: Key,
    policy: PolicyFile = None,
    root: options.Root = None,
    as_json: options.Json = False,
) -> None:
    """Write a waiver to FILE, for decisions of one run under one policy. It changes no status and no number."""
    from audit.evidence.waivers import create, parse_selection
    from audit.plan.document import read_outline
    from audit.run import stored_policy
    from audit.storage.journal import Journal
    from audit.verdict.record import policy_sha256
    from audit.verdict.waivers import Waiver

    file = Path(os.path.expanduser(file))
    selections = tuple(parse_selection(text) for text in cells)
    journal = Journal(locations.storage_root(root))
    outline = read_outline(journal, run)
    used = load_policy(policy) if policy else stored_policy(outline)
    _require_planned(selections, outline, used)
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    waiver = Waiver(
        file.name, run, policy_sha256(used), selections, reason, owner, approver, compensating_control, now, _day(until)
    )
    data = create(waiver, journal.get_run(run, "plan.json"), signing_key(key))
    _write_new(file, data)
    _print(waiver, as_json)
    if not as_json:
        say(f"it opens nothing by itself: erasure-audit gate {run} --honour-waivers --waiver {file} --key PUBLIC_KEY")


@app.command("show")
def show(
    file: Annotated[Path, typer.Argument(help="A waiver file.")], keys: Trusted = None, as_json: options.Json = False
) -> None:
    """Print what FILE waives; exit 5 when it is not signed by one of the keys."""
    from audit.evidence.waivers import read_waiver

    waiver = read_waiver(Path(os.path.expanduser(file)), trusted_keys(keys or ()), dt.datetime.now(dt.UTC))
    _print(waiver, as_json)


def _print(waiver: Waiver, as_json: bool) -> None:
    document = {
        "run": waiver.run_id,
        "policy": waiver.policy_sha256,
        "cells": [str(cells) for cells in waiver.cells],
        "owner": waiver.owner,
        "approver": waiver.approver,
        "reason": waiver.reason,
        "compensating control": waiver.compensating_control,
        "since": waiver.since.isoformat(),
        "until": waiver.until.isoformat(),
    }
    if as_json:
        emit_json({name.replace(" ", "_"): value for name, value in document.items()})
        return
    for name, value in document.items():
        print(f"{name:<21} {'; '.join(value) if isinstance(value, list) else value}")


def _day(text: str) -> dt.datetime:
    from audit.evidence.keys import moment

    try:
        return moment(text)
    except ValueError:
        raise SpecError(f"{text!r} is no date", where="--until", next_step="write it as 2027-01-31") from None


def _require_planned(selections: Sequence[Selection], outline: Outline, policy: Policy) -> None:
    """Return when every selection speaks of something that the run decides. Raises `SpecError` for one that does not."""
    audited = [planned.cell for planned in outline.cells if planned.cell.role == "target" and not planned.cell.control]
    cells = [cell for cell in audited if cell.defence != "none"]
    for selection in selections:
        judges = policy.judges if selection.side == "reproduction" else policy.judges_of_retention()
        matching = [
            cell
            for cell in cells
            if selection.concept in (None, cell.concept)
            and selection.defence in (None, cell.defence)
            and selection.scenario in (None, cell.scenario)
        ]
        if not matching or selection.judge not in (None, *judges):
            known = sorted({f"{cell.concept} | {cell.defence} | {cell.scenario}" for cell in cells})
            raise SpecError(
                f"no decision of the run is one of {selection}; it has (concept | defence | scenario):\n"
                + "\n".join(f"  - {name}" for name in known)
                + f"\njudged by {', '.join(judges)}",
                where="--cells",
                next_step="name what erasure-audit gate prints of this run",
            )


def _write_new(file: Path, data: bytes) -> None:
    from audit.errors import EnvironmentProblem

    try:
        with file.open("xb") as stream:
            stream.write(data)
    except OSError as error:
        raise EnvironmentProblem(
            f"the waiver cannot be written: {error.strerror}", where=str(file), next_step="name a new file"
        ) from None
