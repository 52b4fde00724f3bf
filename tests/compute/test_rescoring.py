"""Pictures of an old run that new judges cannot see."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from audit.compute.rescoring import require_pictures
from audit.errors import EvidenceError
from audit.storage.journal import Journal
from audit.storage.run_records import PURGED, append
from tests.synthetic import Run, cell


def test_purged_pictures_are_not_scored_and_the_message_says_who_removed_them(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path))
    run = Run("old", cells=[cell(0, 8)])
    run.write(journal)
    first, second = (run.key("generate", number) for number in (0, 1))
    require_pictures(journal, "old", {first, second})
    fields = {"units": [{"key": first}], "by": "Ada", "reason": "the retention period of pixels is over"}
    append(journal, "old", PURGED, dt.datetime(2026, 11, 28, tzinfo=dt.UTC), lambda earlier: fields)
    require_pictures(journal, "old", {second})
    with pytest.raises(EvidenceError) as refused:
        require_pictures(journal, "old", {first, second})
    assert refused.value.what == (
        "the pictures of this run were purged on 2026-11-28T00:00:00+00:00 by Ada, so they cannot be scored again: "
        "the retention period of pixels is over"
    )
    assert refused.value.where == "run old, 1 of 2 units" and refused.value.next_step and refused.value.exit_code == 2
