"""A machine without a run's weights gets them from the storage root, and nothing that is not what its digest says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from audit.errors import CheckpointError, JournalError
from audit.plan.installation import differences, installation, shareable
from audit.spec.document import Spec, load_spec
from audit.storage.journal import Journal
from audit.weights import sharing
from tests.flows.audits import tiny_spec


@pytest.fixture
def spec(tmp_path: Path, tiny_copy: Path) -> Spec:
    return load_spec(tiny_spec(tmp_path, tiny_copy))


@pytest.fixture
def journal(tmp_path: Path, spec: Spec, monkeypatch: pytest.MonkeyPatch) -> Journal:
    """A journal that holds the weights of a run, on a machine with an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sharing, "_copies", {})
    journal = Journal(str(tmp_path / "runs"))
    assert sharing.share(journal, "run-1", shareable(spec)) > 3
    assert sharing.share(journal, "run-1", shareable(spec)) == 0  # everything is there already
    return journal


def test_a_machine_with_the_weights_fetches_nothing(journal: Journal) -> None:
    assert sharing.adopt(journal, "run-1") == []


def test_a_machine_without_the_weights_computes_with_copies(
    journal: Journal, spec: Spec, tiny_copy: Path, tmp_path: Path
) -> None:
    facts = installation(spec)
    shutil.move(tiny_copy, tmp_path / "elsewhere")
    (missing,) = differences(installation(spec), facts)
    assert missing.startswith(f"backbone {tiny_copy} is missing (there is no such model folder), the run has ")

    assert sharing.adopt(journal, "run-1") == [str(tiny_copy)]

    assert differences(installation(spec), facts) == []
    assert tmp_path / "cache" in (sharing.copy_of(str(tiny_copy)) or Path()).parents


def test_a_shared_file_of_another_content_is_refused(journal: Journal, tiny_copy: Path, tmp_path: Path) -> None:
    shutil.move(tiny_copy, tmp_path / "elsewhere")
    for blob in (tmp_path / "runs" / "weights").iterdir():
        blob.write_bytes(b"something else")
    with pytest.raises(CheckpointError, match="is not what its name says"):
        sharing.adopt(journal, "run-1")
    assert not [path for path in (tmp_path / "cache" / "erasure-audit" / "weights").rglob("*") if path.is_file()]


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd"])
def test_a_record_that_names_a_file_outside_is_refused(journal: Journal, name: str) -> None:
    record = {"somewhere": {"files": {name: "0" * 64}, "single": None}}
    journal.put_run("run-1", "weights.json", json.dumps(record).encode())
    with pytest.raises(JournalError, match="the list of shared weights is damaged"):
        sharing.adopt(journal, "run-1")
