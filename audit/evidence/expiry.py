"""Say which labels and waivers expire soon, so that somebody acts before a gate shuts for want of them."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence
from pathlib import Path

from audit.errors import NotVerified
from audit.evidence.keys import PublicKey
from audit.evidence.waivers import read_waiver
from audit.labels.calibrating import calibrations
from audit.spec.policy import Policy
from audit.storage.journal import Journal


@dataclasses.dataclass(frozen=True)
class Expiring:
    """What expires, and on which day; None where that cannot be read, which is told like an expiry."""

    kind: str  # labels | waiver
    name: str
    on: dt.date | None
    detail: str

    def sentence(self, today: dt.date) -> str:
        """Return it as a sentence."""
        when = "" if self.on is None else f" {'expired' if self.on < today else 'expires'} on {self.on}"
        return f"{self.kind} {self.name}{when}: {self.detail}"


def expiring_labels(
    journal: Journal, run_id: str, policy: Policy, now: dt.datetime, within: dt.timedelta
) -> list[Expiring]:
    """Return the labels on which the judges of a run rest and that are too old for the policy within that time.

    Raises `LabelsError` for damaged labels.
    """
    last = now.date() + within
    soon = []
    for known in calibrations(journal, run_id, policy=policy):
        labelled = dt.datetime.fromisoformat(known.labelled_at).date()
        on = labelled + dt.timedelta(days=policy.labels_max_age_days)
        if on <= last:
            name = f"of {known.detector} for {known.concept} ({known.domain})"
            detail = f"they are of {labelled}, and the policy allows {policy.labels_max_age_days} days; label again"
            soon.append(Expiring("labels", name, on, detail))
    return soon


def expiring_waivers(
    files: Sequence[Path], trusted: Sequence[PublicKey], now: dt.datetime, within: dt.timedelta
) -> list[Expiring]:
    """Return the waivers that end within that time, and those that do not count because they cannot be read or verified."""
    soon = []
    for file in files:
        try:
            waiver = read_waiver(file, trusted, now)
        except NotVerified as error:
            soon.append(Expiring("waiver", file.name, None, f"it does not count: {error.what}"))
            continue
        if waiver.until <= now + within:
            detail = f"run {waiver.run_id}, owner {waiver.owner}; the gate shuts again afterwards"
            soon.append(Expiring("waiver", file.name, waiver.until.date(), detail))
    return soon
