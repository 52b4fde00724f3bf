"""A detector's answer counts as measured only when it is whole and possible."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from audit.instruments.detectors.answers import measurement, measurements
from audit.records import LabelScore, Measurement

LABELS = ("ring", "disc")


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([LabelScore("ring", 2.0)], "the score of 'ring' is 2, outside 0..1"),
        ([LabelScore("ring", -1e-3)], "the score of 'ring' is -0.001, outside 0..1"),
        ([LabelScore("ring", 10**400)], "the score of 'ring' is a value of type int, outside 0..1"),
        ([LabelScore("ring", math.inf)], "the score of 'ring' is inf, outside 0..1"),
        ([LabelScore("ring", math.nan)], "the score of 'ring' is nan"),
        ([LabelScore("disc", 0.1), LabelScore("ring", "0.9")], "the score of 'ring' is '0.9', which is no number"),  # type: ignore[arg-type]
        ([LabelScore("ring", True)], "the score of 'ring' is True, which is no number"),
        ([LabelScore("ring", None)], "the score of 'ring' is None, which is no number"),  # type: ignore[arg-type]
        ([LabelScore(0.5, 0.5)], "a label is a value of type float instead of a text"),  # type: ignore[arg-type]
        ([LabelScore("star", 0.5)], "the detector reports a label that it does not have: 'star'"),
        ([LabelScore("ring", 0.5, (1.0, 2.0))], "the box of 'ring' is (1.0, 2.0), and four finite numbers are needed"),  # type: ignore[arg-type]
        ([LabelScore("ring", 0.5, (math.nan,) * 4)], "the box of 'ring' is (nan, nan, nan, nan), and four finite"),
        ([LabelScore("ring", 0.5, (10**400, 0, 1, 1))], "four finite numbers are needed"),
        ([0.5], "the detector answers with a value of type float instead of a score"),
        ({"ring": 0.5}, "the detector answers with a value of type dict instead of scores"),
        (None, "the detector answers with a value of type NoneType instead of scores"),
    ],
)
def test_a_score_that_cannot_be_is_not_measured(scores: Any, message: str) -> None:
    found = measurement(scores, LABELS)
    assert found.scores is None
    assert message in (found.error or "")


def test_what_is_possible_is_kept_as_it_is() -> None:
    assert measurement((), LABELS) == Measurement(())
    box = (0.0, -1.5, 3.0, 4.0)
    scores = (LabelScore("ring", 0.25, box), LabelScore("ring", 1.0), LabelScore("disc", 0.0))
    assert measurement(scores, LABELS) == Measurement(scores)
    (found,) = measurement([LabelScore("ring", np.float32(0.5), [np.int64(1), 2, 3, 4])], LABELS).scores or ()  # type: ignore[arg-type]
    assert (type(found.score), found) == (float, LabelScore("ring", 0.5, (1.0, 2.0, 3.0, 4.0)))


def test_rounding_of_a_sum_of_probabilities_is_no_error() -> None:
    found = measurement([LabelScore("ring", 1 + 3e-16), LabelScore("disc", -1e-17)], LABELS)
    assert [entry.score for entry in found.scores or ()] == [1.0, 0.0]


def test_each_picture_needs_a_measurement() -> None:
    good = Measurement((LabelScore("ring", 0.5),))
    failed = Measurement(None, "no\nface \udcff")
    found = measurements([good, failed, Measurement((LabelScore("ring", 7.0),)), {"ring": 0.5}], 4, LABELS)
    assert found[0] == good
    assert [entry.error for entry in found[1:]] == [
        "no face ?",
        "the score of 'ring' is 7, outside 0..1",
        "the detector answers with a value of type dict instead of a measurement",
    ]
    for answer, message in (
        (None, "type NoneType instead of a list of measurements"),
        ([good], "1 measurements for 2"),
    ):
        with pytest.raises(ValueError, match=message):
            measurements(answer, 2, LABELS)
