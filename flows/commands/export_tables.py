"""export: results and pictures as files for other tools."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from audit import locations
from audit.export import MartFormat
from flows.commands import options
from flows.console import emit_json, say, table

app = typer.Typer(help="Results and pictures as files for other tools.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="A new folder.")]
Index = Annotated[
    str | None, typer.Option("--index", help="Folder or s3:// prefix of published copies (default: the root's own).")
]
OneRun = Annotated[str | None, typer.Option("--run", help="Only the rows of this run.")]


@app.command("marts")
def marts(
    folder: Folder,
    form: Annotated[MartFormat, typer.Option("--format", help="csv or parquet.")],
    run_id: OneRun = None,
    index: Index = None,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Write every mart of the newest published index into FOLDER, with a manifest."""
    from audit.export.marts import export_marts
    from audit.index.copies import newest_copy

    place = index or str(locations.database_path(locations.storage_root(root), database).parent / "published")
    target = Path(os.path.expanduser(folder))
    with newest_copy(place) as copy:
        manifest = export_marts(copy, target, form, run_id)
    if as_json:
        emit_json({"folder": str(target), **manifest})
        return
    table([{"mart": file["table"], "rows": file["rows"], "file": file["path"]} for file in manifest["files"]])
    print(f"{target}: {len(manifest['files'])} marts of {manifest['index']['file']}")
    if manifest["sensitive"]:
        say("mart_samples holds prompts of sensitive concepts, as the index does: keep the folder accordingly")
