"""What a verification must notice although every digest fits: keys that prove nothing, clocks, and signers who lie."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit import identity
from audit.errors import EvidenceError
from audit.evidence import content as contents
from audit.evidence import dsse, keys
from audit.evidence.bag import scan
from audit.evidence.content import Content, check_versions, guarded
from audit.evidence.integrity import Signatures, check_keys, check_signatures
from audit.evidence.journal_check import check_units
from audit.evidence.lines import Answer, Line
from audit.evidence.rows import encode_rows
from audit.evidence.seal import PREDICATE, VERDICT
from audit.evidence.sign import sign
from audit.evidence.verify import CHECKS, Verification, verify
from audit.storage.journal import Journal
from tests.evidence.bundles import DAY, NOW, PLANNED, SEALED, Bundle, key_pair, resealed


def checked(bundle: Bundle, **options: Any) -> Verification:
    return verify(bundle.folder, bundle.keys, **{"now": NOW, **options})


def wrong(found: Verification) -> list[Line]:
    return [line for line in found.lines if line.answer is Answer.WRONG]


def rows_of(bundle: Bundle, name: str) -> list[dict[str, Any]]:
    return pq.read_table(bundle.folder / f"data/rows/{name}.parquet").to_pylist()


def with_rows(bundle: Bundle, name: str, rows: list[dict[str, Any]]) -> dict[str, bytes]:
    schema = pq.read_schema(bundle.folder / f"data/rows/{name}.parquet")
    return {f"rows/{name}.parquet": encode_rows(pa.Table.from_pylist(rows, schema))}


def with_json(bundle: Bundle, name: str, change: Callable[[Any], Any]) -> dict[str, bytes]:
    document = json.loads((bundle.folder / "data" / name).read_text())
    return {name: json.dumps(change(document), indent=1, sort_keys=True).encode()}


def lines(bundle: Bundle, number: int, tmp_path: Path, *arguments: Any) -> list[Line]:
    """The lines of one check of the content, without the others."""
    envelope = dsse.decode_envelope((bundle.folder / VERDICT).read_bytes(), VERDICT)
    _, facts = dsse.read_statement(dsse.payload_of(envelope), PREDICATE, VERDICT)
    shutil.rmtree(tmp_path / "work", ignore_errors=True)
    (tmp_path / "work").mkdir()
    content = Content(scan(bundle.folder), facts, tmp_path / "work")
    first = list(guarded(4, check_versions(content)))
    check: Mapping[int, Callable[..., Iterator[Line]]] = {
        5: contents.check_counts, 6: contents.check_decisions, 7: contents.check_policy, 10: check_units,
        11: contents.check_age,
    }  # fmt: skip
    return first if number == 4 else list(guarded(number, check[number](content, *arguments)))


def signatures(bundle: Bundle, trusted: list[keys.PublicKey], now: dt.datetime = NOW) -> list[Line]:
    """What is wrong with the signatures and the keys, without the content."""
    found = [*check_keys(bundle.folder, trusted), *check_signatures(scan(bundle.folder), trusted, now, Signatures())]
    return [line for line in found if line.answer is Answer.WRONG]


def only_wrong(found: list[Line]) -> Line:
    (line,) = [line for line in found if line.answer is Answer.WRONG]
    return line


def test_each_check_has_a_line_and_what_is_not_checked_is_said(sealed_once: Bundle) -> None:
    found = checked(sealed_once, journal=sealed_once.journal, most_days=30)
    assert found.holds and found.status == "PASS" and found.run_id == "run-1"
    assert [line.number for line in found.lines] == sorted(line.number for line in found.lines)
    assert {line.number for line in found.lines} == {*CHECKS}
    texts = [line.detail for line in found.lines]
    assert any("R. Fuchs, compliance officer: I reviewed" in text for text in texts)
    assert any("2 decisions follow from the rows" in text for text in texts)
    order = next(text for text in texts if text.startswith("policy as signed"))
    assert [order.index(word) for word in ("planned", "first_unit", "decided", "sealed")] == sorted(
        order.index(word) for word in ("planned", "first_unit", "decided", "sealed")
    )
    unchecked = [line.detail for line in found.lines if line.answer is Answer.UNCHECKED]
    assert len(unchecked) == 3  # the pixels, the policy's registration, the judges' own errors


def test_keys_that_prove_nothing(bundle: Bundle, tmp_path: Path) -> None:
    assert signatures(bundle, bundle.keys) == []
    stranger = key_pair(tmp_path, "stranger")[1]
    unknown, more = signatures(bundle, [stranger])
    assert "none that you trust" in unknown.detail and unknown.where == "attestations/officer.dsse.json"
    assert more.where == VERDICT
    (unused,) = signatures(bundle, [*bundle.keys, stranger])
    assert unused.where == "attestations" and "stranger.pub signed nothing here" in unused.detail
    assert [line.where for line in signatures(bundle, bundle.keys[1:])] == [VERDICT]

    shutil.copyfile(bundle.public.path, bundle.folder / "data" / "seal.pub")
    inside = keys.load_public_key(bundle.folder / "data" / "seal.pub")
    found = wrong(verify(bundle.folder, [inside], now=NOW))
    assert "comes with what it signs proves nothing" in found[0].detail
    assert any(line.where == "data/seal.pub" for line in found)


def test_an_expired_key_needs_the_day_on_which_the_bundle_came(bundle: Bundle) -> None:
    expired = dataclasses.replace(bundle.public, not_after=SEALED + dt.timedelta(hours=1))
    bundle = dataclasses.replace(bundle, public=expired)
    (line,) = wrong(checked(bundle))
    assert (
        f"seal.pub expired on {keys.stamp(SEALED + dt.timedelta(hours=1))}" in line.detail
        and line.next_step
        and "--as-of" in line.next_step
    )
    assert signatures(bundle, bundle.keys, SEALED) == []
    early = verify(bundle.folder, bundle.keys, now=NOW, as_of=SEALED - dt.timedelta(days=1))
    assert "nobody had the bundle by" in wrong(early)[0].detail


def test_a_bundle_that_nobody_reviewed_says_so(bundle: Bundle) -> None:
    alone = [line.detail for line in verify(bundle.folder, bundle.keys[:1], now=NOW).lines]
    assert not any("a review" in text for text in alone)
    (bundle.folder / "attestations" / "officer.dsse.json").unlink()
    found = verify(bundle.folder, bundle.keys[:1], now=NOW)
    assert any("no signature of a person" in line.detail and line.answer is Answer.UNCHECKED for line in found.lines)


def test_without_a_folder_or_a_seal(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match="no bundle"):
        verify(tmp_path / "absent", bundle.keys, now=NOW)
    (bundle.folder / VERDICT).unlink()
    found = checked(bundle)
    assert VERDICT in {line.where for line in wrong(found)}
    assert found.status is None
    assert [line.number for line in found.lines if line.detail == "the checks before it do not hold"] == [*range(4, 12)]


def test_a_journal_that_changed_is_noticed_by_the_file(sealed_once: Bundle, tmp_path: Path) -> None:
    root = Path(shutil.copytree(sealed_once.journal.store.base, tmp_path / "journal"))
    changed, gone = sorted((root / "units").rglob("*.parquet"))[:2]
    changed.write_bytes(changed.read_bytes()[:-1])
    gone.unlink()
    found = lines(sealed_once, 10, tmp_path, Journal(str(root)))
    places = {line.where: line.detail for line in found if line.answer is Answer.WRONG}
    assert places == {
        changed.relative_to(root).as_posix(): "the file is not the one that was sealed",
        gone.relative_to(root).as_posix(): "the file is missing",
    }


def test_a_decision_that_does_not_follow_is_noticed(bundle: Bundle) -> None:
    """The whole way: a signer who is trusted writes another verdict over the same rows."""
    lie = resealed(bundle, with_json(bundle, "verdict.json", lambda v: {**v, "status": "FAIL"}), status="FAIL")
    found = wrong(checked(lie))
    assert [(line.number, line.where) for line in found] == [(6, "data/verdict.json"), (6, VERDICT)]
    assert "status is 'FAIL' in the bundle, and 'PASS' by the rows" in found[0].detail


def test_the_chain_of_decisions_holds_without_the_journal(bundle: Bundle, tmp_path: Path) -> None:
    def changed(documents: Any) -> Any:
        documents[0]["record"]["verdict"]["reasons"] = ["All is well."]
        return documents

    line = only_wrong(lines(resealed(bundle, with_json(bundle, "decisions.json", changed)), 7, tmp_path, NOW))
    assert line.where == "data/decisions.json" and "decision 1 does not have the digest" in line.detail
    none = resealed(bundle, with_json(bundle, "decisions.json", lambda documents: []))
    assert "decision 1 is not the one that was signed" in only_wrong(lines(none, 7, tmp_path, NOW)).detail


def test_a_page_that_says_otherwise_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    """People read the page, and every other file may be true."""
    page = (bundle.folder / "data/report.html").read_bytes().replace(b"INCONCLUSIVE", b"PASS").replace(b"PASS", b"FAIL")
    lie = resealed(bundle, {"report.html": page})
    (line,) = [line for line in lines(lie, 6, tmp_path) if line.answer is Answer.WRONG]
    assert line.where == "data/report.html" and "not the one that this version makes of the rows" in line.detail


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"attempt": 4}, "attempt 1 is on record, and it was decided as attempt 4"),
        ({"decided_at": "2024-01-01T00:00:00+00:00"}, "and decided as of 2024-01-01"),
    ],
)
def test_a_decision_that_rests_on_another_attempt_or_day_than_its_record_is_noticed(
    bundle: Bundle, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    """Old labels look young by an early day, and the error is whole at the first attempt."""
    (document,) = json.loads((bundle.folder / "data/decisions.json").read_text())
    document["record"]["verdict"]["basis"].update(changes)
    document["sha256"] = identity.key(document["record"])
    files = with_json(bundle, "decisions.json", lambda _: [document])
    files |= with_json(bundle, "verdict.json", lambda v: {**v, "decision_sha256": document["sha256"]})
    lie = resealed(bundle, files, decision_sha256=document["sha256"])
    line = only_wrong(lines(lie, 7, tmp_path, NOW))
    assert sentence in line.detail and line.where == "data/decisions.json"


def test_a_score_that_was_edited_does_not_fit_its_outcome(bundle: Bundle, tmp_path: Path) -> None:
    scores = rows_of(bundle, "scores")
    number = next(n for n, row in enumerate(scores) if row["label"] == "ring" and row["score"] > 0.5)
    scores[number]["score"] = 0.2
    line = only_wrong(lines(resealed(bundle, with_rows(bundle, "scores", scores)), 6, tmp_path))
    assert line.where == "data/rows/outcomes.parquet" and "hit" in line.detail and "clear" in line.detail


def test_outcomes_that_do_not_add_up_are_noticed(bundle: Bundle, tmp_path: Path) -> None:
    outcomes = rows_of(bundle, "outcomes")[1:]
    line = only_wrong(lines(resealed(bundle, with_rows(bundle, "outcomes", outcomes)), 5, tmp_path))
    assert line.where == "data/rows/outcomes.parquet" and "24 planned, 24 cases, 23 outcomes" in line.detail


def test_another_policy_is_noticed(bundle: Bundle, tmp_path: Path) -> None:
    laxer = resealed(bundle, with_json(bundle, "policy.json", lambda p: {**p, "assessed_min": 0.1}))
    assert only_wrong(lines(laxer, 7, tmp_path, NOW)).where == "data/policy.json"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"sealed_at": NOW + DAY}, "before the bundle was sealed"),
        ({"sealed_at": SEALED - 30 * DAY}, "a clock ran backwards: decided_at .* is after sealed_at"),
        ({"first_unit_at": PLANNED - DAY}, "planned_at .* is after first_unit_at"),
        ({"first_unit_at": SEALED - DAY / 2}, "first_unit_at .* is after decided_at"),
        ({"planned_at": PLANNED + DAY / 2}, "it says 2025-11-22T00:00:00.*, and planned_at .* was signed"),
        ({"sealed_at": None}, "'sealed_at' is no time"),
    ],
)  # fmt: skip
def test_times_that_cannot_be_are_noticed(
    bundle: Bundle, tmp_path: Path, facts: dict[str, dt.datetime | None], message: str
) -> None:
    stated = {name: keys.stamp(time) if time else "soon" for name, time in facts.items()}
    line = only_wrong(lines(resealed(bundle, **stated), 7, tmp_path, NOW))
    assert re.search(message, line.detail)


def test_a_bundle_of_a_newer_version_is_not_guessed_at(bundle: Bundle) -> None:
    newer = resealed(bundle, format=2)
    found = checked(newer)
    line = only_wrong(list(found.lines))
    assert line.number == 4 and "newer format 2" in line.detail and "install the version" in str(line.next_step)
    assert [one.detail for one in found.lines if one.number > 4] == ["the versions are not known"] * 7


def test_rows_of_another_version_are_named(bundle: Bundle, tmp_path: Path) -> None:
    cells = [{**row, "colour": "red"} for row in rows_of(bundle, "cells")]
    other = resealed(bundle, {"rows/cells.parquet": encode_rows(pa.Table.from_pylist(cells))})
    line = only_wrong(lines(other, 4, tmp_path))
    assert line.where == "data/rows/cells.parquet" and "do not fit this version's table cells" in line.detail


def test_units_that_were_not_planned_are_noticed(bundle: Bundle, tmp_path: Path) -> None:
    text = (bundle.folder / "data/units.jsonl").read_bytes()
    fewer = resealed(bundle, {"units.jsonl": text.split(b"\n", 1)[1]})
    assert "not those that were planned" in only_wrong(lines(fewer, 10, tmp_path, None)).detail
    edited = resealed(fewer, {"units.jsonl": text.replace(b'"complete": true', b'"complete": false', 1)})
    assert "not the one that was signed" in only_wrong(lines(edited, 10, tmp_path, None)).detail


def test_evidence_that_is_too_old(sealed_once: Bundle, tmp_path: Path) -> None:
    later = NOW + dt.timedelta(days=40)
    assert "41 days ago; at most 30" in only_wrong(lines(sealed_once, 11, tmp_path, later, 30)).detail


def test_reviewers_sign_after_each_other_and_none_can_be_taken_away(bundle: Bundle, tmp_path: Path) -> None:
    private, second = key_pair(tmp_path, "second")
    path = sign(
        bundle.folder, private, "B. Ahn", "head of safety", NOW, statement="I agree.", reviewed=["data/plan.json"]
    )
    assert path.name == "officer-2.dsse.json"
    everybody = [*bundle.keys, second]
    assert signatures(bundle, everybody) == []
    (bundle.folder / "attestations/officer.dsse.json").unlink()
    found = signatures(bundle, [bundle.public, second])
    assert [line.where for line in found] == ["attestations/officer-2.dsse.json"]
    assert "officer.dsse.json" in found[0].detail


def test_nobody_signs_what_is_broken(bundle: Bundle) -> None:
    for arguments, message in (
        (("R. Fuchs", " "), "the role is empty"),
        (("R. Fuchs\nand all", "officer"), "the name is"),
    ):
        with pytest.raises(EvidenceError, match=message):
            sign(bundle.folder, bundle.private, *arguments, NOW)
    with pytest.raises(EvidenceError, match=r"no file 'data/report\.pdf'"):
        sign(bundle.folder, bundle.private, "R. Fuchs", "officer", NOW, reviewed=["data/report.pdf"])
    (bundle.folder / "data/report.html").write_text("All is well.")
    with pytest.raises(EvidenceError, match=r"data/report\.html: the file is not the one that was sealed"):
        sign(bundle.folder, bundle.private, "R. Fuchs", "officer", NOW)
