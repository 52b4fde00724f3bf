"""status: how far a run is, from any machine that reads the storage root."""

from __future__ import annotations

import dataclasses
import datetime as dt
import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from flows.commands import options
from flows.console import duration, emit_json, say, table

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
    """Show how far RUN_ID is, stage by stage: units done, failed, a minute, time left; who computes it; its newest verdict."""
    from audit.plan.status import run_status, unplanned
    from audit.storage.journal import Journal, StorageUnavailable

    journal = Journal(locations.storage_root(root))
    shown: RunStatus | None = None
    while True:
        now = dt.datetime.now(dt.UTC)
        try:
            found = None if unplanned(journal, run_id) else run_status(journal, run_id)
            last = not follow or (found is not None and found.decided)
            if not as_json:
                _tell(found, shown, run_id, now, follow)
            elif last:
                emit_json(_fields(found, now) if found else {"run_id": run_id, "stages": [], "complete": False})
            shown = found
        except StorageUnavailable as error:
            if not follow:
                raise
            say(f"{now:%H:%M:%S} {error.what}; asking again")
            last = False
        if last:
            return
        time.sleep(FOLLOW_SECONDS)


def _tell(found: RunStatus | None, before: RunStatus | None, run_id: str, now: dt.datetime, follow: bool) -> None:
    """Print a status, when followed with its time; one that has not changed since the last look is one line."""
    if follow:
        print(f"{now:%Y-%m-%d %H:%M:%S} UTC")
    if found is None:
        print(f"not planned yet: it lists its corpus, or was stopped; go on with: erasure-audit resume {run_id}")
    elif found == before:
        _tell_silence(found, now)
    else:
        _show(found, now)
    sys.stdout.flush()


def _fields(found: RunStatus, now: dt.datetime) -> dict[str, object]:
    stages = [{**dataclasses.asdict(stage), "seconds_left": stage.seconds_left} for stage in found.stages]
    late, gap = found.late(now), found.gap
    return {
        **dataclasses.asdict(found),
        "stages": stages,
        "complete": found.complete,
        "decided": found.decided,
        "quiet": found.quiet(now),
        "gap": gap.total_seconds() if gap else None,
        "late": late.total_seconds() if late else None,
    }


def _show(found: RunStatus, now: dt.datetime) -> None:
    table([_row(stage) for stage in found.stages])
    for worker in found.workers:
        print(
            f"{worker.host} ({worker.device}): {worker.units} of the newest units, the last {_ago(worker.written_at, now)}"
        )
    _tell_silence(found, now)
    if found.verdict is not None:
        print(f"newest verdict: {found.verdict}, {found.decided_at}")
    elif found.complete:
        print("every unit is computed; no verdict is on record yet")


def _tell_silence(found: RunStatus, now: dt.datetime) -> None:
    late = found.late(now)
    if found.written_at is not None:
        print(f"last unit written {_ago(found.written_at, now)}")
    if late is not None:
        usual = f"; they came every {duration(found.gap.total_seconds())} before" if found.gap else ""
        say(f"warning: no unit for {duration(late.total_seconds())}{usual}")
    if found.quiet(now):
        print(f"probably nobody computes it any more; go on with: erasure-audit resume {found.run_id}")


def _ago(then: dt.datetime, now: dt.datetime) -> str:
    """Return how long ago the storage wrote a file; its clock may be ahead of this machine's."""
    return f"{duration(max(0.0, (now - then).total_seconds()))} ago"


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
