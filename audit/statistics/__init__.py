"""Compute bounds, tests and power from counts. Pure functions of numbers: nothing here knows of cells, policies or verdicts.

`binomial` has the exact bounds of one rate, whose names stand here too; `judge_error` bounds a rate that an imperfect judge
has read, `anytime` one that was looked at more than once, `multiplicity` corrects for many decisions, `paired` compares two
series of the same cases, and `power` says what a design can show.
"""

from audit.statistics.binomial import (
    cases_for_zero_hits,
    clopper_pearson,
    first_count,
    further_cases_to_decide,
    lower_bound,
    ratio_lower_bound,
    ratio_upper_bound,
    upper_bound,
    upper_bound_at_zero,
)

__all__ = [
    "cases_for_zero_hits",
    "clopper_pearson",
    "first_count",
    "further_cases_to_decide",
    "lower_bound",
    "ratio_lower_bound",
    "ratio_upper_bound",
    "upper_bound",
    "upper_bound_at_zero",
]
