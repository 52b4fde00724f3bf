"""Long steps are told, with rate and time left: on a terminal as bars, elsewhere as lines, quick ones not at all."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from audit.progress import Pace, lines, steps
from audit.progress.lines import Lines, speed
from audit.progress.steps import Step, counted, listening
from audit.spec.sections import CorpusEntry
from flows import console
from tasks import collect


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The lines of steps that count as long at once."""
    monkeypatch.setattr(steps.Step, "PATIENCE", 0.0)
    monkeypatch.setattr(steps.Step, "SECONDS", 0.0)
    said: list[str] = []
    with listening(Lines(said.append, 0.0)):
        yield said


def test_a_long_step_is_told_with_what_it_counts(told: list[str]) -> None:
    assert list(counted("abc", "verify", 3, "files")) == ["a", "b", "c"]
    assert told[0] == "verify: 0/3 files"
    assert told[1].startswith("verify: 1/3 files, ") and told[1].endswith(" left")
    assert told[-1].startswith("verify: 3/3 files in ")


def test_a_step_inside_another_leaves_the_outer_one_as_it_was(told: list[str]) -> None:
    for _ in counted(range(2), "fold runs", 2, "runs"):
        list(counted(range(3), "fold", 3, "units"))
    assert [line for line in told if line.startswith("fold runs")][-1].startswith("fold runs: 2/2 runs in ")
    assert sum(line.startswith("fold: 3/3 units in ") for line in told) == 2


def test_a_step_that_learns_of_more_parts_is_told_with_the_new_total(told: list[str]) -> None:
    with Step("dashboard", None, "pages") as step:
        step.advance(total=4)
        step.advance(total=9)
    assert told[0] == "dashboard: 0/4 pages"
    assert told[-1].startswith("dashboard: 2/9 pages in ")


def test_a_quick_step_is_not_told_and_an_error_ends_a_long_one(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with listening(Lines(said.append, 0.0)):
        list(counted(range(1000), "verify", 1000, "files"))
    assert said == []
    monkeypatch.setattr(steps.Step, "PATIENCE", 0.0)
    with listening(Lines(said.append, 3600.0)), pytest.raises(OSError), Step("fold", 7, "units") as step:
        step.advance(2)
        raise OSError
    assert said[0] == "fold: 0/7 units" and said[1].startswith("fold: 2/7 units in ")


def test_lines_of_a_stage_that_lasts_come_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(lines.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(lines, "Pace", lambda done: Pace(done, lambda: now[0]))
    said: list[str] = []
    listener = Lines(said.append, 10.0)
    listener.begin("generate", 86_400, 0)
    for second in range(1, 86_401):  # a unit a second for a day
        now[0] = float(second)
        listener.update("generate", second)
    assert len(said) < 400
    assert said[1] == "generate: 10/86400 units, 1.0/s, 24.0 h left"


def test_a_pace_holds_few_marks_however_quick_the_parts_are() -> None:
    ticks = (number / 1000 for number in range(1_000_000))
    pace = Pace(0, lambda: next(ticks))
    for done in range(1, 100_001):
        pace.mark(done)
    assert len(pace._marks) < 200
    assert pace.rate == pytest.approx(1000)


def test_a_terminal_shows_a_bar_for_each_stage_with_rate_and_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter((0.0, 0.0, 40.0, 0.0, 0.0))
    monkeypatch.setattr(console, "Pace", lambda done: Pace(done, lambda: next(ticks)))
    screen = io.StringIO()
    bars = console.BarReporter(Console(file=screen, force_terminal=True, width=120))
    bars.begin("erase", 0, 0)  # nothing to do
    bars.end("erase")
    bars.begin("generate", 4, 1)
    bars.begin("hash weights", 9, 0, "MiB")
    bars.update("generate", 2)  # parts slower than the half minute after which rich's own column gives up
    bars.end("hash weights")
    assert bars._progress is not None
    bars._progress.refresh()
    shown = screen.getvalue()
    bars.end("generate")
    bars.begin("detect", 4, 0)
    bars.close()
    assert "erase" not in shown and "2/4" in shown and "1.5/min" in shown and "80 s left" in shown
    last = screen.getvalue().rpartition("generate")[2]
    assert "detect" in last and "hash weights" not in last


@pytest.mark.parametrize(("rate", "text"), [(12_345.6, "12,345.6/s"), (0.2, "12.0/min"), (0.001, "3.6/h")])
def test_speeds_are_readable(rate: float, text: str) -> None:
    assert speed(rate) == text


@pytest.mark.parametrize("missing", [False, True])
def test_the_collecting_of_a_corpus_tells_the_time_left_once_it_is_counted(
    missing: bool, told: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, "PATIENCE_SECONDS", 0.0)
    (tmp_path / "ring").mkdir()
    for name in ("a.png", "b.png", "c.png", ".DS_Store"):
        (tmp_path / "ring" / name).write_bytes(b"a picture")
    url = str(tmp_path / ("absent" if missing else "ring"))
    with collect._Counting([CorpusEntry(url=url, concept="ring")]) as counting:
        counting._thread.join(10)
        for done in (1, 2, 3):
            counting.show(done)
    if missing:  # which is for whoever reads the corpus to say
        assert told[0] == "collect: 0 objects" and not any(" left" in line for line in told)
        return
    assert told[0] == "collect: 0 objects"
    assert told[1].startswith("collect: 1/3 objects, ") and told[1].endswith(" left")
    assert told[-1].startswith("collect: 3/3 objects in ")


def test_a_stage_that_waited_for_others_tells_the_speed_of_its_own_parts() -> None:
    """Judges wait for the last picture; two hours of waiting say nothing of how long judging takes."""
    ticks = iter([0.0, 7200.0, 7201.0, 7202.0])
    pace = Pace(0, lambda: next(ticks))
    pace.mark(1)
    assert pace.rate is None and pace.seconds_left(100) is None
    pace.mark(7)
    pace.mark(13)
    assert pace.rate == 6.0 and pace.seconds_left(103) == 15.0
