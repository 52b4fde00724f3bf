"""evidence replay: what of a run's evidence can be made or taken away again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EXIT_NOT_VERIFIED
from flows.commands import options
from flows.commands.evidence_group import app
from flows.console import emit_json, progress_bars, say, table

if TYPE_CHECKING:
    from audit.evidence.replay import Hit, Replayed
    from audit.plan.document import Plan
    from audit.storage.journal import Journal

RunOrBundle = Annotated[str, typer.Argument(help="Run id, or the folder of a bundle.")]


@app.command("replay")
def replay(
    run: RunOrBundle,
    hits: Annotated[int, typer.Option("--hits", min=1, help="How many hits to draw again.")],
    seed: Annotated[int, typer.Option("--seed", help="Draws the sample: whoever checks names one.")] = 0,
    near_db: Annotated[
        float, typer.Option("--psnr-min", help="PSNR in dB from which on a picture is near the one on record.")
    ] = 35.0,
    root: options.Root = None,
    database: options.Database = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
) -> int:
    """Draw sampled hits of RUN once more on this machine: exact, near, differs or not replayable, each with the reason.

    Exit 5 unless every one is exact or near. Weights, embeddings, found prompts and latents are taken as journalled.
    """
    from audit import run as steps
    from audit.evidence.replay import Result, hits_on_record, sampled
    from audit.plan.document import read_plan
    from audit.storage.journal import Journal

    place = locations.storage_root(root)
    journal = Journal(place)
    plan = read_plan(journal, run)
    judges = plan.spec.gate.judges
    published = steps.consolidate(journal, plan.run_id, locations.database_path(place, database))
    chosen = sampled(hits_on_record(published, plan, judges), hits, seed)
    replayed = _replayed(plan, journal, chosen, device, batch_size, near_db)
    if as_json:
        counts = Counter(one.result.value for one in replayed)
        emit_json({"run": plan.run_id, "seed": seed, "counts": counts, "hits": [one.as_row() for one in replayed]})
    elif replayed:
        rows = [one.as_row() for one in replayed]
        table([{name: row[name] for name in ("cell_id", "case_no", "result", "detail")} for row in rows])
    else:
        say("no hit is on record, so there is none to draw again")
    good = (Result.EXACT, Result.NEAR)
    return 0 if all(one.result in good for one in replayed) else EXIT_NOT_VERIFIED


def _replayed(
    plan: Plan, journal: Journal, chosen: list[Hit], device: str | None, batch_size: int | None, near_db: float
) -> list[Replayed]:
    """Return the chosen hits, drawn again; all of them are not replayable where no worker can take the plan on."""
    from audit.errors import CheckpointError, EnvironmentProblem
    from audit.evidence.replay import Replayed, Result, replay

    if not chosen:
        return []
    from audit.compute.worker import Worker

    try:
        worker = Worker(plan, journal, device=device, batch_size=batch_size, kinds=("generate", "detect"))
    except (CheckpointError, EnvironmentProblem) as error:
        why = f"{error.what} ({error.where})" if error.where else error.what
        return [Replayed(hit, Result.NOT_REPLAYABLE, why) for hit in chosen]
    units = len({hit.unit_key for hit in chosen})
    with progress_bars() as reporter:
        reporter.begin("replay", units, 0)
        replayed = replay(
            plan, journal, worker, chosen, plan.spec.gate.judges, near_db=near_db,
            progress=lambda done: reporter.update("replay", done),
        )  # fmt: skip
        reporter.end("replay")
    return replayed
