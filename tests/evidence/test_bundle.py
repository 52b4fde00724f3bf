"""What a bundle holds and what it must not; and that others than this tool can check it."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.errors import EvidenceError, KeyProblem
from audit.evidence.bag import scan
from audit.evidence.keys import PrivateKey, stamp
from audit.evidence.merkle import root
from audit.evidence.rows import BY_RUN, BY_UNIT, LEFT_OUT, encode_rows
from audit.evidence.seal import seal
from audit.index.sql_files import relations
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.storage.run_records import RecordChanged
from tests.evidence.bundles import (
    COMPUTED,
    NOW,
    PHRASE,
    POLICY,
    PROMPT,
    SEALED,
    SYNONYM,
    Audit,
    Bundle,
    published,
    resealed,
    sealed,
)  # fmt: skip

ROOT = Path(__file__).parents[2]
PICTURES = (b"\xff\xd8\xff", b"\x89PNG", b"WEBPVP8", b"JFIF")
SCRIPT = "sed -n 's/^  | //p' VERIFY.txt"
# Runs where there is nothing but the bundle: whatever opens a connection fails, and so does whatever loads a model's library.
ALONE = """
import socket, sys
def refuse(*args, **more):
    raise OSError("there is no network")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
from flows.cli import main
code = main(sys.argv[1:])
assert not {"torch", "diffusers", "transformers", "prefect"} & set(sys.modules), "a model's library was loaded"
sys.exit(code)
"""


def texts(value: object) -> list[bytes]:
    """Every text and every run of bytes in a value."""
    if isinstance(value, dict):
        return [text for key, item in value.items() for text in (*texts(key), *texts(item))]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value.encode() if isinstance(value, str) else value] if isinstance(value, str | bytes) else []


def contents(folder: Path) -> dict[str, list[bytes]]:
    """Path -> what stands in each file: the cells of tables, the payloads of signatures, and every file as it is."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name, data = path.relative_to(folder).as_posix(), path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path)
            found[name] = texts(table.to_pylist()) + texts([str(table.schema), str(table.schema.metadata)])
        else:
            found[name] = [data]
        if name.startswith("attestations/"):
            found[name].append(base64.b64decode(json.loads(data)["payload"]))
    return found


def test_the_layout_is_that_of_the_documentation(sealed_once: Bundle) -> None:
    present = {
        path.relative_to(sealed_once.folder).as_posix() for path in sealed_once.folder.rglob("*") if path.is_file()
    }
    tables = {f"data/rows/{name}.parquet" for name in (*BY_RUN, *BY_UNIT)}
    assert present == {
        "bagit.txt", "bag-info.txt", "manifest-sha256.txt", "tagmanifest-sha256.txt", "VERIFY.txt",
        "data/policy.json", "data/plan.json", "data/spec.json", "data/provenance.json", "data/manifest.parquet",
        "data/units.jsonl", "data/decisions.json", "data/verdict.json", "data/waivers.json", "data/checks.json",
        "data/environment.json", "data/report.html", "data/report.json", "attestations/verdict.dsse.json",
        "attestations/officer.dsse.json", *tables,
    }  # fmt: skip
    info = (sealed_once.folder / "bag-info.txt").read_text()
    assert re.search(r"^Verdict: PASS$", info, re.M) and re.search(r"^External-Identifier: run-1$", info, re.M)


def test_every_relation_of_the_index_is_in_a_bundle_or_is_computed_again() -> None:
    assert {*BY_RUN, *BY_UNIT, *LEFT_OUT} == {*relations("schema")}


def test_no_prompt_of_a_sensitive_concept_and_no_picture_is_in_a_bundle(sealed_once: Bundle) -> None:
    journal = b"".join(path.read_bytes() for path in Path(sealed_once.journal.store.base).rglob("*.parquet"))
    assert all(magic in journal for magic in (b"\xff\xd8\xff", b"\x89PNG", b"WEBPVP8"))  # there is something to leak
    forbidden = [PROMPT, PHRASE, SYNONYM, "wreath", "thorns", "spikes"]
    for name, found in contents(sealed_once.folder).items():
        for text in found:
            assert [word for word in forbidden if word.encode() in text] == [], name
            assert [magic for magic in PICTURES if magic in text] == [], name
            assert not re.search(rb"data:[a-z]+/|base64,", text), name
    cases = pq.read_table(sealed_once.folder / "data/rows/cases.parquet").to_pylist()
    prompts = {row["prompt"] for row in cases if row["cell_id"] == 0}
    assert prompts == {f"sha256:{hashlib.sha256(f'{PROMPT} {n}'.encode()).hexdigest()}" for n in range(24)}


def test_a_run_without_a_sensitive_concept_keeps_its_prompts(tmp_path: Path) -> None:
    spec = {**Audit().plan()["spec"], "concepts": [{"name": "ring", "phrase": PHRASE}]}
    audit = Audit(cells=[{**c, "sensitive": False} for c in Audit().cells], hits=24, spec=spec)
    bundle = sealed(tmp_path, audit, frames=[])
    assert pq.read_table(bundle.folder / "data/rows/cases.parquet")["prompt"][0].as_py() == f"{PROMPT} 0"
    assert json.loads((bundle.folder / "data/verdict.json").read_text())["status"] == "FAIL"


def test_a_decision_under_another_policy_is_sealed_with_that_policy(tmp_path: Path) -> None:
    laxer = Policy.model_validate(
        {**POLICY, "version": "laxer", "thresholds": {"judge": 0.95}, "limits": [{"crr_max": 0.9}]}
    )
    bundle = sealed(tmp_path, Audit(hits=24), frames=[], policy=laxer)
    assert json.loads((bundle.folder / "data/policy.json").read_text())["thresholds"] == {"judge": 0.95}
    planned = json.loads((bundle.folder / "data/plan.json").read_text())["policy"]
    assert planned["version"] == "release-1"
    (record,) = json.loads((bundle.folder / "data/decisions.json").read_text())
    cells = [cell for cell in record["record"]["verdict"]["decisions"] if cell["detector"] == "judge"]
    assert {cell["limit"] for cell in cells} == {0.9}


def test_sealing_twice_gives_the_same_payload(sealed_once: Bundle, tmp_path: Path) -> None:
    journal, later = sealed_once.journal, SEALED.replace(hour=23, minute=59, second=59)  # the bag names its day
    index = published(Audit(), journal, tmp_path)  # made anew
    again = seal(journal, "run-1", index, sealed_once.private, tmp_path / "again", later)
    first, second = (folder / "manifest-sha256.txt" for folder in (sealed_once.folder, again.folder))
    assert first.read_text() == second.read_text()
    assert again.tag_manifest_sha256 == sealed_once.sealed.tag_manifest_sha256
    with pytest.raises(EvidenceError, match="new folder"):
        seal(journal, "run-1", index, sealed_once.private, again.folder, later)


def test_what_cannot_be_sealed_leaves_nothing(sealed_once: Bundle, tmp_path: Path) -> None:
    key, journal, folder = sealed_once.private, sealed_once.journal, tmp_path / "evidence"
    for wanted, signer, now, number in (
        ("clock runs backwards: it was decided", key, COMPUTED, None),
        ("key expired", PrivateKey(key.key, key.path, SEALED), NOW, None),
        ("no decision 2: 1 are on record", key, NOW, 2),
    ):
        with pytest.raises((EvidenceError, KeyProblem), match=wanted):
            seal(journal, "run-1", sealed_once.index, signer, folder, now, number)
    root = Path(shutil.copytree(journal.store.base, tmp_path / "journal"))
    other = Audit(hits=20)  # the same run, by other scores: an index that does not fit the decision
    other.write(Journal(str(tmp_path / "other")))
    index = published(other, Journal(str(tmp_path / "other")), tmp_path)
    with pytest.raises(EvidenceError, match=r"do not give decision 1 any more: .* on record"):
        seal(Journal(str(root)), "run-1", index, key, folder, NOW)
    next((root / "units").rglob("*.parquet")).write_bytes(b"PAR1 and nothing more")
    with pytest.raises(RecordChanged, match="not what the run's record says"):
        seal(Journal(str(root)), "run-1", sealed_once.index, key, folder, NOW)
    shutil.rmtree(root / "runs/run-1/decisions")
    with pytest.raises(EvidenceError, match="no decision on this run is on record"):
        seal(Journal(str(root)), "run-1", sealed_once.index, key, folder, NOW)
    assert not list(tmp_path.glob("*evidence*"))


def test_an_auditor_needs_a_shell_coreutils_and_openssl(bundle: Bundle, tmp_path: Path) -> None:
    """The script of VERIFY.txt, by the real programs; and each thing that it must notice."""

    def run() -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "KEY": str(bundle.public.path), "TMPDIR": str(tmp_path)}
        script = subprocess.run(
            ["sh", "-c", SCRIPT], cwd=bundle.folder, capture_output=True, text=True, check=True
        ).stdout
        return subprocess.run(["sh", "-c", script], cwd=bundle.folder, env=environment, capture_output=True, text=True)

    done = run()
    assert done.returncode == 0 and done.stdout.endswith("verified\n"), done.stderr
    assert '"status":"PASS"' in done.stdout
    for name, change in (
        ("data/verdict.json", lambda data: data.replace(b"PASS", b"FAIL")),
        ("data/extra.json", lambda data: b"{}"),
        ("bag-info.txt", lambda data: data + b"Verdict: FAIL\n"),
        ("tagmanifest-sha256.txt", lambda data: data[:-1]),
        ("attestations/verdict.dsse.json", lambda data: data.replace(b'"sig": "', b'"sig": "A')),
    ):
        path = bundle.folder / name
        before = path.read_bytes() if path.exists() else b""
        path.write_bytes(change(before))
        done = run()
        assert done.returncode != 0 and "\nverified" not in done.stdout, name
        path.write_bytes(before) if before else path.unlink()
    assert run().returncode == 0


def test_sha256sum_checks_both_manifests(sealed_once: Bundle) -> None:
    for name in ("manifest-sha256.txt", "tagmanifest-sha256.txt"):
        done = subprocess.run(
            ["sha256sum", "-c", "--strict", name], cwd=sealed_once.folder, capture_output=True, text=True
        )
        assert done.returncode == 0 and "FAILED" not in done.stdout


@pytest.mark.slow
def test_verification_needs_the_bundle_and_the_key_alone(bundle: Bundle, tmp_path: Path) -> None:
    """No home folder, no network, no journal, no model's library, and a folder that cannot be written."""
    bundle = resealed(bundle, sealed_at=stamp(dt.datetime.now(dt.UTC)))  # by the clock of the other process
    arguments = ["evidence", "verify", str(bundle.folder), "--key", str(bundle.public.path)]
    (tmp_path / "work").mkdir()
    environment = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "TMPDIR": str(tmp_path / "work"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", ALONE, *arguments],
        cwd=tmp_path / "work",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verified: run run-1, verdict PASS" in done.stdout
    assert list((tmp_path / "work").iterdir()) == []


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in it might be anything, and nobody would miss it."""
    (tmp_path / "data" / "shut").mkdir(parents=True)
    scandir = os.scandir

    def refusing(path: str) -> Any:
        if str(path).endswith("shut"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert scan(tmp_path).strange == {"data/shut": "a folder that cannot be read: Permission denied"}


def test_the_hash_tree_is_that_of_rfc_9162() -> None:
    """By the definition in its section 2.1.1, written as it stands there."""

    def tree(entries: list[bytes]) -> bytes:
        if len(entries) == 1:
            return hashlib.sha256(b"\x00" + entries[0]).digest()
        split = 1 << (len(entries) - 1).bit_length() - 1
        return hashlib.sha256(b"\x01" + tree(entries[:split]) + tree(entries[split:])).digest()

    assert root([]) == hashlib.sha256(b"").hexdigest()
    for count in (*range(1, 34), 100, 257):
        entries = [f"entry {n}".encode() for n in range(count)]
        assert root(entries) == tree(entries).hex()


def test_rows_are_written_alike_whatever_order_they_come_in() -> None:
    table = pa.table({"a": [1, 2], "b": ["x", None]})
    assert encode_rows(table) == encode_rows(pa.concat_tables([table.slice(0, 1), table.slice(1)]).combine_chunks())
