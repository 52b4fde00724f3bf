"""A personalisation that the spec brings: it is read, compared with its base and described, not searched for.

Its weights stay in their files; the journal holds their digest and what they change. Pictures are made by
`audit/compute/personalised.py`.
"""

from __future__ import annotations

from audit.attacks.protocol import Found, Row, Search
from audit.records import Status

NAME = "personalisation"
VERSION = "1"


def run(search: Search) -> Found:
    """Return a row for each item, with the facts about the personalisation and the size of its change.

    Raises `CheckpointError` when the files are no longer the planned ones, cannot be used, or add nothing to their base.
    """
    assert search.change is not None  # a worker always gives it
    change = search.change()
    report = {**change.facts, "summary": change.summary, "sha256": search.parameters["sha256"]}
    return Found([Row(item, Status.OK, report=report) for item in search.items])
