"""retention: remove pictures whose time is over, of every run below a storage root."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EXIT_NOT_VERIFIED, EXIT_USAGE
from flows.commands import options
from flows.commands.keys import signing_key
from flows.console import amount, emit_json, say, table, visible

if TYPE_CHECKING:
    from audit.evidence.retention import RetentionReport

app = typer.Typer(help="Keep pictures no longer than they may be kept.", no_args_is_help=True)

_LONGEST = 36_500
HitsAfter = Annotated[
    int, typer.Option("--hits-after", min=0, max=_LONGEST, help="Days after which hits and what is unassessed go.")
]
ClearsAfter = Annotated[int, typer.Option("--clears-after", min=0, max=_LONGEST, help="Days after which clears go.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; it stands in the ledger.")]
Key = Annotated[Path | None, typer.Option("--key", help="Private key that signs the ledger's entries.")]
Yes = Annotated[bool, typer.Option("--yes", help="Remove them; without it, the command says what would go.")]


@app.callback()
def _group() -> None:
    """Keep pictures no longer than they may be kept."""


@app.command("apply")
def apply(
    hits_after: HitsAfter,
    clears_after: ClearsAfter,
    reason: Reason,
    key: Key = None,
    yes: Yes = False,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> int:
    """Remove the pixels of all runs whose time is over, for ever; what was measured stays, and bundles still verify.

    A picture goes when its time is over for every run that planned it, counted from the newest of their starts and decisions.
    Exit code 0 when nothing is left to remove, 2 when pictures wait for --yes, 5 when a run is not what is on record.
    """
    from audit.evidence.removal import Act
    from audit.evidence.retention import Terms, apply_retention, preview_retention
    from audit.provenance import operator
    from audit.storage.journal import Journal

    def clock() -> dt.datetime:
        return dt.datetime.now(dt.UTC)

    place = locations.storage_root(root)
    journal, index = Journal(place), locations.database_path(place, database)
    act, terms = Act(operator(), reason), Terms(hits_after, clears_after)
    act.require_reason()
    signer = signing_key(key) if key else None
    done = (
        apply_retention(journal, index, terms, act, clock, signer)
        if yes
        else preview_retention(journal, index, terms, clock())
    )
    if as_json:
        emit_json(done.as_document())
    else:
        _print(done)
    waiting = done.pictures and not done.removed
    if waiting:
        say(f"{done.pictures} pictures would go, and nothing brings them back. Remove them with --yes")
    return EXIT_NOT_VERIFIED if done.changed else EXIT_USAGE if waiting else 0


def _print(done: RetentionReport) -> None:
    word = "removed" if done.removed else "due"
    print(
        f"{word:<8} {done.pictures} pictures ({done.hits} hits, {done.clears} clears) of {done.units} units"
        + (f", {amount(done.freed)}" if done.removed else "")
    )
    table([{"run": one.run_id, "units": one.units, "hits": one.hits, "clears": one.clears, "ledger entry": one.entry}
           for one in done.runs])  # fmt: skip
    for one in done.left:
        print(f"left     {one.run_id}: {visible(one.reason)}")
    if done.held:
        print(f"kept     {done.held} units that these runs need")
