"""What `gate` does with waivers: which of them count, what they cover, and the words for it."""

from __future__ import annotations

import datetime as dt
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import NotVerified, SpecError
from flows.console import say

if TYPE_CHECKING:
    from audit.evidence.keys import PublicKey
    from audit.verdict.results import RunResult
    from audit.verdict.waivers import Honoured, Waiver


def require_complete(honour: bool, waivers: Sequence[Path] | None, keys: Sequence[Path] | None) -> None:
    """Return when waivers and the keys of those who may sign them are given together. Raises `SpecError` otherwise."""
    if honour and not waivers:
        raise SpecError("no waiver is given", where="--honour-waivers", next_step="name each with --waiver FILE")
    if waivers and not keys:
        raise SpecError(
            "a waiver counts by its signature, and no key is trusted",
            where="--waiver",
            next_step="name the public key of each approver with --key PUBLIC_KEY",
        )


def honour(result: RunResult, files: Sequence[Path], trusted: Sequence[PublicKey], root: str) -> Honoured:
    """Return what waiver files do for a result; one whose signature does not hold is as if it were absent."""
    import dataclasses

    from audit.evidence.waivers import read_waiver
    from audit.spec.policy import Policy
    from audit.storage.journal import Journal
    from audit.verdict.waivers import honoured

    now = dt.datetime.now(dt.UTC)
    plan = hashlib.sha256(Journal(root).get_run(result.run_id, "plan.json")).hexdigest()
    read: list[Waiver] = []
    ignored: list[str] = []
    for file in files:
        try:
            waiver = read_waiver(Path(os.path.expanduser(file)), trusted, now)
            if waiver.run_id == result.run_id:
                read_waiver(Path(os.path.expanduser(file)), trusted, now, plan)
            read.append(waiver)
        except NotVerified as error:
            ignored.append(f"{file.name} does not count: {error.what}")
    policy = Policy.model_validate(result.spec["gate"])
    waived = honoured(result.verdict, read, now, run_id=result.run_id, policy=policy, crr=result.crr)
    return dataclasses.replace(waived, ignored=(*ignored, *waived.ignored))


def print_honoured(honoured: Honoured, honour: bool) -> None:
    """Print on stderr what is waived, what is not, and which waivers do not count; the verdict's own words stay."""
    for line in (*(str(one) for one in honoured.waived), *honoured.uncovered, *honoured.ignored):
        say(line)
    if honoured.opens:
        say(
            "the gate is opened by waivers: no status has changed, and the exit code is 0"
            if honour
            else "waivers cover all of it; the exit code is theirs with --honour-waivers alone"
        )
    elif honour:
        say("the gate stays shut: waivers do not cover every decision that is not PASS")
