"""corpus: look at a corpus before auditing with it."""

from __future__ import annotations

from collections import Counter
from typing import Annotated

import typer

from audit.spec.sections import CorpusEntry, CorpusLimits
from flows.commands import options
from flows.console import emit_json, progress_bars, say, table

app = typer.Typer(help="Look at a corpus before auditing with it.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Look at a corpus before auditing with it."""


@app.command("manifest")
def manifest(
    url: Annotated[str, typer.Argument(help="Folder or s3:// prefix with the pictures.")],
    concept: Annotated[str, typer.Option("--concept", help="What the pictures show.")] = "unnamed",
    role: Annotated[str, typer.Option("--role", help="target, neighbour or control.")] = "target",
    out: Annotated[str | None, typer.Option("--out", help="Write the manifest there, as Parquet.")] = None,
    as_json: options.Json = False,
) -> int:
    """List, hash and decode every object under URL; say which cannot be used, and what would keep a run from a verdict.

    Exit 2 when no object can be used. A run checks all entries of its spec together, so what fails here alone may be within
    tolerance there.
    """
    from pydantic import ValidationError

    from audit.corpus import ingest
    from audit.errors import EXIT_USAGE, SpecError
    from audit.index.corpus_checks import manifest_problems

    try:
        entry = CorpusEntry.model_validate({"url": url, "concept": concept, "role": role})
    except ValidationError as error:
        detail = error.errors(include_url=False)[0]
        what = f"{'.'.join(map(str, detail['loc']))}: {detail['msg']}"
        raise SpecError(what, where="corpus manifest", next_step="mend this option") from None
    import pyarrow as pa

    skipped: list[str] = []
    with progress_bars() as reporter:
        reporter.begin("collect", None, 0)
        batches = list(
            ingest.manifest([entry], CorpusLimits(), progress=lambda n: reporter.update("collect", n), skipped=skipped)
        )
        reporter.end("collect")
    rows = pa.Table.from_batches(batches, schema=ingest.MANIFEST_SCHEMA)
    errors = Counter(error for error in rows["error"].to_pylist() if error)
    usable = rows.num_rows - sum(errors.values())
    duplicates = rows.num_rows - rows["duplicate_of"].null_count
    if out:
        ingest.write_manifest(batches, out)
        say(f"manifest written to {out}")
    summary = {"objects": rows.num_rows, "usable": usable, "duplicates": duplicates, "unusable": sum(errors.values())}
    if skipped:
        summary["skipped"] = len(skipped)  # left by macOS or Windows
    problems = manifest_problems(rows)
    if as_json:
        emit_json({**summary, "errors": dict(errors.most_common(20)), "problems": problems})
    else:
        table([summary])
        for text, count in errors.most_common(10):
            print(f"  {count} x {text}")
        if problems:
            print("a run with this corpus alone could only end INCONCLUSIVE, because its manifest does not pass:")
        for problem in problems:
            print(f"  - {problem}")
    return 0 if usable else EXIT_USAGE
