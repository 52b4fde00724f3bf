"""Run expectations about data frames with Great Expectations: one check result per expectation.

An expectation that raised is `error`, never `failed` and never `passed`: Great Expectations reports both as
`success=False` and tells them apart only in `exception_info`. It takes seconds to import and loads on first use: when an
expectation does not plainly hold (`audit.index.plain_expectations`).
"""

from __future__ import annotations

import dataclasses
import functools
import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from audit.files import Document
from audit.index.plain_expectations import holds
from audit.verdict.decisions import CheckResult

SOURCE = "great-expectations"


@dataclasses.dataclass(frozen=True)
class Expected:
    """One expectation by class name and arguments, with the sentence that reports show."""

    name: str
    kind: str  # class in great_expectations.expectations
    arguments: Document


@dataclasses.dataclass(frozen=True)
class Suite:
    """Expectations about one view of a frame; `view` selects or derives the rows they speak of."""

    expected: tuple[Expected, ...]
    view: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame


def run_suites(frame: pd.DataFrame, suites: Sequence[Suite]) -> list[CheckResult]:
    """Return one result per expectation, in order. A view that cannot be made turns all its expectations into `error`."""
    results: list[CheckResult] = []
    for suite in suites:
        try:
            view = suite.view(frame).reset_index(drop=True)
            results += _settle(view, suite)
        except Exception as error:  # whatever a malformed frame raises, the check did not run
            results += [_error(e, f"{type(error).__name__}: {error}") for e in suite.expected]
    return results


@functools.cache
def _frames() -> Any:
    """Return Great Expectations' definition of 'a data frame, whole', in memory, without analytics or progress bars."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when it is imported
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the import warns about modules that Python and pandas deprecate
        import great_expectations as gx
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    return (
        context.data_sources.add_pandas("frames")
        .add_dataframe_asset("frame")
        .add_batch_definition_whole_dataframe("all")
    )


def _settle(view: pd.DataFrame, suite: Suite) -> list[CheckResult]:
    """Return one result per expectation; Great Expectations is asked about those that do not plainly hold."""
    open_ones = [e for e in suite.expected if not holds(view, e.kind, e.arguments)]
    judged = {r.name: r for r in _validate(view, Suite(tuple(open_ones)))} if open_ones else {}
    return [judged.get(e.name) or CheckResult(e.name, SOURCE, "passed", "", 0) for e in suite.expected]


def _validate(view: pd.DataFrame, suite: Suite) -> list[CheckResult]:
    batch = _frames().get_batch({"dataframe": view})
    import great_expectations as gx
    import great_expectations.expectations as classes

    built = [getattr(classes, e.kind)(**e.arguments, meta={"position": i}) for i, e in enumerate(suite.expected)]
    outcome = batch.validate(gx.ExpectationSuite(name="suite", expectations=built))
    found = {r.expectation_config.meta["position"]: r for r in outcome.results}
    return [
        _result(e, found[i]) if i in found else _error(e, "no result came back") for i, e in enumerate(suite.expected)
    ]


def _result(expected: Expected, outcome: Any) -> CheckResult:
    raised = _raised(outcome.exception_info or {})
    if raised is not None:
        return _error(expected, raised)
    values = outcome.result or {}
    if outcome.success is True:
        return CheckResult(expected.name, SOURCE, "passed", "", 0)
    rows = int(values.get("unexpected_count") or 0)
    if "observed_value" in values:
        detail = f"observed {values['observed_value']}"
    else:
        examples = ", ".join(repr(value) for value in list(values.get("partial_unexpected_list") or ())[:3])
        detail = f"{rows} of {values.get('element_count', '?')} rows" + (f", such as {examples}" if examples else "")
    return CheckResult(expected.name, SOURCE, "failed", detail, rows)


def _raised(information: Document) -> str | None:
    """Return the message of an expectation that raised, or None.

    `information` is one record or one per metric, depending on where it raised.
    """
    nested = [value for value in information.values() if isinstance(value, Mapping)]
    for record in (information, *nested):
        if record.get("raised_exception"):
            return str(record.get("exception_message") or "the expectation raised")
    return None


def _error(expected: Expected, message: str) -> CheckResult:
    return CheckResult(expected.name, SOURCE, "error", f"the check could not run: {' '.join(message.split())}", 0)
