"""The start of a flow: everything that can be checked before compute starts is checked here."""

from __future__ import annotations

import datetime as dt

from audit import locations, run
from audit.errors import SpecError
from audit.spec.document import load_spec
from tasks import context
from tasks.context import Run, Settings
from tasks.runners import require_runner
from tasks.slots import require_slot


def open_run(
    spec: str | None, root: str | None, run_id: str | None, settings: Settings | None, *, concludes: bool = True
) -> Run:
    """Open the run to work on: a new one for `spec`, or the stored one called `run_id`.

    Raises an `AuditError` for a bad spec, an unusable root, an unknown run, a missing GPU slot or, where the flow
    `concludes` the run, for an index or reports that could not be written at its end.
    """
    root = locations.storage_root(root)
    kept = context.kept_spec(root, run_id) if spec and run_id else None
    context.forget()
    settings = settings or Settings()
    if spec is None and run_id is None:
        raise SpecError("neither a spec nor a run is named", next_step="name a spec file or a run id")
    parsed = kept or (load_spec(spec) if spec else None)
    if concludes:  # a helper computes in its own process, wherever the run itself does
        require_runner(settings)
    if settings.gpu_slot:
        require_slot(settings.gpu_slot)
    journal = run.open_journal(root)
    now = dt.datetime.now(dt.UTC)
    opened = Run(
        run_id or run.new_run_id(parsed.name if parsed else "", now), root, settings, "run" if parsed else "resume"
    )
    if parsed is None:
        context.stored_spec(journal, opened.run_id)
        if concludes:
            run.require_intact_run(journal, opened.run_id, now)
    if concludes:
        locations.require_writable(opened.database, opened.report_folder)
    if parsed is not None:
        context.store_spec(journal, opened.run_id, parsed)
        context.keep_spec(root, opened.run_id, parsed)
    return opened
