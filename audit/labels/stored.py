"""Labels below the storage root, `labels/<sha256>.json`: never changed, and counted for every run with the same judges."""

from __future__ import annotations

import hashlib
import re

from audit.errors import LabelsError
from audit.labels import documents
from audit.labels.documents import LabelledPicture, Rater, StoredLabels
from audit.labels.raters import Labelling
from audit.storage.journal import Journal

FOLDER = "labels"
_NAME = re.compile(r"([0-9a-f]{64})\.json")
_MEND = "restore this file from a backup; labels are never changed once they are stored"


def joined(labelling: Labelling) -> StoredLabels:
    """Return the labels of both raters beside what the judges said."""
    task, record = labelling.exported.task, labelling.exported.record
    # In one order, so that the same two files give the same document in whatever order they are named.
    first, second = sorted(labelling.raters, key=lambda file: (file.rater, file.saved_at))
    return StoredLabels.new(
        run_id=task.run_id,
        task=task.digest(),
        exported_at=task.exported_at,
        raters=tuple(Rater(name=f.rater, started_at=f.started_at, saved_at=f.saved_at) for f in (first, second)),
        strata=task.strata,
        judges=record.judges,
        pictures=tuple(
            LabelledPicture(**dict(picture), labels=(first.labels[picture.id], second.labels[picture.id]))
            for picture in record.pictures
        ),
    )


def store(journal: Journal, labels: StoredLabels) -> tuple[str, bool]:
    """Store labels under their own digest; (digest, whether they are new). Raises `JournalError`."""
    data = labels.encoded()
    digest = hashlib.sha256(data).hexdigest()
    return digest, journal.store.put_new(f"{FOLDER}/{digest}.json", data)


def stored(journal: Journal) -> list[tuple[str, StoredLabels]]:
    """Return (digest, labels) of everything that is stored, in the order of the digests.

    Raises `LabelsError` for a file whose bytes are not those that its name promises, and for one of a newer version.
    """
    read = []
    for name, _ in sorted(journal.store.entries(FOLDER)):
        match = _NAME.fullmatch(name)
        if match is None:
            continue
        where = journal.store.url(f"{FOLDER}/{name}")
        data = journal.store.get(f"{FOLDER}/{name}")
        if hashlib.sha256(data).hexdigest() != match[1]:
            what = "stored labels were changed: they are not those that their name promises"
            raise LabelsError(what, where=where, next_step=_MEND)
        read.append((match[1], documents.parse(StoredLabels, data, where, _MEND)))
    return read
