"""policy register, list and verify, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from audit.evidence import keys
from audit.evidence.ledger import name_of
from audit.evidence.registration import record_head
from audit.storage.journal import Journal
from flows.cli import main
from tests.flows.audits import tiny_spec


@pytest.fixture
def key(tmp_path: Path) -> Path:
    keys.generate(tmp_path / "officer.pem")
    return tmp_path / "officer.pem"


def typed(capsys: pytest.CaptureFixture[str], *words: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of one command."""
    code = main([str(word) for word in words])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_a_policy_is_registered_listed_and_verified(
    tmp_path: Path, tiny_folder: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec, root = tiny_spec(tmp_path, tiny_folder), tmp_path / "runs"
    where = ("--root", root, "--json")
    code, out, _ = typed(capsys, "policy", "register", spec, "--key", key, "--as", "Ada", *where)
    entry = json.loads(out)
    assert (code, entry["number"], entry["about"], entry["attempt"], entry["by"]) == (0, 1, "tiny", 1, "Ada")
    said = json.loads(typed(capsys, "policy", "list", *where)[1])
    assert said == [entry]
    trusted = ("--key", key.with_suffix(".pub"))
    code, out, _ = typed(capsys, "policy", "verify", *trusted, "--head", entry["sha256"], *where)
    assert (code, json.loads(out)) == (0, {"entries": 1, "problems": [], "not_checked": []})
    code, out, _ = typed(capsys, "policy", "verify", "--root", root)
    assert code == 0 and out.count("NOT CHECKED") == 2 and "HOLDS        1 entries" in out
    file = root / name_of(1)
    file.write_bytes(file.read_bytes().replace(b'"kind":"policy"', b'"kind":"policies"'))
    code, out, _ = typed(capsys, "policy", "verify", "--head", entry["sha256"], "--root", root)
    assert code == 5 and "WRONG" in out and "cut off or written anew" in out


def test_a_ledger_that_is_broken_takes_no_entry_and_says_which_is_wrong(
    tmp_path: Path, tiny_folder: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "runs"
    (root / "ledger").mkdir(parents=True)
    (root / name_of(1)).write_text("{}")
    spec = tiny_spec(tmp_path, tiny_folder)
    code, _, err = typed(capsys, "policy", "register", spec, "--key", key, "--root", root)
    assert code == 2 and "ledger/000001.json cannot be read: its fields are not those of an entry" in err
    assert [path.name for path in (root / "ledger").iterdir()] == ["000001.json"]
    assert typed(capsys, "policy", "verify", "--root", root)[0] == 5


def test_an_empty_ledger_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = typed(capsys, "policy", "list", "--root", tmp_path)
    assert (code, out) == (0, "") and "policy register SPEC --key KEY" in err


def test_a_ledger_that_is_not_there_does_not_hold(
    tmp_path: Path, tiny_folder: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A mistyped root has none; where a run noted an entry, one that was deleted is missed without a noted digest."""
    root = tmp_path / "runs"
    code, _, err = typed(capsys, "policy", "verify", "--root", root)
    assert code == 2 and "there is no ledger below this storage root" in err
    typed(capsys, "policy", "register", tiny_spec(tmp_path, tiny_folder), "--key", key, "--root", root)
    journal = Journal(str(root))
    journal.put_run("run-1", "plan.json", b"{}")
    record_head(journal, "run-1")
    assert typed(capsys, "policy", "verify", "--root", root)[0] == 0
    (root / name_of(1)).unlink()
    code, out, _ = typed(capsys, "policy", "verify", "--root", root)
    assert code == 5 and "ledger/000001.json is not the entry that was there when run run-1 was planned" in out


def test_nothing_is_registered_for_a_spec_that_cannot_run(
    tmp_path: Path, tiny_folder: Path, key: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tiny_spec(tmp_path, tiny_folder, backbone=str(tmp_path / "nowhere"))
    code, _, err = typed(capsys, "policy", "register", spec, "--key", key, "--root", tmp_path / "runs")
    assert code == 2 and "there is no such model folder" in err
    assert not (tmp_path / "runs").exists()
    public = key.with_suffix(".pub")
    code, _, err = typed(capsys, "policy", "register", tiny_spec(tmp_path, tiny_folder), "--key", public)
    assert code == 2 and "no private Ed25519 key" in err
