"""compare, baseline: what came back between two runs, and the names under which runs are compared with."""

from __future__ import annotations

import datetime as dt
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import SpecError
from flows.commands import options
from flows.commands.results import PolicyFile, load_policy, require_answerable, share
from flows.console import Format, emit_json, progress_bars, say, table, visible

if TYPE_CHECKING:
    from audit.index.baselines import Baseline
    from audit.spec.policy import Policy
    from audit.storage.journal import Journal
    from audit.verdict.regression import Comparison

app = typer.Typer(help="Name the runs that later ones are compared with.", no_args_is_help=True)
FORMATS = (Format.TERMINAL, Format.JSON, Format.MARKDOWN)

Runs = Annotated[list[str], typer.Argument(metavar="[OLD] NEW", help="Ids of two runs, or of one with --baseline.")]
BaselineName = Annotated[str | None, typer.Option("--baseline", help="Name of the baseline that is the old run.")]
Rescore = Annotated[
    bool, typer.Option("--rescore", help="Score the old run's stored pictures by the judges of the new run first.")
]
Name = Annotated[str, typer.Argument(help="Name of the baseline, such as release-1.")]
RunId = Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")]
Reason = Annotated[str, typer.Option("--reason", help="Why this run, in a sentence; a replacement needs one.")]
Replace = Annotated[bool, typer.Option("--replace", help="Give the name to another run; the record keeps the former.")]


@app.callback()
def _group() -> None:
    """Name the runs that later ones are compared with."""


def register(application: typer.Typer) -> None:
    """Add the commands of this file."""
    application.command("compare")(compare)
    application.add_typer(app, name="baseline")


def compare(
    runs: Runs,
    baseline: BaselineName = None,
    margin: options.Margin = None,
    policy: PolicyFile = None,
    rescore: Rescore = False,
    root: options.Root = None,
    database: options.Database = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    output: options.OutputFormat = Format.TERMINAL,
    as_json: options.Json = False,
) -> int:
    """Tell what came back from OLD to NEW, case by case: PASS, FAIL or INCONCLUSIVE, with the exit codes of the gate.

    The judges must be the same instruments in both runs; --rescore makes them so. The policy is that of NEW unless --policy
    names another one.
    """
    from audit import run as steps
    from audit.index.baselines import read_baseline
    from audit.index.run_comparison import compare_runs
    from audit.plan.document import read_outline

    form = Format.JSON if as_json else output
    if form not in FORMATS:
        raise SpecError(
            f"a comparison has no format {form.value}",
            where="--format",
            next_step="use terminal, json or markdown; erasure-audit gate NEW --against OLD writes the others",
        )
    old, new = _two(runs, baseline)
    place = locations.storage_root(root)
    journal = steps.open_journal(place)
    named = read_baseline(journal, baseline) if baseline is not None else None
    chosen, used = load_policy(policy) if policy else None, share(margin)
    if chosen is not None:
        require_answerable(chosen, read_outline(journal, new))
    index = locations.database_path(place, database)
    before = named.run_id if named else old
    if rescore:
        before = _score_again(journal, before, new, chosen, device, batch_size)
    comparison = compare_runs(journal, before, new, index, policy=chosen, margin=used, baseline=named)
    _print(comparison, form)
    return comparison.status.exit_code


@app.command("set")
def set_name(
    name: Name,
    run_id: RunId,
    reason: Reason = "",
    replace: Replace = False,
    root: options.Root = None,
    as_json: options.Json = False,
) -> None:
    """Give RUN_ID, which must be decided, the name NAME on record."""
    from audit import run as steps
    from audit.index.baselines import set_baseline
    from audit.provenance import operator

    journal = steps.open_journal(locations.storage_root(root))
    now = dt.datetime.now(dt.UTC)
    baseline = set_baseline(journal, name, run_id, operator(), now, reason=reason, replace=replace)
    if as_json:
        emit_json(_row(baseline))
    else:
        print(f"baseline {baseline.name} is {baseline.run_id} ({baseline.verdict}), record {baseline.number}")


@app.command("list")
def names(root: options.Root = None, as_json: options.Json = False) -> None:
    """List every record of every baseline; the last one of a name counts."""
    from audit.index.baselines import baselines
    from audit.storage.journal import Journal

    place = locations.storage_root(root)
    rows = [_row(baseline) for baseline in baselines(Journal(place))]
    if as_json:
        emit_json(rows)
    elif rows:
        table(rows)
    else:
        say(f"no baseline in {place}; name one with: erasure-audit baseline set NAME RUN_ID")


def _row(baseline: Baseline) -> dict[str, object]:
    names = ("name", "number", "run_id", "verdict", "at", "by", "sha256")
    return {**{name: getattr(baseline, name) for name in names}, "reason": visible(baseline.reason)}


def _score_again(
    journal: Journal, old: str, new: str, policy: Policy | None, device: str | None, batch_size: int | None
) -> str:
    """Return the derived run: the pictures of the old run, scored by the judges of the new one."""
    from audit.index.integrity import require_intact
    from audit.plan.document import read_plan
    from audit.plan.rescoring import plan_rescoring

    require_intact(journal, old)
    plan = read_plan(journal, new)
    rescoring = plan_rescoring(journal, old, plan, policy)
    from audit.compute.rescoring import score_again  # imports torch

    with progress_bars() as reporter:
        stage = "rescore"

        def tell(done: int, total: int) -> None:
            reporter.update(stage, done) if done else reporter.begin(stage, total, 0)

        if score_again(journal, rescoring, plan, device=device, batch_size=batch_size, progress=tell):
            reporter.end(stage)
    return rescoring.run_id


def _two(runs: list[str], baseline: str | None) -> tuple[str, str]:
    """Return the old and the new run as they are named; "" for an old one that a baseline stands for."""
    if len(runs) == 2 and baseline is None:
        return runs[0], runs[1]
    if len(runs) == 1 and baseline is not None:
        return "", runs[0]
    raise SpecError(
        f"a comparison has an old run and a new one, and {len(runs)} run ids are given "
        + ("beside a baseline" if baseline is not None else "without a baseline"),
        where="compare",
        next_step="erasure-audit compare OLD NEW, or: erasure-audit compare NEW --baseline NAME",
    )


def _print(comparison: Comparison, form: Format) -> None:
    from audit.report import json_report, markdown, print_comparison

    if form is Format.TERMINAL:
        print_comparison(comparison)
    else:
        render = json_report.render_comparison if form is Format.JSON else markdown.render_comparison
        sys.stdout.write(render(comparison))
