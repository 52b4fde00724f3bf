"""Rounds one after the other, each disturbed, resumed and compared, and the table of all of them."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import shutil
import statistics
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.chaos.arena import Arena, Campaign, arena
from tests.chaos.comparison import Difference
from tests.chaos.fault import Fault, Outcome
from tests.chaos.reference import Reference
from tests.chaos.rounds import Result, Round
from tests.chaos.services import Services
from tests.chaos.zygote import Zygote


@contextlib.contextmanager
def opened(folder: Path) -> Iterator[Campaign]:
    """Start the servers and the warm process of a campaign in `folder`, which one campaign at a time has."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another campaign runs in {folder}") from None
        with (
            Services(folder / "services") as services,
            Zygote(services.prefect.environment, folder / "zygote.log") as zygote,
        ):
            yield Campaign(folder, services, zygote, Reference.open(folder / "reference", zygote))


def play(campaign: Campaign, round_: Round, fault: Fault) -> Result:
    """Return what becomes of one round. Its folder stays when it shows something."""
    began, cpu = time.monotonic(), campaign.zygote.cpu_seconds
    with arena(campaign, round_) as place:
        try:
            outcome = fault.apply(place)
            result = _resumed(place, round_, outcome)
        except Exception as error:  # a command that hangs, and whatever the harness itself did not expect
            traceback.print_exc()
            result = Result(round_, fired=True, stuck=True, note=f"{type(error).__name__}: {str(error)[:1500]}")
        folder = place.folder
        if result.bad and round_.storage == "mount":
            shutil.copytree(place.home, folder / "kept", dirs_exist_ok=True)
    if not result.bad:
        shutil.rmtree(folder)
    spent = time.monotonic() - began, campaign.zygote.cpu_seconds - cpu
    return _with_times(result, *spent)


def _resumed(place: Arena, round_: Round, outcome: Outcome) -> Result:
    differences, resumes, stuck = [], 0, False
    for run_id, code in outcome.runs.items():
        ended, count = place.settle(run_id, code)
        resumes += count
        stuck = stuck or not ended
        differences.append(place.difference(run_id) if ended else Difference())
    return Result(
        round_,
        outcome.fired,
        lost=sum(difference.lost for difference in differences),
        doubled=sum(difference.doubled for difference in differences),
        changed=sum(difference.changed for difference in differences),
        verdict_changed=any(difference.verdict for difference in differences),
        stuck=stuck,
        resumes=resumes,
        note=outcome.note,
        examples=tuple(example for difference in differences for example in difference.examples)[:8],
    )


def _with_times(result: Result, seconds: float, cpu: float) -> Result:
    return dataclasses.replace(result, seconds=round(seconds, 2), cpu_seconds=round(cpu, 2))


def line(result: Result) -> str:
    """Return one line on a round."""
    drawn = result.round
    state = "FOUND" if result.bad else "ok" if result.fired else "did not fire"
    found = f" lost {result.lost} doubled {result.doubled} changed {result.changed}" if result.bad else ""
    verdict = " VERDICT" if result.verdict_changed else ""
    return (
        f"{drawn.number:5d} {drawn.kind:18s} {drawn.stage:11s} {drawn.storage:5s} {state}{found}{verdict}"
        f"{' STUCK' if result.stuck else ''} ({result.resumes} resumes, {result.seconds:.0f} s) {result.note}"
    )


def table(results: Sequence[Result]) -> str:
    """Return the results by kind of fault, as Markdown. Rounds whose fault did not fire count in the first column only."""
    rows = [["fault", "rounds", "fired", "rows lost", "doubled", "changed", "verdicts changed", "stuck", "median s"]]
    kinds = sorted({result.round.kind for result in results})
    for kind in [*kinds, None]:
        of_kind = [result for result in results if kind in (None, result.round.kind)]
        fired = [result for result in of_kind if result.fired]
        counts = (
            len(of_kind), len(fired), sum(r.lost for r in fired), sum(r.doubled for r in fired),
            sum(r.changed for r in fired), sum(r.verdict_changed for r in fired), sum(r.stuck for r in fired),
        )  # fmt: skip
        median = f"{statistics.median(r.seconds for r in of_kind):.0f}" if of_kind else ""
        rows.append([kind or "all", *(str(count) for count in counts), median])
    rows.insert(1, ["---", *["---:"] * (len(rows[0]) - 1)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
