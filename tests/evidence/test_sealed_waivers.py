"""Waivers in a bundle: sealed as they are, checked under the keys of those who may give them."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from pathlib import Path

import pytest

from audit.errors import EvidenceError, NotVerified
from audit.evidence import keys
from audit.evidence.lines import Answer
from audit.evidence.seal import seal
from audit.evidence.verify import verify
from audit.evidence.waivers import create, parse_selection
from audit.storage.run_records import read_records
from audit.verdict.waivers import Waiver
from tests.evidence.bundles import NOW, SEALED, Bundle, key_pair, sealed

Pair = tuple[keys.PrivateKey, keys.PublicKey]


@pytest.fixture(scope="module")
def approver(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"), "approver")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return sealed(tmp_path_factory.mktemp("sealed"), frames=[])


def waiver_file(folder: Path, bundle: Bundle, signer: keys.PrivateKey, **changes: object) -> Path:
    (record,) = read_records(bundle.journal, "run-1", "decisions")
    waiver = Waiver(
        name="w.json",
        run_id="run-1",
        policy_sha256=record.fields["policy_sha256"],
        cells=(parse_selection("concept=ring"),),
        reason="ships to nobody yet",
        owner="Ada",
        approver="Bob",
        compensating_control="closed beta",
        since=SEALED - dt.timedelta(hours=1),
        until=SEALED + dt.timedelta(days=30),
    )
    path = folder / "w.json"
    plan = bundle.journal.get_run("run-1", "plan.json")
    path.write_bytes(create(dataclasses.replace(waiver, **changes), plan, signer))  # type: ignore[arg-type]
    return path


def with_waiver(folder: Path, bundle: Bundle, file: Path) -> Path:
    to = folder / "evidence"
    return seal(bundle.journal, "run-1", bundle.index, bundle.private, to, SEALED, waivers=[file]).folder


def check_8(folder: Path, now: dt.datetime, *trusted: keys.PublicKey) -> list[str]:
    lines = verify(folder, trusted, now=now).lines
    assert not [line for line in lines if line.answer is Answer.WRONG and line.number in (1, 2, 3, 4, 7)]
    return [f"{line.answer.value}: {line.detail}" for line in lines if line.number == 8]


def test_a_waiver_is_sealed_and_checked_under_its_signers_key(tmp_path: Path, plain: Bundle, approver: Pair) -> None:
    folder = with_waiver(tmp_path, plain, waiver_file(tmp_path, plain, approver[0]))
    assert (folder / "data/waivers/01.json").read_bytes() == (tmp_path / "w.json").read_bytes()
    (line,) = check_8(folder, NOW, plain.public, approver[1])
    assert line.startswith("ok: waiver for side=reproduction,concept=ring, until ")
    assert "owner Ada, approved by Bob; it changes no status" in line
    (line,) = check_8(folder, NOW, plain.public)
    assert "not checked" in line and "name that public key with --key" in line
    (line,) = check_8(folder, SEALED + dt.timedelta(days=40), plain.public, approver[1])
    assert "so that it counts no more" in line


def test_a_waiver_that_had_expired_when_it_was_sealed_does_not_verify(
    tmp_path: Path, plain: Bundle, approver: Pair
) -> None:
    since, until = SEALED - dt.timedelta(days=9), SEALED - dt.timedelta(days=1)
    folder = with_waiver(tmp_path, plain, waiver_file(tmp_path, plain, approver[0], since=since, until=until))
    (line,) = check_8(folder, NOW, plain.public, approver[1])
    assert "it did not count when the bundle was sealed: it expired on" in line


@pytest.mark.parametrize(("field", "named"), [("run_id", "another run"), ("policy_sha256", "another policy")])
def test_a_waiver_for_something_else_is_not_sealed(
    tmp_path: Path, plain: Bundle, approver: Pair, field: str, named: str
) -> None:
    file = waiver_file(tmp_path, plain, approver[0], **{field: "f" * 64})
    with pytest.raises(EvidenceError, match=named):
        with_waiver(tmp_path, plain, file)
    assert not (tmp_path / "evidence").exists()


def test_a_file_that_is_no_waiver_is_not_sealed(tmp_path: Path, plain: Bundle) -> None:
    (tmp_path / "w.json").write_text(json.dumps({"reason": "because"}))
    with pytest.raises(NotVerified):
        with_waiver(tmp_path, plain, tmp_path / "w.json")
    with pytest.raises(EvidenceError, match="cannot be read"):
        with_waiver(tmp_path, plain, tmp_path / "nowhere.json")
