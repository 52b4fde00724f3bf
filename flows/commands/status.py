"""status: how far a run is, from any machine that reads the storage root."""

from __future__ import annotations

import dataclasses
import datetime as dt
import time
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from flows.commands import options
from flows.console import duration, emit_json, table

if TYPE_CHECKING:
    from audit.plan.status import RunStatus, StageStatus

FOLLOW_SECONDS = 15.0


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("status")(status)


def status(
    run_id: Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")],
    root: options.Root = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Ask again every 15 seconds until it is decided; Ctrl-C ends it before.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Show how far RUN_ID is, stage by stage: units done, failed, a minute, time left; and its newest verdict."""
    from audit.plan.status import run_status
    from audit.storage.journal import Journal

    journal = Journal(locations.storage_root(root))
    while True:
        state, now = run_status(journal, run_id), dt.datetime.now(dt.UTC)
        last = not follow or (state.complete and state.verdict is not None)
        if not as_json:
            _show(state, now)
        elif last:
            emit_json(_fields(state, now))
        if last:
            return
        time.sleep(FOLLOW_SECONDS)


def _fields(state: RunStatus, now: dt.datetime) -> dict[str, object]:
    stages = [{**dataclasses.asdict(stage), "seconds_left": stage.seconds_left} for stage in state.stages]
    return {**dataclasses.asdict(state), "stages": stages, "complete": state.complete, "quiet": state.quiet(now)}


def _show(state: RunStatus, now: dt.datetime) -> None:
    table([_row(stage) for stage in state.stages])
    if state.written_at is not None:
        print(f"last unit written {duration((now - state.written_at).total_seconds())} ago")
    if state.quiet(now):
        print(f"probably nobody computes it any more; go on with: erasure-audit resume {state.run_id}")
    if state.verdict is not None:
        print(f"newest verdict: {state.verdict}, {state.decided_at}")
    elif state.complete:
        print("every unit is computed; no verdict is on record yet")


def _row(stage: StageStatus) -> dict[str, object]:
    left = stage.seconds_left
    return {
        "stage": stage.kind,
        "units": stage.planned,
        "complete": stage.complete,
        "failed": stage.failed,
        "a minute": None if stage.rate is None else f"{60 * stage.rate:.1f}",
        "left": None if left is None else duration(left),
    }
