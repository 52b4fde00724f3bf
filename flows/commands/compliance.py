"""compliance-report: one month of one system as HTML, PDF and JSON, from the rows of the published index alone."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path
from typing import Annotated

import typer

from audit import locations
from flows.commands import options
from flows.commands.keys import Trusted, trusted_keys
from flows.commands.results import Waivers
from flows.commands.waiving import require_complete
from flows.console import emit_json, say

MonthName = Annotated[str, typer.Option("--month", help="Calendar month in UTC, such as 2026-10.")]
System = Annotated[str, typer.Option("--system", help="The system, as the specs of its runs name it.")]
To = Annotated[Path | None, typer.Option("--to", help="Folder for the files (default: below the root's reports).")]
Formats = Annotated[str, typer.Option("--format", help="Formats, separated by commas: html, pdf, json.")]
Expected = Annotated[
    str | None,
    typer.Option("--expected", help='Cron expression, UTC, of the runs that should start, such as "0 2 * * *".'),
]

Json = Annotated[bool, typer.Option("--json", help="Print the verdict and the files as one JSON document on stdout.")]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("compliance-report")(compliance_report)


def compliance_report(
    month: MonthName,
    system: System,
    to: To = None,
    formats: Formats = "html,pdf,json",
    expected: Expected = None,
    waivers: Waivers = None,
    keys: Trusted = None,
    root: options.Root = None,
    database: options.Database = None,
    as_json: Json = False,
) -> None:
    """Write the report on one month of one system; its conclusion does not change the exit code.

    It reads the newest published copy of the index, and of the runs of one name the newest decided one stands for the month.
    """
    from audit.compliance.document import read_month
    from audit.compliance.formats import folder_name, parse_formats, write
    from audit.compliance.pdf import require_typst
    from audit.compliance.period import parse_month
    from audit.index.store import latest

    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    period, wanted = parse_month(month, now), parse_formats(formats)
    require_complete(False, waivers, keys)
    if "pdf" in wanted:
        require_typst()
    place = locations.storage_root(root)
    published = latest(locations.database_path(place, database).parent / "published")
    trusted, files = trusted_keys(keys or ()), [Path(os.path.expanduser(file)) for file in waivers or ()]
    report = read_month(published, system, period, now, expected=expected, waiver_files=files, keys=trusted)
    folder = locations.report_folder(place, folder_name(system, period), str(to) if to else None)
    written = write(report, folder, wanted)
    if as_json:
        files_by_format = {name: str(path) for name, path in written.items()}
        emit_json({"status": report.status, "exceptions": len(report.exceptions), "files": files_by_format})
    else:
        for path in written.values():
            print(path)
        for sentence in report.conclusion:
            say(sentence)
