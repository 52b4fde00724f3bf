"""export: results and pictures as files for other tools."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Annotated

import typer

from audit import locations
from audit.errors import SpecError
from audit.export import MartFormat
from flows.commands import options
from flows.commands.results import RunId
from flows.console import emit_json, say, table

app = typer.Typer(help="Results and pictures as files for other tools.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="A new folder.")]
Index = Annotated[
    str | None, typer.Option("--index", help="Folder or s3:// prefix of published copies (default: the root's own).")
]
OneRun = Annotated[str | None, typer.Option("--run", help="Only the rows of this run.")]
Pictures = Annotated[bool, typer.Option("--pictures", help="Export pictures too, but for sensitive ones.")]
ShowSensitive = Annotated[
    bool, typer.Option("--show-sensitive", help="With --pictures, export sensitive ones as well; put on record.")
]


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
    from audit.index.copies import copies_at

    target = Path(os.path.expanduser(folder))
    manifest = export_marts(copies_at(index, root, database).newest(), target, form, run_id)
    if as_json:
        emit_json({"folder": str(target), **manifest})
        return
    table([{"mart": file["table"], "rows": file["rows"], "file": file["path"]} for file in manifest["files"]])
    print(f"{target}: {len(manifest['files'])} marts of {manifest['index']['file']}")
    if manifest["sensitive"]:
        say("mart_samples holds prompts of sensitive concepts, as the index does: keep the folder accordingly")


@app.command("dataset")
def dataset(
    run_id: RunId,
    folder: Folder,
    pictures: Pictures = False,
    show_sensitive: ShowSensitive = False,
    root: options.Root = None,
    database: options.Database = None,
    as_json: options.Json = False,
) -> None:
    """Write RUN_ID into FOLDER as Hugging Face `datasets` loads it: tables and a card, by default without pictures."""
    from audit import run as steps
    from audit.export.dataset import export_dataset
    from audit.index.integrity import require_intact
    from audit.plan.document import read_outline
    from audit.storage.journal import Journal

    if show_sensitive and not pictures:
        raise SpecError(
            "no picture is exported that could be shown", where="--show-sensitive", next_step="add --pictures"
        )
    place = locations.storage_root(root)
    journal, target = Journal(place), Path(os.path.expanduser(folder))
    read_outline(journal, run_id)
    require_intact(journal, run_id)
    published = steps.consolidate(journal, run_id, locations.database_path(place, database))
    now = dt.datetime.now(dt.UTC)
    manifest = export_dataset(journal, run_id, published, target, now, pictures=pictures, show_sensitive=show_sensitive)
    if as_json:
        emit_json({"folder": str(target), **manifest})
        return
    table([{"table": file["table"], "rows": file["rows"], "file": file["path"]} for file in manifest["files"]])
    counts = manifest["pictures"]
    print(f"{target}: load it with datasets.load_dataset({str(target)!r})")
    if counts is None:
        say("without pictures; add them with --pictures")
    else:
        say(f"{counts['exported']} cases have their picture, for {counts['none']} nothing was drawn")
        if counts["purged"]:
            say(f"{counts['purged']} pictures were removed from storage on purpose, and are not in it")
        if counts["withheld"]:
            say(f"{counts['withheld']} sensitive pictures are withheld; to export them, on record: --show-sensitive")
