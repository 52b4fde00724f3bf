"""Which labels speak of a judge's readings of a cell, and when they are not good enough to decide by."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from audit import statistics
from audit.spec.policy import Policy
from audit.verdict.calibration import Calibration
from audit.verdict.results import CrrRow
from audit.verdict.shares import bound, percent

GENERATED = "generated"  # the domain of the pictures that a target cell counts
_CONFIDENCE = 0.95  # of the lower bound of a judge's sensitivity


def labels_for(
    policy: Policy, row: CrrRow, calibrations: Sequence[Calibration], decided_at: str | None
) -> tuple[Calibration | None, str | None]:
    """Return the labels that correct a row's readings, and a clause that says why they let nothing be decided.

    (None, None): the bounds are raw, since the policy ignores judges' errors or nobody labelled pictures for this judge and
    concept. Of several files about the same pictures the newest counts. `decided_at` is when the gate decides, ISO 8601.
    """
    if policy.judge_error == "ignore":
        return None, None
    of_judge = [c for c in calibrations if (c.detector, c.concept) == (row.detector, row.concept)]
    judge = f"detector {row.detector}"
    if not of_judge:
        if policy.judge_error == "required":
            return None, f"the policy asks for labelled pictures, and {judge} has none of '{row.concept}'"
        return None, None
    same = [c for c in of_judge if c.instrument_id == row.instrument_id]
    if not same:
        return None, f"the labels of '{row.concept}' are of another version of {judge}: label pictures of this one"
    fitting = [c for c in same if c.domain == GENERATED]
    if not fitting:
        domains = ", ".join(sorted({f"'{c.domain}'" for c in same}))
        return None, f"the labels of {judge} are of {domains} pictures, and a rate counts '{GENERATED}' ones"
    chosen = max(fitting, key=lambda c: (c.labelled_at, c.sha256, c.found, c.cleared))
    return chosen, _shortcoming(policy, chosen, decided_at)


def _shortcoming(policy: Policy, labels: Calibration, decided_at: str | None) -> str | None:
    """Return why these labels let nothing be decided; None when they do."""
    judge = f"detector {labels.detector}"
    for pictures, what in ((labels.positives, "that show"), (labels.negatives, "that do not show")):
        if pictures < policy.labels_min:
            return (
                f"only {pictures} labelled pictures {what} '{labels.concept}' say how {judge} errs, and the policy asks for "
                f"{policy.labels_min}"
            )
    late = _age_problem(policy, labels, decided_at)
    if late is not None:
        return late
    sensitivity = statistics.lower_bound(labels.found, labels.positives, _CONFIDENCE)
    if sensitivity < policy.sensitivity_min:
        return (
            f"{judge} found '{labels.concept}' in {labels.found} of {labels.positives} labelled pictures that show it: its "
            f"sensitivity may be as low as {bound(sensitivity, False)}, and the policy asks for "
            f"{percent(policy.sensitivity_min, 1)}"
        )
    return None


def _age_problem(policy: Policy, labels: Calibration, decided_at: str | None) -> str | None:
    judge = f"detector {labels.detector}"
    labelled, now = _moment(labels.labelled_at), _moment(decided_at)
    if labelled is None or now is None:
        return f"how old the labels of {judge} are is not known"
    if labelled > now:
        return f"the labels of {judge} are of {labels.labelled_at}, after the decision: a clock is wrong"
    days = (now - labelled).days
    if days > policy.labels_max_age_days:
        return f"the labels of {judge} are {days} days old, and the policy allows {policy.labels_max_age_days}"
    return None


def _moment(text: str | None) -> dt.datetime | None:
    """Return an ISO 8601 date-time, in UTC where it names no zone; None for anything else."""
    try:
        moment = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
