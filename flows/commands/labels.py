"""labels: people look at a run's pictures, and their labels say how often its judges err."""

from __future__ import annotations

import dataclasses
import datetime as dt
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from flows.commands import options
from flows.commands.results import RunId
from flows.console import emit_json, say, table

if TYPE_CHECKING:
    from audit.labels.summary import JudgeErrors, Review
    from audit.statistics.agreement import Agreement

app = typer.Typer(help="Let two people label pictures, and measure the judges by them.", no_args_is_help=True)

To = Annotated[Path, typer.Option("--to", help="A new folder for pictures, page and task.")]
Random = Annotated[
    int, typer.Option("--random", min=24, help="Random pictures of each erased concept: they calibrate.")
]
Hits = Annotated[
    int, typer.Option("--hits", min=0, help="Hits of each erased concept, for review; all up to this number.")
]
Clears = Annotated[int, typer.Option("--clears", min=0, help="Random clears of each erased concept, for review.")]
Others = Annotated[
    int, typer.Option("--others", min=0, help="Random pictures of each neighbour, unlearned class and reference.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same pictures.")]
ShowSensitive = Annotated[
    bool, typer.Option("--show-sensitive", help="Export sensitive pictures unblurred; put on record.")
]
RaterFiles = Annotated[list[Path], typer.Argument(help="The files that two raters saved.")]
Exported = Annotated[Path | None, typer.Option("--folder", help="The exported folder, to check its pictures.")]


@app.command("export")
def export(
    run_id: RunId,
    to: To,
    random: Random = 120,
    hits: Hits = 100,
    clears: Clears = 60,
    others: Others = 20,
    seed: Seed = 0,
    show_sensitive: ShowSensitive = False,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Draw pictures of RUN_ID for two people to label, into a folder with one page that works without a server."""
    from audit import run as steps
    from audit.index.integrity import require_intact
    from audit.labels.drawing import Sizes
    from audit.labels.export import PAGE_FILE, export
    from audit.plan.document import read_outline
    from audit.report.pictures import blurred_thumbnail

    place = locations.storage_root(root)
    journal = steps.open_journal(place)
    read_outline(journal, run_id)
    require_intact(journal, run_id)
    published = steps.consolidate(journal, run_id, locations.database_path(place, database))
    sizes = Sizes(random, hits, clears, others)
    folder, now = Path(os.path.expanduser(to)), dt.datetime.now(dt.UTC)
    exported = export(
        journal, run_id, published, folder, sizes, seed, now, blurred_thumbnail, show_sensitive=show_sensitive
    )
    strata = [stratum.model_dump() for stratum in exported.task.strata]
    if as_json:
        counted = {"pictures": len(exported.task.pictures), "blurred": exported.blurred, "withheld": exported.withheld}
        emit_json({"page": str(folder / PAGE_FILE), "task": exported.task.digest(), **counted, "strata": strata})
        return
    table(strata)
    print(f"{len(exported.task.pictures)} pictures to label, each by two people: open {folder / PAGE_FILE}")
    if exported.blurred or exported.withheld:
        say(
            f"{exported.blurred} sensitive pictures are blurred and {exported.withheld} withheld; what raters cannot tell counts "
            "against the judges. To show them, which is put on record: --show-sensitive"
        )


@app.command("import")
def import_(
    run_id: RunId,
    files: RaterFiles,
    folder: Exported = None,
    root: options.Root = None,
    as_json: options.Json = False,
) -> None:
    """Read the labels of two people for RUN_ID, say how far they agree and how often each judge errs, and store them."""
    from audit.labels.raters import read_labelling
    from audit.labels.stored import joined, store
    from audit.labels.summary import agreements, judge_errors, require_enough, reviews
    from audit.plan.document import read_outline
    from audit.storage.journal import Journal

    journal = Journal(locations.storage_root(root))
    read_outline(journal, run_id)
    paths = [Path(os.path.expanduser(path)) for path in files]
    labels = joined(read_labelling(journal, run_id, paths, folder, dt.datetime.now(dt.UTC)))
    require_enough(labels)
    digest, new = store(journal, labels)
    agreed, errors, reviewed = agreements(labels), judge_errors(labels), reviews(labels)
    if as_json:
        emit_json(
            {
                "sha256": digest,
                "new": new,
                "agreement": {concept: dataclasses.asdict(row) for concept, row in agreed.items()},
                "judges": [{**dataclasses.asdict(row), "enough": row.enough} for row in errors],
                "review": [dataclasses.asdict(row) for row in reviewed],
            }
        )
        return
    _print(agreed, errors, reviewed)
    print(f"{'stored' if new else 'stored before'} as {journal.store.url(f'labels/{digest}.json')}")


def _print(agreed: dict[str, Agreement], errors: list[JudgeErrors], reviewed: list[Review]) -> None:
    table([_agreement_row(concept, row) for concept, row in agreed.items()])
    print()
    table([_errors_row(row) for row in errors])
    print()
    table([_review_row(row) for row in reviewed])
    for row in errors:
        if not row.enough and row.domain == "generated":
            say(f"too few labels for {row.detector} on {row.concept} ({row.domain}): the gate does not use them")


def _agreement_row(concept: str, row: Agreement) -> dict[str, object]:
    kappa = "-" if row.kappa is None else f"{row.kappa:.2f}"
    return {
        "concept": concept,
        "agreed": f"{row.agreed} of {row.pictures}",
        "kappa": kappa,
        "95 %": "-" if row.kappa is None else f"{row.low:.2f} to {row.high:.2f}",
    }


def _errors_row(row: JudgeErrors) -> dict[str, object]:
    (se_low, se_high), (sp_low, sp_high) = row.sensitivity(), row.specificity()
    return {
        "judge": row.detector,
        "concept": row.concept,
        "pictures": row.domain,
        "found": f"{row.found} of {row.positives}",
        "sensitivity 95 %": f"{se_low:.3f} to {se_high:.3f}",
        "cleared": f"{row.cleared} of {row.negatives}",
        "specificity 95 %": f"{sp_low:.3f} to {sp_high:.3f}",
        "found at defences": f"{row.defended[0]} of {row.defended[1]}",
    }


def _review_row(row: Review) -> dict[str, object]:
    return {
        "concept": row.concept,
        "hits that both raters see": f"{row.real} of {row.hits}",
        "clears that not both see clear": f"{row.missed} of {row.clears}",
    }
