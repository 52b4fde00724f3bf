"""export-embedding: the embedding that textual inversion learned in a run, as a file for diffusers."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Annotated

import typer

from audit import locations
from flows.commands import options
from flows.commands.results import RunId
from flows.console import emit_json

Out = Annotated[Path, typer.Option("--out", help="The .safetensors file to write; it must not exist.")]
Concept = Annotated[str | None, typer.Option("--concept", help="The concept, where the run has several.")]
Scenario = Annotated[str | None, typer.Option("--scenario", help="The name of an embedding scenario of the run.")]
Defence = Annotated[str | None, typer.Option("--defence", help="The defence whose model it was learned through.")]
Item = Annotated[str, typer.Option("--item", help="best, or one learning rate's, such as lr-0.02.")]
Token = Annotated[str | None, typer.Option("--token", help="The token's name in the file (default: <CONCEPT>).")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("export-embedding")(export_embedding)


def export_embedding(
    run_id: RunId,
    out: Out,
    concept: Concept = None,
    scenario: Scenario = None,
    defence: Defence = None,
    item: Item = "best",
    token: Token = None,
    root: options.Root = None,
    as_json: options.Json = False,
) -> None:
    """Write an embedding that RUN_ID learned to a file that diffusers' load_textual_inversion reads."""
    from audit.embedding_export import EmbeddingChoice, export_embedding
    from audit.plan.document import read_plan
    from audit.storage.journal import Journal

    journal = Journal(locations.storage_root(root))
    which = EmbeddingChoice(concept, scenario, defence)
    exported = export_embedding(
        journal, read_plan(journal, run_id), which, Path(os.path.expanduser(out)), token=token, item=item
    )
    if as_json:
        emit_json(dataclasses.asdict(exported))
    else:
        print(f"{exported.file}: {exported.vectors} vectors of width {exported.width} as {exported.token}")
