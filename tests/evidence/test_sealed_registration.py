"""A policy that was registered before the plan, in a bundle: found, dated, and checked under keys that are named."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit.corpus.ingest import MANIFEST_SCHEMA
from audit.corpus.manifest import manifest_sha256
from audit.evidence import keys
from audit.evidence.ledger import LedgerError
from audit.evidence.lines import Answer
from audit.evidence.registration import Criteria, record_head, register
from audit.evidence.sealed_registration import ENTRY, HEAD, registration_files
from audit.evidence.verify import verify
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.record import policy_sha256
from tests.evidence.bundles import NOW, PLANNED, POLICY, Bundle, key_pair, resealed, sealed

CORPUS = {"objects": 0, "sha256": manifest_sha256(MANIFEST_SCHEMA.empty_table())}
CRITERIA = Criteria("demo", Policy.model_validate(POLICY), CORPUS, {"backbone": "b" * 64})
Pair = tuple[keys.PrivateKey, keys.PublicKey]


def registered(folder: Path, at: dt.datetime, signer: keys.PrivateKey, *, late: bool = False) -> Journal:
    """The journal of a run to come, with a registration at a time; `late` notes the ledger as it was before it."""
    journal = Journal(str(folder / "journal"))
    if late:
        record_head(journal, "run-1")
    register(journal.store, CRITERIA, signer, "Ada", lambda: at)
    if not late:
        record_head(journal, "run-1")
    plan = {"corpus": CORPUS, "backbone": {"sha256": "b" * 64}}
    journal.put_run("run-1", "plan.json", json.dumps(plan).encode())
    return journal


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"))


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return key_pair(tmp_path_factory.mktemp("keys"), "registrar")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, pair: Pair, registrar: Pair) -> Bundle:
    folder = tmp_path_factory.mktemp("sealed")
    registered(folder, PLANNED - dt.timedelta(days=1), registrar[0])
    return sealed(folder, frames=[], pair=pair)


def check_7(bundle: Bundle, *trusted: keys.PublicKey) -> tuple[list[str], list[str]]:
    """What of check 7 is wrong, and what holds or was not checked."""
    found = verify(bundle.folder, trusted, now=NOW)
    lines = [line for line in found.lines if line.number in (1, 7)]
    wrong = [line.detail for line in lines if line.answer is Answer.WRONG]
    return wrong, [f"{line.answer.value}: {line.detail}" for line in lines if line.answer is not Answer.WRONG]


def test_a_registration_before_the_plan_is_in_the_bundle_and_verifies_under_its_key(
    bundle: Bundle, registrar: Pair
) -> None:
    assert (bundle.folder / "data" / ENTRY).exists() and (bundle.folder / "data" / HEAD).exists()
    wrong, others = check_7(bundle, bundle.public, registrar[1])
    assert wrong == []
    assert any(line.startswith("ok: policy registered 2025-11-21") and "attempt 1" in line for line in others)
    wrong, others = check_7(bundle, bundle.public)
    assert wrong == []
    assert any(line.startswith("not checked: policy registered") and "name that public key" in line for line in others)


def test_no_registration_after_the_plan_counts(tmp_path: Path, registrar: Pair) -> None:
    digest = policy_sha256(CRITERIA.policy)
    after = registered(tmp_path / "after", PLANNED + dt.timedelta(days=1), registrar[0])
    assert registration_files(after, "run-1", digest, PLANNED) == {}
    late = registered(tmp_path / "late", PLANNED - dt.timedelta(days=1), registrar[0], late=True)
    assert registration_files(late, "run-1", digest, PLANNED) == {}  # dated back, and the chain knows
    before = registered(tmp_path / "before", PLANNED - dt.timedelta(days=1), registrar[0])
    assert registration_files(before, "run-1", digest, PLANNED).keys() == {ENTRY, HEAD}
    assert registration_files(before, "run-1", "0" * 64, PLANNED) == {}


@pytest.mark.parametrize("changes", [{"corpus": {"objects": 0, "sha256": "d" * 64}}, {"model": {"backbone": "e" * 64}}])
def test_a_registration_of_another_corpus_or_model_is_none_of_this_run(
    tmp_path: Path, registrar: Pair, changes: dict[str, Any]
) -> None:
    journal, other = Journal(str(tmp_path)), dataclasses.replace(CRITERIA, **changes)
    register(journal.store, other, registrar[0], "Ada", lambda: PLANNED - dt.timedelta(days=1))
    registered(tmp_path / "own", PLANNED, registrar[0])
    journal.put_run("run-1", "plan.json", (tmp_path / "own/journal/runs/run-1/plan.json").read_bytes())
    assert registration_files(journal, "run-1", policy_sha256(CRITERIA.policy), PLANNED) == {}


def test_a_bundle_with_the_registration_of_another_corpus_does_not_verify(
    bundle: Bundle, tmp_path: Path, registrar: Pair
) -> None:
    lie = dataclasses.replace(bundle, folder=Path(shutil.copytree(bundle.folder, tmp_path / "lie")))
    other = dataclasses.replace(CRITERIA, corpus={"objects": 0, "sha256": "d" * 64})
    journal = Journal(str(tmp_path / "other"))
    register(journal.store, other, registrar[0], "Ada", lambda: PLANNED - dt.timedelta(days=1))
    record_head(journal, "run-1")
    files = {ENTRY: journal.store.get("ledger/000001.json"), HEAD: journal.get_run("run-1", "ledger.json")}
    wrong, _ = check_7(resealed(lie, files), bundle.public, registrar[1])
    assert wrong == ["the registration is for another corpus than the plan's"]


def test_a_ledger_that_was_written_anew_since_the_plan_is_not_sealed(tmp_path: Path, registrar: Pair) -> None:
    """Two entries when the run was planned, of which neither was of its policy; then two others in their place."""
    journal = registered(tmp_path, PLANNED - dt.timedelta(days=1), registrar[0])
    head = {"entries": 2, "head": "0" * 64}
    register(journal.store, CRITERIA, registrar[0], "Ada", lambda: PLANNED + dt.timedelta(days=1))
    journal.store.put("runs/run-1/ledger.json", json.dumps(head).encode())
    with pytest.raises(LedgerError, match="cut off or written anew"):
        registration_files(journal, "run-1", policy_sha256(CRITERIA.policy), PLANNED)


def test_a_registration_says_nothing_that_a_bundle_must_not(tmp_path: Path, registrar: Pair) -> None:
    secret = Criteria("demo", CRITERIA.policy, CRITERIA.corpus, {"backbone": "b" * 64, "concepts": ["unspeakable"]})
    journal = Journal(str(tmp_path))
    entry = register(journal.store, secret, registrar[0], "Ada", lambda: PLANNED)
    assert "unspeakable" not in str(entry.statement)
