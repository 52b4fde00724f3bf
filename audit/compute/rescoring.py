"""Score the pictures of an old run by the judges of a new one."""

from __future__ import annotations

from collections.abc import Callable

from audit.compute.worker import Worker
from audit.errors import EvidenceError
from audit.plan.document import Plan
from audit.plan.rescoring import Rescoring
from audit.storage.journal import Journal
from audit.storage.run_records import PURGED, read_records


def score_again(
    journal: Journal,
    rescoring: Rescoring,
    new: Plan,
    *,
    device: str | None = None,
    batch_size: int | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Compute the units of a derived run that the journal lacks, and return their number. `progress` gets (done, total).

    Raises `EvidenceError` when pictures of the old run were purged, and what a `Worker` of the new run's plan raises.
    """
    done = journal.keys("detect")
    pending = [unit for unit in rescoring.units if unit.key not in done]
    require_pictures(journal, rescoring.old, {unit.depends[0] for unit in pending})
    if not pending:
        return 0
    worker = Worker(new, journal, device=device, batch_size=batch_size, kinds=("detect",))
    progress(0, len(pending))
    for number, unit in enumerate(pending, start=1):
        worker.run(unit)
        progress(number, len(pending))
    return len(pending)


def require_pictures(journal: Journal, run_id: str, generate_keys: set[str]) -> None:
    """Return when the pictures of these units are there still. Raises `EvidenceError` that says when and why they were purged."""
    for record in read_records(journal, run_id, PURGED):
        gone = {unit["key"] for unit in record.fields["units"]} & generate_keys
        if gone:
            raise EvidenceError(
                f"the pictures of this run were purged on {record.fields['at']} by {record.fields['by']}, so they cannot be "
                f"scored again: {record.fields['reason']}",
                where=f"run {run_id}, {len(gone)} of {len(generate_keys)} units",
                next_step="compare the new run with one whose pictures are there, or that the same judges scored",
            )
