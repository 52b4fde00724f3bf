"""CSV with a quote left open: every physical line is read or reported, and true fields of several lines stay whole."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Sequence
from typing import Any

import pytest

from audit.corpus.csv_rows import Record, header_and_records

HEADER = ("case_number", "prompt", "evaluation_seed")
PLAIN = [(str(i), f"a ring in field {i}", str(100 + i)) for i in range(20)]


def text_of(rows: Sequence[Sequence[Any]], header: Sequence[str] = HEADER) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows([header, *rows])
    return stream.getvalue()


def lines_told(records: Sequence[Record]) -> list[int]:
    return [line for record in records for line in range(record.first, record.last + 1)]


def damaged(row: int, *, inch_mark: str | None = None) -> str:
    """The file with one stray opening quote in `row`; with `inch_mark`, a later prompt has one, there or at its end."""
    lines = text_of(PLAIN).splitlines(keepends=True)
    lines[row + 1] = lines[row + 1].replace("a ring", '"a ring')
    if inch_mark is not None:
        lines[15] = lines[15].replace("a ring in field", inch_mark)
    return "".join(lines)


@pytest.mark.parametrize("inch_mark", [None, 'a 5" ring', 'a ring of 5",', 'a "ring"'])
@pytest.mark.parametrize("row", [0, 4, 19])
def test_a_stray_opening_quote_costs_its_own_line_only(row: int, inch_mark: str | None) -> None:
    if inch_mark == 'a ring of 5",':
        lines = damaged(row).splitlines(keepends=True)
        lines[15] = '14,a ring of 5",114\n'
        text = "".join(lines)
    else:
        text = damaged(row, inch_mark=inch_mark)
    names, records = header_and_records(text)
    assert tuple(names) == HEADER
    assert lines_told(records) == list(range(2, 22))
    bad = [record for record in records if record.problem]
    assert [record.first for record in bad] == [row + 2]
    assert "opens a quote that is not closed before the next row begins" in str(bad[0].problem)
    assert [record.fields[0] for record in records if not record.problem] == [str(i) for i in range(20) if i != row]


def test_true_fields_of_several_lines_are_read_whole() -> None:
    rows = [
        ("0", 'a ring,\nin a field, of "gold"\n\nand silver', "1"),
        ("1", "a ring", "2"),
        ("2", "one,\ntwo, three\nfour", "3"),
        ("3", "ends\n", "4"),
        ("4", "\nbegins, with, commas", "5"),
    ]
    _, records = header_and_records(text_of(rows))
    assert [record.fields for record in records] == rows
    prompt_first = [(prompt, seed) for _, prompt, seed in rows]
    _, records = header_and_records(text_of(prompt_first, ("prompt", "seed")), {"seed"})
    assert [record.fields for record in records] == prompt_first
    prompt_last = [(seed, prompt) for _, prompt, seed in rows]
    _, records = header_and_records(text_of(prompt_last, ("seed", "prompt")), {"seed"})
    assert [record.fields for record in records] == prompt_last


def test_a_field_of_several_lines_above_a_damaged_row_stays_whole() -> None:
    rows = [("0", "two\nlines", "1"), *PLAIN[1:5]]
    text = text_of(rows).replace("a ring in field 3", '"a ring in field 3')
    _, records = header_and_records(text)
    assert [record.problem is None for record in records] == [True, True, True, False, True]
    assert records[0].fields == rows[0] and (records[3].first, records[3].last) == (6, 6)


@pytest.mark.parametrize("header", [("prompt",), ("prompt", "concept")])
def test_a_quote_that_nothing_closes_is_reported_without_numbers_to_go_by(header: tuple[str, ...]) -> None:
    rows = [("a ring", "ring")[: len(header)], ("a hoop", "ring")[: len(header)], ("a star", "star")[: len(header)]]
    text = text_of(rows, header).replace("a hoop", '"a hoop')
    _, records = header_and_records(text)
    assert [record.problem is None for record in records] == [True, False, True]
    assert lines_told(records) == [2, 3, 4]


def test_quotes_inside_a_quoted_field_of_one_line_are_taken_as_they_stand() -> None:
    _, records = header_and_records('case_number,prompt,seed\n1,"a 5" ring",7\n')
    assert records == [Record(("1", 'a 5 ring"', "7"), None, 2, 2)]


def test_a_header_that_leaves_a_quote_open_is_refused() -> None:
    with pytest.raises(csv.Error, match="its header opens a quote and does not close it"):
        header_and_records('case_number,"prompt,seed\n1,a ring,7\n')
    assert header_and_records("") == ([], [])
    assert header_and_records('"two\nlines",b\n1,2\n')[0] == ["two\nlines", "b"]


def test_whatever_is_damaged_no_line_is_lost_and_none_told_twice() -> None:
    rng = random.Random(20)
    good = text_of(PLAIN)
    for _ in range(300):
        text = list(good)
        for _ in range(rng.randint(1, 6)):
            at = rng.randrange(len(HEADER[0]) + 30, len(text))
            text[at : at + rng.randint(0, 2)] = rng.choice(['"', '""', ',"', '"\n', "\n", ",", "\r"])
        joined = "".join(text)
        _, records = header_and_records(joined)
        filled = [i for i, line in enumerate(io.StringIO(joined, newline=""), 1) if line.strip("\r\n")]
        assert set(filled) - {1} <= set(lines_told(records))
        assert len(set(lines_told(records))) == len(lines_told(records))


def test_a_file_of_open_quotes_takes_no_more_than_its_length() -> None:
    text = "prompt,seed\n" + '"a ""ring"",1\n' * 20_000
    _, records = header_and_records(text)
    assert len(records) == 20_000 and all(record.problem for record in records)
