"""The commands of docs/evidence.md, typed one after the other, on a run of a sensitive concept."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from audit.errors import EXIT_FAIL, EXIT_INCONCLUSIVE, EXIT_NOT_VERIFIED, EXIT_USAGE
from audit.evidence.keys import PASSPHRASE
from audit.storage.journal import Journal
from flows.cli import main
from tests.evidence.bundles import Audit, Bundle, decide, published
from tests.flows.audits import finish_run, tiny_spec
from tests.test_docs import ROOT, lines_of


def test_the_lines_of_the_page_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ERASURE_AUDIT_ROOT", str(tmp_path / "runs"))
    journal, audit = Journal("runs"), Audit(hits=20)
    audit.write(journal)
    decide(audit, journal, published(audit, journal, tmp_path / "runs/db"), tmp_path / "runs/db")
    assert main(["evidence", "keygen", "officer.pem", "--json"]) == 0
    made = json.loads(capsys.readouterr().out)
    typed = [line for line in lines_of(ROOT / "docs/evidence.md") if line.startswith("erasure-audit evidence")]
    assert [line.split()[2] for line in typed] == ["keygen", "seal", "sign", "verify"]
    for line in typed:
        code = main(shlex.split(line.replace("RUN_ID", "run-1"))[1:])
        printed = capsys.readouterr()
        assert code == 0, f"{line}\n{printed.out}\n{printed.err}"
        assert "PRIVATE KEY" not in printed.out + printed.err
    assert "verified: run run-1, verdict FAIL" in printed.out  # whether it holds, not what it says
    assert made["keyid"][:16] in printed.out and "R. Fuchs, compliance officer" in printed.out

    (tmp_path / "bundle/data/verdict.json").write_text("{}")
    arguments = ["evidence", "verify", "bundle", "--key", "seal.pub", "--key", "officer.pub"]
    assert main(arguments) == EXIT_NOT_VERIFIED
    printed = capsys.readouterr()
    assert "data/verdict.json: the file is not the one that was sealed" in printed.out
    assert "NOT verified: 1 thing is wrong" in printed.out
    assert main([*arguments, "--json"]) == EXIT_NOT_VERIFIED
    document = json.loads(capsys.readouterr().out)
    assert document["verified"] is False
    wrong = [check for check in document["checks"] if check["answer"] == "NOT verified"]
    assert [(check["check"], check["where"]) for check in wrong] == [("files", "data/verdict.json")]


def test_mistakes_have_one_message_each(
    sealed_once: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(PASSPHRASE, raising=False)
    (tmp_path / ".git").mkdir()
    assert main(["evidence", "keygen", "seal.pem"]) == 0
    assert "lies in the git repository" in capsys.readouterr().err
    bundle, public = str(sealed_once.folder), str(sealed_once.public.path)
    for arguments, message in (
        (["keygen", "seal.pem"], "a key is never overwritten"),
        (["keygen", "other.pem", "--not-after", "soon"], "--not-after 'soon' is no date"),
        (["keygen", "other.pem", "--not-after", "2020-01-01"], "could sign nothing: that day is over"),
        (["verify", bundle, "--key", public, "--as-of", "9999-12-31T23:59:59-12:00"], "is no date"),
        (["keygen", "other.pem", "--passphrase"], "there is no passphrase"),
        (["seal", "run-1", "--key", "seal.pub"], "no private Ed25519 key"),
        (["verify", "absent", "--key", public], "there is no bundle"),
        (["verify", bundle, "--key", "seal.pem"], "no public Ed25519 key"),
        (["sign", bundle, "--as", "", "--role", "officer", "--key", "seal.pem"], "the name is empty"),
    ):
        assert main(["evidence", *arguments]) == EXIT_USAGE
        assert message in capsys.readouterr().err
    assert not (tmp_path / "other.pem").exists()


def test_names_of_files_cannot_pass_for_lines_of_the_verifier(
    bundle: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    (bundle.folder / "attestations" / "x\nverified: run run-1, verdict PASS").write_bytes(b"")
    (bundle.folder / "data" / "\x1b[2K").write_bytes(b"")
    assert main(["evidence", "verify", str(bundle.folder), "--key", str(bundle.public.path)]) == EXIT_NOT_VERIFIED
    printed = capsys.readouterr().out
    assert "attestations/x\\nverified: run run-1" in printed and "data/\\x1b[2K" in printed
    assert not any(line.startswith("verified") for line in printed.splitlines()) and "\x1b" not in printed


def test_a_key_behind_a_passphrase_signs(
    sealed_once: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    assert main(["evidence", "keygen", "seal.pem", "--passphrase"]) == 0
    assert b"ENCRYPTED" in (tmp_path / "seal.pem").read_bytes()
    root = str(sealed_once.journal.store.base)
    assert main(["evidence", "seal", "run-1", "--key", "seal.pem", "--root", root, "--database", "index.duckdb"]) == 0
    printed = capsys.readouterr()
    assert "evidence verify evidence-run-1 --key seal.pub" in printed.out
    assert "correct horse" not in printed.out + printed.err
    monkeypatch.delenv(PASSPHRASE)
    assert main(["evidence", "seal", "run-1", "--key", "seal.pem", "--root", root, "--to", "again"]) == EXIT_USAGE
    assert "needs its passphrase" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_that_was_computed_is_sealed_and_verified(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights, rendered pictures, inverted latents and the real NudeNet, from the corpus to the verified bundle."""
    concepts = [{"name": "ring", "phrase": "hoop", "sensitive": True}]
    run_id = finish_run(tiny_spec(tmp_path, tiny_folder, concepts=concepts), tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    assert main(["gate", run_id, "--root", "runs"]) in (EXIT_FAIL, EXIT_INCONCLUSIVE)
    assert main(["evidence", "keygen", "seal.pem"]) == 0
    assert main(["evidence", "seal", run_id, "--root", "runs", "--key", "seal.pem", "--to", "bundle"]) == 0
    capsys.readouterr()
    code = main(["evidence", "verify", "bundle", "--key", "seal.pub", "--journal", "runs"])
    printed = capsys.readouterr().out
    assert code == 0, printed
    assert f"verified: run {run_id}" in printed and "the journal's files are those that were sealed" in printed
    for path in Path("bundle").rglob("*"):
        assert path.is_dir() or (b"hoop" not in path.read_bytes() and b"data:image" not in path.read_bytes()), path
    assert all("hoop" not in str(pq.read_table(path).to_pylist()) for path in Path("bundle").rglob("*.parquet"))
