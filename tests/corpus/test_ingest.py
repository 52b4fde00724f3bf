"""Corpora on disk and on other fsspec systems: order, hashes, every kind of bad object and bad address, rereading."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from audit import locations
from audit.corpus import images, ingest
from audit.corpus.ingest import fetch, items, manifest
from audit.errors import CorpusError, SpecError
from audit.records import Item
from audit.spec.document import parse_spec
from audit.spec.sections import CorpusEntry, CorpusLimits
from tests.corpora import LIMITS, entry, png, refusal, rows, table, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


def test_one_row_for_each_object_in_order_of_uri(folder: Path) -> None:
    listed = rows(entry(folder))
    uris = [str(row["uri"]) for row in listed]
    assert uris == sorted(uris)
    assert [uri.removeprefix(f"file://{folder}/") for uri in uris] == [
        "a-/2.png",
        "a.png",
        "a/1.png",
        "b/c/3.png",
        "ä €#?&+%20.png",
    ]
    first = listed[2]
    data = (folder / "a/1.png").read_bytes()
    pixels = images.decode(data, max_bytes=10**6, max_pixels=10**6)
    assert first["pixel_sha256"] == images.pixel_sha256(pixels)
    assert (first["size_bytes"], first["width"], first["height"], first["format"]) == (len(data), 8, 8, "PNG")
    assert (first["role"], first["concept"], first["error"], first["duplicate_of"]) == ("target", "ring", None, None)


def test_plain_relative_and_file_urls_name_the_same_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = rows(entry(folder))
    monkeypatch.chdir(folder.parent)
    for url in ("corpus", "./corpus/", "file://corpus", f"file://{folder}", f"file://{folder}/", f"{folder}//"):
        assert rows(entry(url)) == expected, url


def test_the_order_of_entries_does_not_matter(folder: Path) -> None:
    one, two = entry(folder / "a"), entry(folder / "b", "disc", "neighbour")
    assert rows(one, two) == rows(two, one)
    assert {(row["concept"], row["role"]) for row in rows(one, two)} == {("ring", "target"), ("disc", "neighbour")}


def test_unusable_objects_keep_their_row_with_a_reason(tmp_path: Path) -> None:
    good = png(1, 32)
    contents = {
        "empty.png": b"",
        "notes.txt": b"hello",
        "truncated.png": good[: len(good) // 2],
        "big.png": good + b"\0" * 10_000,
        "wide.png": png(2, 200),
        "good.png": good,
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken-link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "link.png").symlink_to(tmp_path / "good.png")
    listed = rows(entry(tmp_path), limits=CorpusLimits(max_bytes=150_000, max_pixels=32 * 32))
    small = rows(entry(tmp_path), limits=CorpusLimits(max_bytes=10_000))
    reasons = {str(row["uri"]).rsplit("/", 1)[1]: row["error"] for row in listed}
    assert len(reasons) == len(contents) + 4
    assert reasons["empty.png"] == "empty file"
    assert str(reasons["notes.txt"]).startswith("not an image")
    assert str(reasons["truncated.png"]).startswith("truncated or corrupt PNG")
    assert reasons["wide.png"] == "too many pixels: 200 x 200 = 40000, the limit is 1024"
    assert reasons["pipe"] == "not a regular file"
    assert reasons["broken-link.png"] == "broken link"
    assert reasons["loop"] == "a link to a folder; it is not followed"
    assert reasons["good.png"] is None
    assert reasons["link.png"] is None
    too_big = next(row for row in small if str(row["uri"]).endswith("big.png"))
    assert too_big["error"] == f"too many bytes: {len(contents['big.png'])}, the limit is 10000"
    assert too_big["byte_sha256"] is None
    hashed = next(row for row in listed if str(row["uri"]).endswith("notes.txt"))
    assert hashed["byte_sha256"] is not None
    assert hashed["pixel_sha256"] is None


def test_a_name_that_is_not_utf8_is_reported(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(png(0))
    (listed,) = rows(entry(tmp_path))
    assert listed["error"] == "the file's name is not UTF-8"
    assert str(listed["uri"]).endswith("\\xff.png")


def test_equal_pictures_inside_a_role_are_marked_not_dropped(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    for name in ("targets/b.png", "targets/c.png", "neighbours/a.png"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(images.encode_png(pixels))
    buffer = tmp_path / "targets" / "a.bmp"
    images.Image.fromarray(pixels).save(buffer)
    listed = rows(entry(tmp_path / "targets"), entry(tmp_path / "neighbours", "disc", "neighbour"))
    marks = {str(row["uri"]).rsplit("/", 1)[1]: row["duplicate_of"] for row in listed if row["role"] == "target"}
    assert marks == {"a.bmp": None, "b.png": f"file://{buffer}", "c.png": f"file://{buffer}"}
    assert [row["duplicate_of"] for row in listed if row["role"] == "neighbour"] == [None]
    usable = list(items(table(entry(tmp_path / "targets")), usable=True))
    assert [item.uri for item in usable] == [f"file://{buffer}"]


def test_progress_counts_rows_and_batches_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(7):
        (tmp_path / f"{i}.png").write_bytes(png(i))
    monkeypatch.setattr(ingest, "BATCH_ROWS", 3)
    seen: list[int] = []
    batches = list(manifest([entry(tmp_path)], LIMITS, progress=seen.append))
    assert [batch.num_rows for batch in batches] == [3, 3, 1]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_objects_are_not_read_far_ahead_of_the_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(60):
        (tmp_path / f"{i:03}.png").write_bytes(png(i))
    opened: list[str] = []
    original = ingest._examine

    def counting(*arguments: object) -> Item:
        opened.append("x")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ingest, "_examine", counting)
    monkeypatch.setattr(ingest, "BATCH_ROWS", 5)
    batches = manifest([entry(tmp_path)], LIMITS)
    next(batches)
    assert 5 <= len(opened) <= 5 + ingest.WINDOW
    before = threading.active_count()
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before
    assert len(opened) < 60


def test_an_empty_folder_beside_others_costs_itself_and_is_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "empty").mkdir()
    listed = rows(entry(folder), entry(tmp_path / "empty", "star"))
    assert len(listed) == 5 and {row["concept"] for row in listed} == {"ring"}
    assert f"no objects under this corpus URL: file://{tmp_path}/empty" in caplog.text
    (tmp_path / "void").mkdir()
    assert "no objects" in refusal(entry(tmp_path / "void"), entry(tmp_path / "empty", "star")).what


def test_missing_empty_and_file_urls_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty" / "nested").mkdir(parents=True)
    (tmp_path / "one.png").write_bytes(png(0))
    assert "does not exist" in refusal(entry(tmp_path / "nowhere")).what
    assert "no objects" in refusal(entry(tmp_path / "empty")).what
    error = refusal(entry(tmp_path / "one.png"))
    assert "a file, not a folder" in error.what
    assert f"file://{tmp_path}" in str(error.next_step)
    assert "cannot be read" in refusal(entry(tmp_path / "one.png" / "below")).what


@contextlib.contextmanager
def unprivileged() -> Iterator[None]:
    """Run as nobody when the tests run as root, whom no permission stops."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_closed_folders_raise_and_closed_files_keep_their_row() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        (root / "open" / "closed").mkdir(parents=True)
        for path in (root / "open" / "1.png", root / "open" / "2.png", root / "open" / "closed" / "3.png"):
            path.write_bytes(png(0))
        root.chmod(0o755)
        (root / "open" / "1.png").chmod(0)
        (root / "open" / "closed").chmod(0)
        try:
            with unprivileged():
                error = refusal(entry(root / "open"))
            assert "denied" in error.what
            assert error.where == f"file://{root}/open/closed"
            (root / "open" / "closed").chmod(0o755)
            with unprivileged():
                listed = rows(entry(root / "open"))
            assert [row["error"] for row in listed] == ["access denied", None, None]
        finally:
            (root / "open" / "closed").chmod(0o755)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://AKIAKEY:s3cr3t/with/slash@bucket/prefix", "carries credentials"),
        ("s3://user@bucket/prefix", "carries credentials"),
        ("gs://user:s3cr3t@bucket/prefix", "carries credentials"),
        ("https://host/a?X-Amz-Signature=s3cr3t", "carries credentials"),
        ("s3://", "names no bucket"),
        ("https://host/pictures", "cannot be used for a corpus"),
        ("ftp://host/pictures", "the protocol 'ftp' is not supported; folders (a path or file:///folder) and s3://"),
        ("reference://x", "the protocol 'reference' is not supported; folders (a path or file:///folder) and s3://"),
        ("data://x", "the protocol 'data' is not supported; folders (a path or file:///folder) and s3://"),
        ("hdfs://host/x", "the protocol 'hdfs' is not supported; folders (a path or file:///folder) and s3://"),
        ("memory://a::b/c", "chained with '::'"),
        ("nosuch://host/pictures", "cannot be used for a corpus"),
        ("zip://a::s3://bucket/b.zip", "cannot be used for a corpus"),
        (" ", "empty or not a path"),
        ("a\0b", "empty or not a path"),
    ],
)
def test_unusable_urls_are_refused_before_anything_is_read(url: str, message: str, tmp_path: Path) -> None:
    unread = CorpusEntry.model_construct(url=url, concept="ring", role="target")
    with pytest.raises(CorpusError) as caught:
        manifest([entry(tmp_path, role="control"), unread], LIMITS)
    assert message in caught.value.what
    assert "s3cr3t" not in str(caught.value)
    assert "AKIAKEY" not in str(caught.value)


def test_a_spec_with_credentials_in_a_url_is_refused_without_repeating_them() -> None:
    document = {"name": "x", "corpus": [{"url": "s3://KEY1234:s3cr3t@bucket/x", "concept": "ring"}]}
    with pytest.raises(SpecError) as caught:
        parse_spec(document, "spec.yaml")
    assert "corpus.0.url: carries credentials" in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_no_entries_give_no_rows_and_overlapping_entries_are_refused(folder: Path) -> None:
    assert list(manifest([], LIMITS)) == []  # an audit by text alone needs no corpus
    for one, two in itertools.permutations([entry(folder), entry(folder / "a", "disc")]):
        assert "list the same objects" in refusal(one, two).what
    assert "list the same objects" in refusal(entry(folder), entry(f"{folder}/")).what
    assert len(rows(entry(folder), entry(folder, role="control"))) == 10
    assert len(rows(entry(folder / "a"), entry(folder / "a-"))) == 2  # a shared beginning is no overlap


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("connect to http://user:pa55@host:9000/b failed", "connect to http://***@host:9000/b failed"),
        ("s3://KEY:a/b+c@bucket/x", "s3://***@bucket/x"),
        ("GET /x?a=1&X-Amz-Signature=deadbeef&b=2", "GET /x?a=1&X-Amz-Signature=***&b=2"),
        ("s3://bucket/a@b:c", "s3://bucket/a@b:c"),
        ("http://host:9000/a", "http://host:9000/a"),
        ("secret-from-environment!", "***!"),
    ],
)
def test_redaction(text: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-from-environment")
    assert locations.redact(text) == expected


def test_another_fsspec_system_works_by_the_same_way(folder: Path) -> None:
    import fsspec

    system = fsspec.filesystem("memory")
    for path in sorted(folder.rglob("*.png")):
        system.pipe_file(f"/test-corpus/{path.relative_to(folder)}", path.read_bytes())
    try:
        here, there = rows(entry(folder)), rows(entry("memory://test-corpus"))
        assert [row["pixel_sha256"] for row in there] == [row["pixel_sha256"] for row in here]
        assert [str(row["uri"]) for row in there] == sorted(str(row["uri"]) for row in there)
        (item, *_) = items(table(entry("memory://test-corpus")))
        assert images.pixel_sha256(fetch(item)) == item.pixel_sha256
        assert "a file, not a folder" in refusal(entry("memory://test-corpus/a.png")).what
        assert "does not exist" in refusal(entry("memory://nowhere")).what
    finally:
        system.rm("/test-corpus", recursive=True)


def test_fetch_returns_the_pixels_and_notices_every_change(folder: Path) -> None:
    item = next(item for item in items(table(entry(folder))) if item.uri.endswith("/a.png"))
    assert images.pixel_sha256(fetch(item)) == item.pixel_sha256
    (folder / "a.png").write_bytes(png(99))
    with pytest.raises(CorpusError, match="changed since the manifest") as caught:
        fetch(item)
    assert caught.value.where == item.uri
    (folder / "a.png").unlink()
    with pytest.raises(CorpusError, match="changed since the manifest: it is gone"):
        fetch(item)
    with pytest.raises(CorpusError, match="cannot be used: empty file"):
        fetch(dataclasses.replace(item, error="empty file"))


def test_read_picture_checks_the_pixels(folder: Path) -> None:
    item = next(item for item in items(table(entry(folder))) if item.uri.endswith("/a.png"))
    assert images.pixel_sha256(ingest.read_picture(item.uri, LIMITS, item.pixel_sha256)) == item.pixel_sha256
    with pytest.raises(images.ImageError, match="could not be read when the run was planned"):
        ingest.read_picture(item.uri, LIMITS, None)
    (folder / "a.png").write_bytes(png(99))
    with pytest.raises(CorpusError, match="shows another picture"):
        ingest.read_picture(item.uri, LIMITS, item.pixel_sha256)
    (folder / "a.png").write_bytes(b"text")
    with pytest.raises(images.ImageError, match="not an image"):
        ingest.read_picture(item.uri, LIMITS, None)
    (folder / "a.png").unlink()
    with pytest.raises(CorpusError, match="it is gone"):
        ingest.read_picture(item.uri, LIMITS, item.pixel_sha256)
    with pytest.raises(images.ImageError, match="it is gone"):
        ingest.read_picture(item.uri, LIMITS, None)


LITTER = ("._a.png", ".DS_Store", "Thumbs.db", "sub/desktop.ini", "sub/._b.png", "__MACOSX/._a.png", "__MACOSX/x/a.png")


def test_what_macos_and_windows_leave_is_skipped_and_mentioned_once(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.cli import main

    before = rows(entry(folder))
    for name in LITTER:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"\0\5\x16\7")
    skipped: list[str] = []
    batches = list(manifest([entry(folder)], LIMITS, skipped=skipped))
    assert [row for batch in batches for row in batch.to_pylist()] == before
    assert sorted(skipped) == sorted(f"file://{folder}/{name}" for name in LITTER)
    (said,) = [r.getMessage() for r in caplog.records]
    assert said.startswith("7 files that macOS or Windows left in the corpus are skipped, such as file://")
    main(["corpus", "manifest", str(folder)])
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].split()[-1] == "skipped" and shown[1].split()[-1] == "7"


def test_a_folder_of_nothing_but_litter_is_empty(tmp_path: Path) -> None:
    (tmp_path / ".DS_Store").write_bytes(b"x")
    assert "no objects" in refusal(entry(tmp_path)).what


def test_names_that_only_look_like_litter_are_read(tmp_path: Path) -> None:
    for seed, name in enumerate(("_a.png", ".a.png", "Thumbs.png", "MACOSX.png")):
        (tmp_path / name).write_bytes(png(seed))
    assert len(rows(entry(tmp_path))) == 4
