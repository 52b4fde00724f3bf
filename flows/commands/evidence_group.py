"""evidence: the group of commands that make evidence of a run, and check it."""

from __future__ import annotations

import typer

app = typer.Typer(help="Evidence of a run: seal, sign, verify, replay, purge, export.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Evidence of a run: seal, sign, verify, replay, purge, export."""
