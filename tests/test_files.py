"""Bytes from outside, within bounds."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from audit.errors import Interrupted
from audit.files import ForeignError, parse_json, read_bounded, reason


def test_a_file_is_read_whole_up_to_its_limit_and_through_links(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_bounded(tmp_path / "link", 5) == b"12345"
    with pytest.raises(ForeignError, match="it has 5 bytes, and at most 4 are read"):
        read_bounded(tmp_path / "a", 4)


def test_a_file_that_reports_no_size_is_still_bounded() -> None:
    with pytest.raises(ForeignError, match="more than 10 bytes"):
        read_bounded(Path("/proc/self/environ"), 10)


def test_named_pipes_devices_and_folders_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "a named pipe"), (tmp_path, "a folder"), (Path("/dev/zero"), "a device")):
        with pytest.raises(ForeignError, match=f"it is {kind}, not a file"):
            read_bounded(path, 10)


def test_a_missing_file_is_an_ordinary_error_and_an_impossible_name_is_not(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_bounded(tmp_path / "none", 10)
    for name in ("a\0b", "a\ud800"):
        with pytest.raises(ForeignError, match="its name is none that a file can have"):
            read_bounded(tmp_path / name, 10)


def test_json_is_read_as_json_reads_it() -> None:
    text = '{"a": [1, -2.5, "[[[{\\"", null, true, NaN, Infinity], "b": "\\ud83d\\ude00"}'
    found = parse_json(text.encode())
    assert found["a"][:5] == [1, -2.5, '[[[{"', None, True]
    assert math.isnan(found["a"][5]) and math.isinf(found["a"][6])
    assert found["b"] == "\U0001f600"
    assert parse_json("[" * 64 + "]" * 64) is not None
    assert parse_json("9" * 300) == 10**300 - 1


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff\xfe", "it is not UTF-8 text (byte 0)"),
        (b"", "it is not valid JSON (line 1, column 1)"),
        ("{'a': 1}", "it is not valid JSON (line 1, column 2)"),
        ("[" * 65 + "]" * 65, "it is nested deeper than 64 levels"),
        ("[" * 1_000_000, "it is nested deeper than 64 levels"),
        ('{"a":' * 100_000, "it is nested deeper than 64 levels"),
        ("9" * 301, "it holds an integer of more than 300 digits"),
        ("-" + "9" * 5000, "it holds an integer of more than 300 digits"),
        ('{"a": "\\ud800"}', "it holds half a surrogate pair, which is no character"),
        ('"' + '\\"' * 100_000, "it is not valid JSON (line 1, column 1)"),
        ('"\\', "it is not valid JSON (line 1, column 1)"),
    ],
)
def test_what_is_no_usable_json_is_one_short_reason(text: str | bytes, reason: str) -> None:
    with pytest.raises(ForeignError) as caught:
        parse_json(text)
    assert str(caught.value) == reason


def test_a_panic_of_a_library_in_rust_is_a_reason_and_an_interruption_is_not() -> None:
    panic = type("PanicException", (BaseException,), {})  # pyo3's own class cannot be imported
    assert reason(panic("index out\nof bounds")) == "index out of bounds"
    assert reason(KeyError()) == "KeyError"
    for passing in (KeyboardInterrupt(), SystemExit(1), Interrupted("stopped")):
        with pytest.raises(type(passing)):
            reason(passing)
