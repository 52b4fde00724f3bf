"""A policy that was registered before the plan, in a bundle: found, dated, and checked under keys that are named."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from audit.evidence import keys
from audit.evidence.lines import Answer
from audit.evidence.registration import Criteria, record_head, register
from audit.evidence.sealed_registration import ENTRY, HEAD, registration_files
from audit.evidence.verify import verify
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.record import policy_sha256
from tests.evidence.bundles import NOW, PLANNED, POLICY, Bundle, key_pair, sealed

CRITERIA = Criteria("demo", Policy.model_validate(POLICY), {"objects": 0, "sha256": "c" * 64}, {"backbone": "b" * 64})
Pair = tuple[keys.PrivateKey, keys.PublicKey]


def registered(folder: Path, at: dt.datetime, signer: keys.PrivateKey, *, late: bool = False) -> Journal:
    """The journal of a run to come, with a registration at a time; `late` notes the ledger as it was before it."""
    journal = Journal(str(folder / "journal"))
    if late:
        record_head(journal, "run-1")
    register(journal.store, CRITERIA, signer, "Ada", lambda: at)
    if not late:
        record_head(journal, "run-1")
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


def test_a_registration_says_nothing_that_a_bundle_must_not(tmp_path: Path, registrar: Pair) -> None:
    secret = Criteria("demo", CRITERIA.policy, CRITERIA.corpus, {"backbone": "b" * 64, "concepts": ["unspeakable"]})
    journal = Journal(str(tmp_path))
    entry = register(journal.store, secret, registrar[0], "Ada", lambda: PLANNED)
    assert "unspeakable" not in str(entry.statement)
