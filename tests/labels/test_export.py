"""What raters get: pictures drawn by seed and never by what a judge said, outcomes hidden, sensitive ones blurred."""

from __future__ import annotations

import collections
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from audit.corpus import images
from audit.labels import drawing
from audit.labels.documents import Exported, Task
from audit.labels.drawing import Sizes, draw
from audit.labels.export import record_name
from audit.labels.pool import Seen
from audit.report import pictures
from audit.storage.journal import Journal
from flows.cli import main
from tests.labels import runs
from tests.labels.conftest import Labelled


def exported(root: Path, folder: Path, *options: str) -> tuple[Task, str]:
    """The task of a run in `root`, and the page."""
    assert main(["labels", "export", "run-1", "--to", str(folder), "--root", str(root), *options]) == 0
    return Task.model_validate_json((folder / "task.json").read_bytes()), (folder / "index.html").read_text()


def record(root: Path, task: Task) -> Exported:
    return Exported.model_validate_json(Journal(str(root)).get_run("run-1", record_name(task.digest())))


def test_a_folder_has_what_raters_need_and_nothing_that_a_judge_said(labelled: Labelled, tmp_path: Path) -> None:
    task, page = exported(labelled.root, tmp_path / "again", "--random", "40", "--hits", "60", "--others", "10")
    counted = {(s.concept, s.domain, s.sample): (s.pictures, s.drawn) for s in task.strata}
    assert counted["ring", "generated", "random"] == (120, 40)
    assert counted["disc", "generated", "random"] == (30, 10)
    assert counted["ring", "reference", "random"] == (30, 10)
    assert counted["ring", "generated", "hits"][1] > 10
    assert len(task.pictures) == sum(s.drawn for s in task.strata) == len({p.id for p in task.pictures})
    for picture in task.pictures:
        assert picture.file is not None
        shown = images.decode_stored((tmp_path / "again" / picture.file).read_bytes())
        assert images.pixel_sha256(shown) == picture.pixel_sha256
        assert (picture.concept, picture.pixel_sha256) in labelled.truth
    for text in (page, (tmp_path / "again/task.json").read_text()):
        assert not re.search(r'"(hit|clear|outcomes?|judges?|domain|defended)"', text.split('"strata"')[0])
        assert "judge" not in text
    assert [q.phrase for q in task.questions] == ["a round disc", "a ring"]


def test_the_hidden_record_is_fixed_by_the_task_before_anybody_labels(made: Labelled) -> None:
    task = Task.model_validate_json((made.folder / "task.json").read_bytes())
    kept = record(made.root, task)
    assert kept.record.digest() == task.record
    assert [p.id for p in kept.record.pictures] == [p.id for p in task.pictures]
    for picture in kept.record.pictures:
        assert (picture.outcomes["judge"] == "hit") == made.truth[picture.concept, picture.pixel_sha256]


def test_the_order_tells_nothing(made: Labelled) -> None:
    """Within a concept hits are spread: neither sorted by cell nor by outcome."""
    task = Task.model_validate_json((made.folder / "task.json").read_bytes())
    rings = [p for p in record(made.root, task).record.pictures if p.concept == "ring"]
    changes = sum(a.outcomes != b.outcomes for a, b in itertools.pairwise(rings))
    assert changes > len(rings) / 4
    assert len({p.domain for p in rings[: len(rings) // 2]}) == 2


def pool(outcomes: str) -> list[Seen]:
    words = {"h": "hit", "c": "clear"}
    return [
        Seen("ring", "generated", f"{n:064x}", "0" * 64, n, False, True, True, {"judge": words[letter]})
        for n, letter in enumerate(outcomes)
    ]


def test_the_random_sample_does_not_depend_on_what_judges_said() -> None:
    sizes = Sizes(random=30, hits=0, clears=0)
    first, second = draw(pool("h" * 50 + "c" * 50), sizes, 3), draw(pool("ch" * 50), sizes, 3)
    assert [s.pixel_sha256 for s, _ in first.pictures] == [s.pixel_sha256 for s, _ in second.pictures]
    other = draw(pool("ch" * 50), sizes, 4)
    assert [s.pixel_sha256 for s, _ in first.pictures] != [s.pixel_sha256 for s, _ in other.pictures]


def test_every_picture_is_equally_likely_to_calibrate() -> None:
    drawn = collections.Counter(
        seen.image_id
        for seed in range(600)
        for seen, _ in draw(pool("h" * 5 + "c" * 25), Sizes(10, 0, 0), seed).pictures
    )
    assert len(drawn) == 30
    assert max(abs(count - 200) for count in drawn.values()) < 60  # five standard deviations


@pytest.mark.parametrize(
    ("sizes", "hits", "clears"),
    [(Sizes(24, 20, 30), 20, 30), (Sizes(24, 0, 0), None, None), (Sizes(24, 500, 0), 40, None)],
)
def test_hits_and_clears_are_drawn_on_top(sizes: Sizes, hits: int | None, clears: int | None) -> None:
    drawn = draw(pool("h" * 40 + "c" * 60), sizes, 0)
    assert sum(sample == "random" for _, sample in drawn.pictures) == 24
    found = [seen.hit for seen, _ in drawn.pictures]
    assert hits is None or sum(found) == hits
    assert clears is None or len(found) - sum(found) == clears
    assert {s.sample: s.pictures for s in drawn.strata} == {"random": 100, "hits": 40, "clears": 60}


def test_sensitive_pictures_are_blurred_unless_asked_and_then_it_is_on_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.written(tmp_path / "runs", runs.Pictured(planned=24, sensitive=True))
    task, _ = exported(tmp_path / "runs", tmp_path / "blurred")
    assert "sensitive pictures are blurred" in capsys.readouterr().err
    files = [picture.file for picture in task.pictures if picture.file is not None]
    assert len(files) > len(task.pictures) / 2
    assert len(list((tmp_path / "blurred/pictures").iterdir())) == len(set(files))
    for file in files:
        assert file.endswith(".jpg")
        with Image.open(tmp_path / "blurred" / file) as image:
            pictures._require_no_detail(image.convert("RGB"))
    assert not list((tmp_path / "runs/runs/run-1").glob("shown-*"))
    task, _ = exported(tmp_path / "runs", tmp_path / "shown", "--show-sensitive")
    assert all(p.file is not None and p.file.endswith(".png") for p in task.pictures)
    (shown,) = (tmp_path / "runs/runs/run-1").glob("shown-*")
    assert json.loads(shown.read_text())["report"] == str(tmp_path / "shown")


def test_a_picture_that_cannot_be_blurred_is_withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.written(tmp_path / "runs", runs.Pictured(planned=24, sensitive=True))
    monkeypatch.setattr(pictures, "_blur", lambda image: image)
    task, page = exported(tmp_path / "runs", tmp_path / "out")
    assert {p.file for p in task.pictures} == {None}
    assert list((tmp_path / "out/pictures").iterdir()) == []
    assert "data:" not in page and ".png" not in page


def test_the_page_asks_for_nothing_but_its_pictures(made: Labelled) -> None:
    page = (made.folder / "index.html").read_text()
    assert "default-src &#39;none&#39;; img-src &#39;self&#39; file:" in page
    assert not re.search(
        r"https?:|(src|href)=|@import|url\(", re.sub(r"<script type=.*?</script>", "", page, flags=re.S)
    )


def test_hostile_phrases_stay_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = "</script><script>alert(1)</script>\u2028<!--"
    monkeypatch.setattr(runs, "CONCEPTS", [{"name": "ring", "phrase": hostile}])
    runs.written(tmp_path / "runs", runs.Pictured(planned=24))
    task, page = exported(tmp_path / "runs", tmp_path / "out")
    assert hostile in [q.phrase for q in task.questions]
    assert page.count("<script") == 2 and "alert(1)</script" not in page


def small(run_id: str = "run-1") -> runs.Pictured:
    return runs.Pictured(planned=24, run_id=run_id)


def too_few(folder: Path) -> None:
    runs.written(folder, runs.Pictured(planned=10))


def edited(folder: Path) -> None:
    run = runs.written(folder, small())
    other = runs.Pictured(planned=24, offset=900)
    run.rewrite(Journal(str(folder)), "generate", 0, {0: {"image": other.rows(other.key("generate"))[0]["image"]}})


def purged(folder: Path) -> None:
    run = runs.written(folder, small())
    run.rewrite(Journal(str(folder)), "generate", 0, {n: {"image": None} for n in range(24)})


MISTAKES: dict[str, tuple[Any, list[str], str]] = {
    "too few pictures": (too_few, [], r"too few assessed pictures.*: 20 of 'ring'; a judge needs 12 .* and 12 "),
    "a picture that was swapped": (edited, ["--random", "500"], "not the one that the judges saw"),
    "pictures that were purged": (purged, ["--random", "500"], "pixels of a picture are no longer in the journal"),
    "a folder in use": (lambda f: runs.written(f, small()), ["--to", "."], "folder is in use"),
    "a file in its place": (lambda f: runs.written(f, small()), ["--to", "file"], "folder is in use"),
    "a folder that cannot be written": (
        lambda f: runs.written(f, small()),
        ["--to", "file/below"],
        "cannot be (read|written)",
    ),
    "another run": (lambda f: runs.written(f, small("run-2")), [], "run-1"),
    "too small a sample": (lambda f: runs.written(f, small()), ["--random", "3"], "greater than or equal to 24"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_get_one_message_and_exit_code_2(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare, options, message = MISTAKES[name]
    prepare(tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    to = [] if "--to" in options else ["--to", "out"]
    assert main(["labels", "export", "run-1", "--root", "runs", *to, *options]) == 2
    assert re.search(message, " ".join(capsys.readouterr().err.split()))
    assert not (tmp_path / "out/index.html").exists()


def test_the_least_count_is_twice_what_a_judge_needs() -> None:
    with pytest.raises(Exception, match="23 of 'ring'"):
        draw(pool("c" * (2 * drawing.LEAST - 1)), Sizes(), 0)
    assert draw(pool("c" * 2 * drawing.LEAST), Sizes(), 0).pictures
