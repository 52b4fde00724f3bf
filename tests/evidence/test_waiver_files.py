"""Waiver files: written, signed, read again; every way in which one is none has a message of its own."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path
from typing import Any

import pytest

from audit.errors import KeyProblem, NotVerified, SpecError
from audit.evidence import dsse, keys
from audit.evidence.waivers import create, parse_selection, read_waiver, waiver_of
from audit.verdict.waivers import Selection, Waiver

NOW = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
PLAN = b'{"run_id": "run-1"}'


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[keys.PrivateKey, keys.PublicKey]:
    path = tmp_path_factory.mktemp("keys") / "approver.pem"
    public = keys.generate(path)
    return keys.load_private_key(path), public


def waiver(**changes: Any) -> Waiver:
    fields: dict[str, Any] = {
        "name": "w.json", "run_id": "run-1", "policy_sha256": "a" * 64,
        "cells": (parse_selection("concept=ring,judge=clip"), parse_selection("side=retention, defence=uce")),
        "reason": "ships to nobody yet", "owner": "Ada", "approver": "Bob", "compensating_control": "closed beta",
        "since": NOW, "until": keys.moment("2027-01-31"),
    }  # fmt: skip
    return Waiver(**{**fields, **changes})


def test_a_waiver_is_read_as_it_was_written(tmp_path: Path, pair: tuple[keys.PrivateKey, keys.PublicKey]) -> None:
    private, public = pair
    (tmp_path / "w.json").write_bytes(create(waiver(), PLAN, private))
    assert read_waiver(tmp_path / "w.json", [public], NOW) == waiver()


def test_the_longest_waiver_is_ninety_days(pair: tuple[keys.PrivateKey, keys.PublicKey]) -> None:
    create(waiver(until=keys.moment("2027-01-31")), PLAN, pair[0])
    with pytest.raises(SpecError, match="90 days at most"):
        create(waiver(until=keys.moment("2027-02-01")), PLAN, pair[0])


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"until": NOW - dt.timedelta(days=1)}, "it ended on 2026-11-01"),
        ({"reason": "short"}, "who accepts what, and why"),
        ({"owner": " "}, "who accepts what, and why"),
        ({"compensating_control": ""}, "who accepts what, and why"),
        ({"approver": " ada"}, "nobody approves a waiver of their own"),
    ],
)
def test_what_is_no_waiver_is_not_written(
    changes: dict[str, Any], sentence: str, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    with pytest.raises(SpecError, match=sentence):
        create(waiver(**changes), PLAN, pair[0])


@pytest.mark.parametrize(
    "text", ["", "ring", "concept=", "model=x", "concept=a,concept=b", "side=damage,concept=a", "side=retention",
             "side=reproduction", "side=retention,scenario=text"]
)  # fmt: skip
def test_a_selection_that_selects_nothing_or_everything_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        parse_selection(text)


def test_a_selection_is_written_as_it_is_read() -> None:
    text = "side=reproduction,concept=ring,defence=uce,scenario=text,judge=clip"
    assert str(parse_selection(text)) == text
    assert parse_selection(" concept = ring ") == Selection(concept="ring")


def test_a_waiver_of_an_unknown_or_expired_key_does_not_verify(
    tmp_path: Path, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    data = create(waiver(), PLAN, pair[0])
    stranger = keys.generate(tmp_path / "stranger.pem")
    with pytest.raises(NotVerified, match="none that you trust"):
        waiver_of(data, "w.json", [stranger], NOW)
    with pytest.raises(NotVerified, match="none that you trust"):
        waiver_of(data, "w.json", [], NOW)
    old = keys.PublicKey(pair[1].key, pair[1].path, NOW - dt.timedelta(days=1))
    with pytest.raises(NotVerified, match="expired on 2026-11-01"):
        waiver_of(data, "w.json", [old], NOW)
    expired = keys.PrivateKey(pair[0].key, pair[0].path, NOW - dt.timedelta(days=1))
    with pytest.raises(KeyProblem, match="expired"):
        create(waiver(), PLAN, expired)


def test_an_unsigned_an_edited_and_a_foreign_file_do_not_verify(
    tmp_path: Path, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    private, public = pair
    data = create(waiver(), PLAN, private)
    envelope = json.loads(data)
    unsigned = dsse.encode_envelope({**envelope, "signatures": []})
    with pytest.raises(NotVerified):
        waiver_of(unsigned, "w.json", [public], NOW)
    other = json.loads(create(waiver(until=keys.moment("2027-01-30")), PLAN, private))
    swapped = dsse.encode_envelope({**envelope, "payload": other["payload"]})
    with pytest.raises(NotVerified, match="not one of the key"):
        waiver_of(swapped, "w.json", [public], NOW)
    payload = dsse.statement({"plan": "0" * 64}, "verdict/v1", {})
    foreign = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, private))
    with pytest.raises(NotVerified, match="verdict/v1"):
        waiver_of(foreign, "w.json", [public], NOW)
    empty = dsse.statement({"plan": "0" * 64}, "waiver/v1", {})
    with pytest.raises(NotVerified, match="lacks a field"):
        waiver_of(
            dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, empty, private)), "w.json", [public], NOW
        )
    with pytest.raises(NotVerified, match="cannot be read"):
        read_waiver(tmp_path / "absent.json", [public], NOW)


def test_a_signed_waiver_that_nobody_could_have_been_given_does_not_verify(
    pair: tuple[keys.PrivateKey, keys.PublicKey],
) -> None:
    """A signature does not make a waiver longer than allowed, or its owner another person."""
    envelope = json.loads(create(waiver(), PLAN, pair[0]))
    _, content = dsse.read_statement(dsse.verify_envelope(envelope, [pair[1]]).payload, "waiver/v1", "w")
    for changes in ({"until": "2028-01-01T00:00:00Z"}, {"approver": "Ada"}, {"cells": [{}]}, {"cells": []}):
        payload = dsse.statement({"plan": "0" * 64}, "waiver/v1", {**content, **changes})
        data = dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, pair[0]))
        with pytest.raises(NotVerified):
            waiver_of(data, "w.json", [pair[1]], NOW)


def test_a_waiver_on_another_plan_of_the_same_run_does_not_verify(
    pair: tuple[keys.PrivateKey, keys.PublicKey],
) -> None:
    data = create(waiver(), PLAN, pair[0])
    with pytest.raises(NotVerified, match="another plan"):
        waiver_of(data, "w.json", [pair[1]], NOW, "0" * 64)
