"""Read what is on record of pictures that were removed from a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from audit.storage.journal import Journal
from audit.storage.run_records import PURGED, read_records


def recorded_units(journal: Journal, run_id: str) -> Iterator[Mapping[str, object]]:
    """Yield the files that pictures of a run were taken out of, oldest first.

    Raises `RecordChanged` when the record of a removal was changed.
    """
    for record in read_records(journal, run_id, PURGED):
        yield from record.fields["units"]


def earlier_files(journal: Journal, run_id: str) -> dict[str, frozenset[str]]:
    """Return SHA-256 of a file that pictures were taken out of -> those of the files that were there before, of a whole run.

    Raises `RecordChanged` when the record of a removal was changed.
    """
    earlier: dict[str, frozenset[str]] = {}
    for unit in recorded_units(journal, run_id):
        before = str(unit["before"])
        earlier[str(unit["after"])] = earlier.get(before, frozenset()) | {before}
    return earlier


def bare_files(journal: Journal, run_id: str) -> set[str]:
    """Return the SHA-256 of every file of a run that has no picture left. Raises as `earlier_files`."""
    return {str(unit["after"]) for unit in recorded_units(journal, run_id) if not unit.get("left", 0)}
