"""The page in a real browser, from disk: labelled by keys alone, resumed, saved, and nothing asked of anybody."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.labels.documents import RaterFile, Task
from audit.labels.stored import stored
from audit.storage.journal import Journal
from flows.cli import main
from tests.flows.servers import wait_for
from tests.labels import runs
from tests.labels.conftest import Labelled
from tests.report.browser import Tab, tab

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.server,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
]
KEYS = ("1", "2", "3")
WORDS = {"1": "shows", "2": "does-not", "3": "cannot-tell"}
SHOWN = "document.getElementById('frame').getAttribute('aria-busy') === 'false'"
PLACE = "document.getElementById('place').textContent"
# The contrast of every visible text and control against what is painted behind it (WCAG 2.2, relative luminance).
CONTRAST = """
(() => {
  const channel = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
  const numbers = (c) => c.match(/[\\d.]+/g).map(Number);
  const light = (c) => { const [r, g, b] = numbers(c); return 0.2126*channel(r) + 0.7152*channel(g) + 0.0722*channel(b); };
  const behind = (e) => { for (; e; e = e.parentElement) {
    const c = getComputedStyle(e).backgroundColor; if ((numbers(c)[3] ?? 1) > 0) return c; } return 'rgb(255, 255, 255)'; };
  let worst = 21;
  for (const e of document.querySelectorAll('body *')) {
    const text = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!text || !e.checkVisibility() || e.closest('script') || e.disabled) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((x, y) => y - x);
    worst = Math.min(worst, (a + 0.05) / (b + 0.05));
  }
  return worst;
})()
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Labelled:
    """A run and an exported folder of 48 pictures of rings, in a folder with a name that addresses must quote."""
    place = tmp_path_factory.mktemp("page")
    run = runs.written(place / "runs", runs.Pictured(planned=24))
    folder = place / "to label #1 100%"
    options = ["--others", "0", "--hits", "0", "--clears", "0", "--random", "48"]
    assert main(["labels", "export", "run-1", "--to", str(folder), "--root", str(place / "runs"), *options]) == 0
    return Labelled(place / "runs", folder, run.truth)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tab]:
    assert CHROMIUM is not None
    with tab(CHROMIUM, tmp_path_factory.mktemp("browser")) as found:
        yield found


def start(page: Tab, small: Labelled, rater: str, width: int = 1280) -> Task:
    """Open the page as `rater`, by keys alone."""
    page.open(small.folder / "index.html", width)
    page.press("Tab", *rater, "Enter")
    page.wait("document.getElementById('start').hidden")
    return Task.model_validate_json((small.folder / "task.json").read_bytes())


def label(page: Tab, key: str) -> None:
    """Press a key once the picture is there, and wait for the next one."""
    page.wait(SHOWN)
    before = page.value(PLACE)
    page.press(key)
    page.wait(f"{PLACE} !== {json.dumps(before)} || !document.getElementById('done').hidden")


def test_all_is_labelled_by_keys_resumed_and_saved(page: Tab, small: Labelled, tmp_path: Path) -> None:
    page.download_to(tmp_path)
    task = start(page, small, "Åsa O'Neil")
    keys = [KEYS[n % 3] for n in range(len(task.pictures))]
    for key in keys[:7]:
        label(page, key)
    assert page.value(PLACE) == f"Picture 8 of {len(task.pictures)}"
    page.press("ArrowLeft", "ArrowLeft")
    assert page.value(PLACE).startswith("Picture 6 ")
    assert page.value("document.querySelector('[aria-pressed=true]').dataset.label") == WORDS[keys[5]]
    label(page, "1")  # another opinion
    keys[5] = "1"
    start(page, small, "åsa  o'neil")  # loaded anew, typed otherwise
    assert page.value(PLACE) == f"Picture 8 of {len(task.pictures)}"
    for key in keys[7:]:
        label(page, key)
    assert page.value("document.getElementById('ready').checkVisibility()")
    page.press("Tab", "Enter")
    saved = tmp_path / "labels-åsa-o-neil.json"
    wait_for("the saved file", lambda: saved.exists() and saved.stat().st_size, 60, saved)
    file = RaterFile.model_validate_json(saved.read_bytes())
    assert file.labels == {picture.id: WORDS[key] for picture, key in zip(task.pictures, keys, strict=True)}
    assert (file.task, file.run_id, file.rater) == (task.digest(), "run-1", "åsa o'neil")
    assert list(json.loads(saved.read_text())) == list(RaterFile.model_fields)
    assert [path.name for path in tmp_path.iterdir()] == [saved.name]


def test_what_two_people_saved_can_be_imported(page: Tab, small: Labelled, tmp_path: Path) -> None:
    page.download_to(tmp_path)
    for rater in ("Ann", "Bo"):
        for picture in start(page, small, rater).pictures:
            label(page, "1" if small.truth[picture.concept, picture.pixel_sha256] else "2")
        page.press("Tab", "Enter")
        saved = tmp_path / f"labels-{rater}.json"
        wait_for("the saved file", lambda saved=saved: saved.exists() and saved.stat().st_size, 60, saved)
    files = [str(tmp_path / f"labels-{rater}.json") for rater in ("Ann", "Bo")]
    options = ["--root", str(small.root), "--folder", str(small.folder)]
    assert main(["labels", "import", "run-1", *files, *options]) == 0
    ((_, labels),) = stored(Journal(str(small.root)))
    assert [rater.name for rater in labels.raters] == ["Ann", "Bo"]
    for picture in labels.pictures:
        truth = small.truth[picture.concept, picture.pixel_sha256]
        assert set(picture.labels) == {"shows" if truth else "does-not"}
        assert picture.outcomes == {"judge": "hit" if truth else "clear"}


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_and_can_be_read(page: Tab, small: Labelled, width: int, dark: bool) -> None:
    page.dark(dark)
    page.open(small.folder / "index.html", width)
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(CONTRAST) >= 4.5
    start(page, small, f"rater {width} {dark}", width)
    page.wait(SHOWN)
    page.press("1")
    page.press("ArrowLeft")
    assert page.value("document.documentElement.scrollWidth") <= width
    assert page.value(CONTRAST) >= 4.5
    assert page.value(
        "[...document.querySelectorAll('.answers button')].every(b => b.getBoundingClientRect().bottom < 900)"
    )
    assert page.value("[...document.querySelectorAll('button, input')].every(e => e.innerText || e.labels.length)")


def test_nothing_is_asked_of_anybody_and_nothing_else_may_run(page: Tab, small: Labelled) -> None:
    start(page, small, "Dee")
    label(page, "1")
    folder = small.folder.as_uri()
    assert len(page.requests) >= 3
    assert [url for url in page.requests if not url.startswith(f"{folder}/")] == []
    page.value(
        "window.blocked = [], window.onsecuritypolicyviolation = e => window.blocked.push(e.effectiveDirective), 0"
    )
    page.value("Object.assign(new Image(), {src: 'http://127.0.0.1:9/picture.png'}), 0")
    page.value("fetch('http://127.0.0.1:9/answer').catch(() => 0), 0")
    page.value("document.body.append(Object.assign(document.createElement('script'), {text: 'window.ran = true'})), 0")
    page.value("document.body.setAttribute('style', 'color: red'), 0")
    page.wait("window.blocked.length >= 4")
    assert set(page.value("window.blocked")) == {"img-src", "connect-src", "script-src-elem", "style-src-attr"}
    assert page.value("window.ran === undefined")


def test_a_picture_that_is_missing_cannot_be_labelled(page: Tab, small: Labelled, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small.folder, tmp_path / "copy"))
    task = Task.model_validate_json((folder / "task.json").read_bytes())
    (folder / str(task.pictures[0].file)).unlink()
    start(page, Labelled(small.root, folder, small.truth), "Eve")
    page.wait("!document.getElementById('trouble').hidden")
    page.press("1")
    assert page.value(PLACE).startswith("Picture 1 ")
    assert "missing or damaged" in page.value("document.getElementById('trouble').textContent")
