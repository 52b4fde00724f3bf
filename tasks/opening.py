"""The start of a flow: everything that can be checked before compute starts is checked here."""

from __future__ import annotations

import datetime as dt

from audit import locations, run
from audit.errors import SpecError
from audit.spec import load_spec
from tasks import context
from tasks.context import Run, Settings
from tasks.slots import require_slot


def open_run(spec: str | None, root: str | None, run_id: str | None, settings: Settings | None) -> Run:
    """The run to work on: a new one for `spec`, or the stored one called `run_id`.

    Raises an `AuditError` for a bad spec, an unusable root, an unknown run or a missing GPU slot.
    """
    context.forget()
    root = locations.storage_root(root)
    settings = settings or Settings()
    if spec is None and run_id is None:
        raise SpecError("neither a spec nor a run is named", next_step="name a spec file or a run id")
    parsed = load_spec(spec) if spec else None
    if settings.gpu_slot:
        require_slot(settings.gpu_slot)
    journal = run.open_journal(root)
    if parsed is None:
        assert run_id is not None
        context.stored_spec(journal, run_id)
        return Run(run_id, root, settings)
    run_id = run_id or run.new_run_id(parsed.name, dt.datetime.now(dt.UTC))
    context.store_spec(journal, run_id, parsed)
    return Run(run_id, root, settings)
