"""What signed waivers did for decisions on record: they change no status, and what they opened shuts when they expire."""

from __future__ import annotations

import datetime as dt
import functools
import re
from collections.abc import Mapping, Sequence

from audit.dashboard.queries import texts
from audit.index.records import Row
from audit.report.words import plain

# As `audit.verdict.waivers.Waived` writes itself.
_SENTENCE = re.compile(r"\S+ \(waived until (\d{4}-\d{2}-\d{2})\)  (.+?)  owner ")
_UNTIL = re.compile(r"\(waived until (\d{4}-\d{2}-\d{2})\)")


def waived_cell(row: Row, now: dt.datetime) -> str:
    """Return what to say of a cell whose decision waivers covered when they opened the gate; empty for any other.

    A gate is opened only when every decision that is not PASS is covered.
    """
    if row["status"] == "PASS" or not texts(row["opened_by"]):
        return ""
    name = " | ".join(str(row[part]) for part in ("concept", "defence", "scenario", "detector"))
    return _note(_until_by_name(row["opened_by"]).get(name), now)


def waived_run(opened_by: str | None, now: dt.datetime) -> str:
    """Return what to say of a decision that waivers opened the gate for, by the waiver that ends first; empty without one."""
    sentences = texts(opened_by)
    ends = [match[1] for sentence in sentences if (match := _UNTIL.search(sentence))]
    return _note(min(ends, default=None), now) if sentences else ""


def waived_in(policy_waivers: Sequence[str], opened_by: str | None, now: dt.datetime) -> str:
    """Return one line of all that is waived: sides that a policy does not judge, and decisions that waivers covered."""
    sides = [plain(waiver.partition(":")[0], 40) for waiver in policy_waivers]
    covered = waived_run(opened_by, now)
    return ", ".join([*sides, *([f"gate opened, {covered}"] if covered else [])]) or "nothing"


def _note(until: str | None, now: dt.datetime) -> str:
    if until is None:
        return "waived"
    return f"waived until {until}" if until >= f"{now:%Y-%m-%d}" else f"waiver expired {until}"


@functools.lru_cache(maxsize=256)
def _until_by_name(opened_by: str) -> Mapping[str, str]:
    """Return the last day of the waiver of each decision by its name."""
    return {match[2]: match[1] for sentence in texts(opened_by) if (match := _SENTENCE.match(sentence))}
