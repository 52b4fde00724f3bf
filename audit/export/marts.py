"""Write the marts of a published index as CSV or Parquet files, for spreadsheets and other tools.

A spreadsheet takes a text that begins with `=`, `+`, `-`, `@` or a tab for a formula, and anybody may have written the names
and prompts of a spec. In CSV such a text gets a leading apostrophe, which spreadsheets show as text, also behind a semicolon,
a tab or a line end, where some of them begin a new cell. Numbers are no text, and stay as they are. Parquet has no formulas
and says what is in the index.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from audit.errors import StoreError
from audit.export import MartFormat
from audit.export.manifest import ExportedFile, exported, write_manifest
from audit.files import Document, new_folder
from audit.identity import file_sha256
from audit.index.copies import open_copy
from audit.index.published import require_run
from audit.index.store import explained
from audit.progress.steps import counted

# The full-width signs are formulas in some languages.
_HARMLESS = r"""regexp_replace({0}, '(^|[;\t\r\n])([ "]*[=+\-@\t\r＝＋－＠])', '\1''\2', 'g')"""
_MARTS = "select view_name from duckdb_views() where regexp_full_match(view_name, 'mart_[a-z_]+') order by view_name"
_PLAIN = ("BOOLEAN", "DOUBLE", "FLOAT", "DATE", "TIMESTAMP")
_SENSITIVE = "select count(*) > 0 from mart_samples where sensitive"


def export_marts(copy: Path, folder: Path, form: MartFormat, run_id: str | None = None) -> Document:
    """Write every mart of a published copy into a new `folder`, the rows of one run where given, and return the manifest.

    A mart that is not about runs is written whole. Rows are in the order of all their columns, so the same index gives
    them in the same order. Raises `EnvironmentProblem` for a folder that is in use or cannot be written, `StoreError` for the
    index and for a run that it does not know.
    """
    with new_folder(folder) as unfinished, explained(copy):
        con = open_copy(copy, unfinished)
        try:
            if run_id is not None:
                require_run(con, run_id, copy)
            names = [str(row[0]) for row in con.execute(_MARTS).fetchall()]
            marts = counted(names, "export", len(names), "tables")
            files = [_export(con, name, unfinished, form, run_id) for name in marts]
            ((sensitive,),) = con.execute(_SENSITIVE).fetchall()
        except (duckdb.CatalogException, duckdb.BinderException, duckdb.PermissionException) as error:
            raise StoreError(
                f"a mart of the index is not one of this tool's: {str(error).splitlines()[0]}",
                where=str(copy),
                next_step="rebuild the index from the journal with: erasure-audit db rebuild",
            ) from None
        finally:
            con.close()
        facts = {"index": {"file": copy.name, "sha256": file_sha256(copy)}, "run": run_id, "sensitive": sensitive}
        return write_manifest(unfinished, files, facts)


def _export(
    con: duckdb.DuckDBPyConnection, mart: str, folder: Path, form: MartFormat, run_id: str | None
) -> ExportedFile:
    columns = {str(row[0]): str(row[1]) for row in con.execute(f"describe {mart}").fetchall()}
    chosen = f"where run_id = {_literal(run_id)}" if run_id is not None and "run_id" in columns else ""
    if form is MartFormat.CSV:
        texts = [_name(column) for column, kind in columns.items() if not _plain(kind)]
        selected = ", ".join(_cell(column, kind) for column, kind in columns.items())
        quoted = f", force_quote ({', '.join(texts)})" if texts else ""
        options = f"format csv, header true{quoted}"
    else:
        selected, options = "*", "format parquet, compression zstd"
    path = f"{mart}.{form.value}"
    target = _literal(str(folder / path))
    rows = f"select {selected} from (select * from {mart} {chosen} order by all)"
    ((count,),) = con.execute(f"copy ({rows}) to {target} ({options})").fetchall()
    return exported(folder, mart, path, int(count))


def _plain(kind: str) -> bool:
    """Return whether values of a column are numbers, truth values or times, which no spreadsheet takes for formulas."""
    return "[" not in kind and (kind.startswith(_PLAIN) or "INT" in kind or kind.startswith("DECIMAL"))


def _cell(column: str, kind: str) -> str:
    name = _name(column)
    if _plain(kind):
        return name
    text = name if kind == "VARCHAR" else f"to_json({name})::varchar"
    return f"{_HARMLESS.format(text)} as {name}"


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
