"""Waivers as files: a signed statement that somebody accepts a measured risk, for named decisions, until a date."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from audit.errors import NotVerified, SpecError
from audit.evidence import dsse
from audit.evidence.keys import PrivateKey, PublicKey, moment, stamp
from audit.files import Document, ForeignError, read_bounded
from audit.verdict.waivers import MOST_DAYS, Selection, Side, Waiver

PREDICATE = "waiver/v1"
_LARGEST = 1 << 20  # bytes of a waiver file
_FIELDS = ("reason", "owner", "approver", "compensating_control")
_SHORTEST = 2  # characters of a name
_SHORTEST_TEXT = 8  # of a reason, which somebody reads two years later


def parse_selection(text: str) -> Selection:
    """Return the decisions that text such as `concept=ring,defence=uce,judge=clip` names. Raises `SpecError`."""
    known = [field.name for field in dataclasses.fields(Selection)]
    fields: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value or name not in known or name in fields:
            raise SpecError(
                f"{part.strip()!r} selects no decision",
                where="--cells",
                next_step=f"write field=value, separated by commas; fields are {', '.join(known)}",
            )
        fields[name] = value
    return _selection(fields)


def _selection(fields: Document) -> Selection:
    selection = Selection(**fields)
    if selection.side not in get_args(Side):
        what = f"there is no side {selection.side!r} that can be waived"
        raise SpecError(what, where="--cells", next_step=f"use one of: {', '.join(get_args(Side))}")
    if selection == Selection(side=selection.side):
        raise SpecError(
            "a waiver for everything is none", where="--cells", next_step="name a concept, defence or judge"
        )
    if selection.side == "retention" and selection.scenario is not None:
        raise SpecError("retention has no scenario", where="--cells", next_step="leave out scenario=")
    return selection


def create(waiver: Waiver, plan: bytes, key: PrivateKey) -> bytes:
    """Return the file of a waiver, signed with `key`; `plan` is the run's plan.json.

    Raises `SpecError` for a waiver that is too long, ends before it begins, lacks a name or a reason, or is approved by its
    owner, and `KeyProblem` for a key that has expired.
    """
    _check(waiver)
    content = {
        "run_id": waiver.run_id,
        "policy_sha256": waiver.policy_sha256,
        "cells": [
            {name: value for name, value in dataclasses.asdict(cells).items() if value is not None}
            for cells in waiver.cells
        ],
        **{name: getattr(waiver, name) for name in _FIELDS},
        "since": stamp(waiver.since),
        "until": stamp(waiver.until),
    }
    subjects = {"plan": hashlib.sha256(plan).hexdigest(), "policy": waiver.policy_sha256}
    payload = dsse.statement(subjects, PREDICATE, content)
    return dsse.encode_envelope(dsse.sign_payload(dsse.STATEMENT_PAYLOAD, payload, key))


def _check(waiver: Waiver) -> None:
    for name in _FIELDS:
        least = _SHORTEST if name in ("owner", "approver") else _SHORTEST_TEXT
        option = f"--{name.replace('_', '-')}"
        if len(getattr(waiver, name).strip()) < least:
            raise SpecError(
                "a waiver says who accepts what, and why",
                where=option,
                next_step=f"write at least {least} characters there",
            )
    if waiver.owner.strip().casefold() == waiver.approver.strip().casefold():
        raise SpecError("nobody approves a waiver of their own", where="--approver", next_step="name somebody else")
    if waiver.until <= waiver.since:
        raise SpecError(f"it ended on {waiver.date}", where="--until", next_step="name a day that is to come")
    if waiver.until.date() - waiver.since.date() > dt.timedelta(days=MOST_DAYS):
        latest = waiver.since.date() + dt.timedelta(days=MOST_DAYS)
        raise SpecError(
            f"a waiver is for {MOST_DAYS} days at most", where="--until", next_step=f"name a day until {latest}"
        )


def read_waiver(path: Path, trusted: Sequence[PublicKey], now: dt.datetime, plan_sha256: str | None = None) -> Waiver:
    """Return the waiver in a file. Raises `NotVerified` for one that is not signed by a trusted key, or is no waiver.

    With `plan_sha256`, also for one that was given on another plan of a run of the same name.
    """
    try:
        data = read_bounded(path, _LARGEST)
    except OSError as error:
        raise NotVerified(f"the waiver cannot be read: {error.strerror}", where=str(path)) from None
    except ForeignError as error:
        raise NotVerified(f"the waiver cannot be read: {error}", where=str(path)) from None
    return waiver_of(data, path.name, trusted, now, plan_sha256)


def waiver_of(
    data: bytes, name: str, trusted: Sequence[PublicKey], now: dt.datetime, plan_sha256: str | None = None
) -> Waiver:
    """Return the waiver in the bytes of a file called `name`; raises as `read_waiver`."""
    envelope = dsse.decode_envelope(data, name)
    if not envelope["signatures"]:
        raise NotVerified("nobody signed the waiver", where=name)
    signed = dsse.verify_envelope(envelope, trusted, where=name, now=now)
    subjects, content = dsse.read_statement(signed.payload, PREDICATE, name)
    try:
        waiver = Waiver(
            name=name,
            run_id=_text(content["run_id"]),
            policy_sha256=_text(content["policy_sha256"]),
            cells=tuple(_selection(fields) for fields in content["cells"]),
            **{field: _text(content[field]) for field in _FIELDS},
            since=moment(content["since"]),
            until=moment(content["until"]),
        )
        _check(waiver)
    except SpecError as error:
        raise NotVerified(f"the waiver is none that could be given: {error.what}", where=name) from None
    except (LookupError, TypeError, ValueError, AttributeError):
        raise NotVerified("the waiver lacks a field, or one is malformed", where=name) from None
    if not waiver.cells:
        raise NotVerified("the waiver names no decision", where=name)
    if plan_sha256 is not None and subjects.get("plan") != plan_sha256:
        raise NotVerified("the waiver was given on another plan of this run", where=name)
    return waiver


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value
