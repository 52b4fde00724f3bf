"""The benchmark table can fail: a missed limit is printed as one and ends the process with status 1."""

from __future__ import annotations

import math

import pytest

from tests.bench.table import Figure, conclude


@pytest.mark.parametrize(
    ("figure", "missed"),
    [
        (Figure("no limit", 1e9), False),
        (Figure("at most", 60.0, "{:.1f} s", 60), False),
        (Figure("at most", 60.1, "{:.1f} s", 60), True),
        (Figure("at least", 1.0, "{:.2f}x", 1, least=True), False),
        (Figure("at least", 0.9, "{:.2f}x", 1, least=True), True),
        (Figure("not measured", math.nan, "{:.1f}", 1), True),
        (Figure("not measured", math.nan, "{:.1f}", 1, least=True), True),
    ],
)
def test_a_limit_is_met_or_missed(figure: Figure, missed: bool, capsys: pytest.CaptureFixture[str]) -> None:
    last = Figure("last", 2.0, "{:.0f} MiB", 3, "how it was measured")
    with pytest.raises(SystemExit) as ended:
        conclude([figure, last])
    assert ended.value.code == (1 if missed else 0)
    shown = capsys.readouterr().out
    assert ("**missed**" in shown) is missed
    assert "| last | 2 MiB | <= 3 MiB | met | how it was measured |" in shown
