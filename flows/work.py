"""Help with the units of an existing run: the flow of further GPU workers."""

from __future__ import annotations

from prefect import flow

from tasks.context import Settings
from tasks.opening import open_run
from tasks.share import Share
from tasks.stages import attack, detect, erase, generate, invert, quality
from tasks.units import StageReport


@flow(name="work", persist_result=False)
def work(
    run_id: str, root: str | None = None, shard: str | None = None, settings: Settings | None = None
) -> tuple[StageReport, ...]:
    """Help with the run `run_id`; return the reports of the stages. `shard` is `i/n`, from 1: begin with that slice of each.

    Nobody waits for anybody: a helper that has finished its own slice goes on with whatever is still missing.
    """
    share = Share.parse(shard)
    run = open_run(None, root, run_id, settings, concludes=False)
    return tuple(stage(run, share) for stage in (erase, attack, invert, generate, detect, quality))
