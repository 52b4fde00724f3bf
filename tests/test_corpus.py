"""The corpus from disk and from real S3 servers: order, hashes, every kind of bad object and bad address, memory."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import http.server
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pytest

from audit import corpus, corpus_manifest, images, urls
from audit.corpus import fetch, items, manifest, manifest_sha256, read_manifest, write_manifest
from audit.corpus_errors import SourceUnavailable
from audit.errors import CorpusError, SpecError
from audit.records import Item
from audit.spec import CorpusEntry, CorpusLimits, parse_spec
from tests.servers import Environment, free_port, moto_server, rclone_server, use

LIMITS = CorpusLimits()


def png(seed: int, size: int = 8) -> bytes:
    return images.encode_png(np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8))


def entry(url: str | Path, concept: str = "ring", role: str = "target") -> CorpusEntry:
    return CorpusEntry.model_validate({"url": str(url), "concept": concept, "role": role})


def table(*entries: CorpusEntry, limits: CorpusLimits = LIMITS) -> pa.Table:
    return pa.Table.from_batches(manifest(entries, limits), schema=corpus.MANIFEST_SCHEMA)


def rows(*entries: CorpusEntry, limits: CorpusLimits = LIMITS) -> list[dict[str, object]]:
    return list(table(*entries, limits=limits).to_pylist())


def refusal(*entries: CorpusEntry) -> CorpusError:
    with pytest.raises(CorpusError) as caught:
        rows(*entries)
    assert caught.value.what
    assert caught.value.where
    assert caught.value.next_step
    return caught.value


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures in nested folders whose walk order differs from the order of their URIs."""
    for i, name in enumerate(["a/1.png", "a-/2.png", "a.png", "b/c/3.png", "ä €#?&+%20.png"]):
        path = tmp_path / "corpus" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(i))
    return tmp_path / "corpus"


@pytest.fixture(scope="module")
def moto() -> Iterator[Environment]:
    with moto_server() as variables:
        yield variables


@pytest.fixture(scope="module")
def rclone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Environment, Path]]:
    directory = tmp_path_factory.mktemp("rclone")
    (directory / "bucket").mkdir()
    with rclone_server(directory) as variables:
        yield variables, directory / "bucket"


@pytest.fixture
def bucket(moto: Environment, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """A fresh bucket on moto; this process points at the server."""
    use(monkeypatch, moto)
    name = f"corpus-{abs(hash(request.node.name)):x}"
    client(moto["AWS_ENDPOINT_URL"]).create_bucket(Bucket=name)
    return name


@functools.cache
def client(endpoint: str) -> Any:
    return boto3.client("s3", endpoint_url=endpoint)


def upload(bucket: str, objects: dict[str, bytes]) -> None:
    s3 = client(os.environ["AWS_ENDPOINT_URL"])
    for key, body in objects.items():
        s3.put_object(Bucket=bucket, Key=key, Body=body)


# --- folders on disk


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
    monkeypatch.setattr(corpus, "BATCH_ROWS", 3)
    seen: list[int] = []
    batches = list(manifest([entry(tmp_path)], LIMITS, progress=seen.append))
    assert [batch.num_rows for batch in batches] == [3, 3, 1]
    assert seen == [1, 2, 3, 4, 5, 6, 7]


def test_objects_are_not_read_far_ahead_of_the_consumer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(60):
        (tmp_path / f"{i:03}.png").write_bytes(png(i))
    opened: list[str] = []
    original = corpus._examine

    def counting(*arguments: object) -> Item:
        opened.append("x")
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(corpus, "_examine", counting)
    monkeypatch.setattr(corpus, "BATCH_ROWS", 5)
    batches = manifest([entry(tmp_path)], LIMITS)
    next(batches)
    assert 5 <= len(opened) <= 5 + corpus.WINDOW
    before = threading.active_count()
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() <= before
    assert len(opened) < 60


# --- bad addresses


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
    assert urls.redact(text) == expected


# --- other file systems of fsspec


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


# --- the manifest file


@pytest.mark.parametrize("form", ["{}/run/manifest.parquet", "file://{}/manifest.parquet"])
def test_manifests_survive_writing_and_reading(folder: Path, tmp_path: Path, form: str) -> None:
    url = form.format(tmp_path)
    expected = table(entry(folder))
    stored = write_manifest(manifest([entry(folder)], LIMITS), url)
    assert (stored.rows, stored.sha256) == (5, manifest_sha256(expected))
    back = read_manifest(url)
    assert back.equals(expected)
    assert [dataclasses.asdict(item)["uri"] for item in items(back)] == expected["uri"].to_pylist()
    assert [path.name for path in Path(urls.absolute(url).removeprefix("file://")).parent.glob("*.tmp")] == []


def test_the_digest_follows_content_not_batches(folder: Path) -> None:
    whole = table(entry(folder))
    cut = pa.Table.from_batches(whole.to_batches(max_chunksize=2))
    assert manifest_sha256(cut) == manifest_sha256(whole)
    before = manifest_sha256(whole)
    (folder / "a.png").write_bytes(png(99))
    assert manifest_sha256(table(entry(folder))) != before


def test_unreadable_manifests_are_refused(folder: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    path = tmp_path / "manifest.parquet"
    with pytest.raises(CorpusError, match="no manifest here"):
        read_manifest(str(path))
    write_manifest(manifest([entry(folder)], LIMITS), str(path))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(CorpusError, match="cannot be read"):
        read_manifest(str(path))
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(CorpusError, match="not a corpus manifest"):
        read_manifest(str(path))
    path.write_bytes(data)
    with pq.ParquetFile(path) as file:
        header, shorter = (
            {corpus_manifest.METADATA_KEY: file.metadata.metadata[corpus_manifest.METADATA_KEY]},
            file.read()[1:],
        )
    with pq.ParquetWriter(path, corpus.MANIFEST_SCHEMA) as writer:
        writer.write_table(shorter)
        writer.add_key_value_metadata(header)
    with pytest.raises(CorpusError, match="altered"):
        read_manifest(str(path))
    with pytest.raises(CorpusError, match="cannot be written"):
        write_manifest(manifest([entry(folder)], LIMITS), str(path / "below"))


def test_a_manifest_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "ok").mkdir()
    (tmp_path / "ok" / "1.png").write_bytes(png(0))
    target = tmp_path / "out" / "manifest.parquet"
    with pytest.raises(CorpusError):
        write_manifest(manifest([entry(tmp_path / "ok"), entry(tmp_path / "zzz")], LIMITS), str(target))
    assert not target.exists()


# --- fetch


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
    assert images.pixel_sha256(corpus.read_picture(item.uri, LIMITS, item.pixel_sha256)) == item.pixel_sha256
    with pytest.raises(images.ImageError, match="could not be read when the run was planned"):
        corpus.read_picture(item.uri, LIMITS, None)
    (folder / "a.png").write_bytes(png(99))
    with pytest.raises(CorpusError, match="shows another picture"):
        corpus.read_picture(item.uri, LIMITS, item.pixel_sha256)
    (folder / "a.png").write_bytes(b"text")
    with pytest.raises(images.ImageError, match="not an image"):
        corpus.read_picture(item.uri, LIMITS, None)
    (folder / "a.png").unlink()
    with pytest.raises(CorpusError, match="it is gone"):
        corpus.read_picture(item.uri, LIMITS, item.pixel_sha256)
    with pytest.raises(images.ImageError, match="it is gone"):
        corpus.read_picture(item.uri, LIMITS, None)


# --- S3


def test_s3_gives_the_same_hashes_as_the_disk(folder: Path, bucket: str, tmp_path: Path) -> None:
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}
    upload(bucket, {f"set/{name}": data for name, data in files.items()} | {"set/": b"", "set2/x.png": png(50)})
    here, there = rows(entry(folder)), rows(entry(f"s3://{bucket}/set"))
    assert [str(row["uri"]).removeprefix(f"s3://{bucket}/set/") for row in there] == [
        str(row["uri"]).removeprefix(f"file://{folder}/") for row in here
    ]
    for name in ("byte_sha256", "pixel_sha256", "size_bytes"):
        assert [row[name] for row in there] == [row[name] for row in here]
    whole = rows(entry(f"s3://{bucket}"))
    assert len(whole) == 6
    for item in items(table(entry(f"s3://{bucket}/set/"))):
        assert images.pixel_sha256(fetch(item)) == item.pixel_sha256
    stored = write_manifest(manifest([entry(f"s3://{bucket}/set")], LIMITS), f"s3://{bucket}/out/manifest.parquet")
    assert manifest_sha256(read_manifest(stored.url)) == stored.sha256


def test_s3_objects_that_change_or_vanish(bucket: str) -> None:
    upload(bucket, {"a.png": png(0)})
    (item,) = items(table(entry(f"s3://{bucket}")))
    upload(bucket, {"a.png": png(1)})
    with pytest.raises(CorpusError, match="changed since the manifest"):
        fetch(item)
    client(os.environ["AWS_ENDPOINT_URL"]).delete_object(Bucket=bucket, Key="a.png")
    with pytest.raises(CorpusError, match="it is gone"):
        fetch(item)


def test_s3_addresses_that_hold_nothing(bucket: str) -> None:
    upload(bucket, {"a/b.png": png(0)})
    assert "bucket does not exist" in refusal(entry("s3://no-such-bucket/x")).what
    assert "no objects" in refusal(entry(f"s3://{bucket}/nowhere")).what
    assert "no objects" in refusal(entry(f"s3://{bucket}/a/b")).what
    error = refusal(entry(f"s3://{bucket}/a/b.png"))
    assert "a file, not a folder" in error.what
    assert f"s3://{bucket}/a/" in str(error.next_step)
    assert isinstance(refusal(entry("s3://Not_A_Bucket!/x")), CorpusError)


def test_200_objects_from_moto(bucket: str) -> None:
    upload(bucket, {f"set/{i:04}.png": png(i) for i in range(199)} | {"set/zz.txt": b"text"})
    listed = rows(entry(f"s3://{bucket}/set"))
    assert len(listed) == 200
    assert [row["error"] is None for row in listed] == [True] * 199 + [False]


def test_200_objects_from_rclone(rclone: tuple[Environment, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    variables, directory = rclone
    use(monkeypatch, variables)
    (directory / "set" / "deep").mkdir(parents=True)
    for i in range(200):
        (directory / "set" / ("deep" if i % 2 else ".") / f"{i:04}.png").write_bytes(png(i))
    there, here = rows(entry("s3://bucket/set")), rows(entry(directory / "set"))
    assert [row["pixel_sha256"] for row in there] == [row["pixel_sha256"] for row in here]
    assert [row["error"] for row in there] == [None] * 200
    for item in itertools.islice(items(table(entry("s3://bucket/set"))), 3):
        assert images.pixel_sha256(fetch(item)) == item.pixel_sha256
    shutil.rmtree(directory / "set")


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"])
def test_the_endpoint_comes_from_the_environment(
    rclone: tuple[Environment, Path], monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    variables, directory = rclone
    (directory / "one").mkdir(exist_ok=True)
    (directory / "one" / "a.png").write_bytes(png(0))
    endpoint = variables["AWS_ENDPOINT_URL"]
    use(
        monkeypatch,
        {name: value for name, value in variables.items() if name != "AWS_ENDPOINT_URL"} | {variable: endpoint},
    )
    assert len(rows(entry("s3://bucket/one"))) == 1


def test_keys_and_endpoint_may_come_from_the_aws_files(
    rclone: tuple[Environment, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    variables, directory = rclone
    (directory / "files").mkdir(exist_ok=True)
    (directory / "files" / "a.png").write_bytes(png(0))
    (tmp_path / "config").write_text(
        f"[profile team]\nregion = us-east-1\nendpoint_url = {variables['AWS_ENDPOINT_URL']}\n"
    )
    (tmp_path / "credentials").write_text(
        f"[team]\naws_access_key_id = {variables['AWS_ACCESS_KEY_ID']}\n"
        f"aws_secret_access_key = {variables['AWS_SECRET_ACCESS_KEY']}\n"
    )
    use(
        monkeypatch,
        {
            "AWS_PROFILE": "team",
            "AWS_CONFIG_FILE": str(tmp_path / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        },
    )
    assert [row["error"] for row in rows(entry("s3://bucket/files"))] == [None]


def test_checksum_settings_are_not_needed_for_rclone(
    rclone: tuple[Environment, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, directory = rclone
    (directory / "plain").mkdir(exist_ok=True)
    (directory / "plain" / "a.png").write_bytes(png(0))
    use(monkeypatch, {name: value for name, value in variables.items() if "CHECKSUM" not in name})
    assert [row["error"] for row in rows(entry("s3://bucket/plain"))] == [None]


Change = Callable[[Environment], Environment]
CREDENTIAL_TROUBLES: dict[str, tuple[Change, str]] = {
    "wrong secret": (lambda v: v | {"AWS_SECRET_ACCESS_KEY": "not-the-secret"}, "rejects these credentials"),
    "wrong key": (lambda v: v | {"AWS_ACCESS_KEY_ID": "not-the-key"}, "rejects these credentials"),
    "no keys": (lambda v: {k: w for k, w in v.items() if "KEY" not in k}, "no usable credentials"),
    "half a pair": (lambda v: {k: w for k, w in v.items() if k != "AWS_SECRET_ACCESS_KEY"}, "no usable credentials"),
    "unknown profile": (lambda v: v | {"AWS_PROFILE": "nobody"}, "no usable credentials"),
    "https on an http port": (
        lambda v: v | {"AWS_ENDPOINT_URL": v["AWS_ENDPOINT_URL"].replace("http:", "https:")},
        "no secure connection",
    ),
    "nothing listens": (lambda v: v | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}"}, "does not answer"),
    "no such host": (lambda v: v | {"AWS_ENDPOINT_URL": "http://s3.invalid:9000", "NO_PROXY": "*"}, "does not answer"),
    "not a URL": (lambda v: v | {"AWS_ENDPOINT_URL": "localhost"}, "malformed"),
    "a password in the endpoint": (
        lambda v: v | {"AWS_ENDPOINT_URL": f"http://user:hunter22@127.0.0.1:{free_port()}"},
        "does not answer",
    ),
}


@pytest.mark.parametrize("trouble", CREDENTIAL_TROUBLES)
def test_credential_and_endpoint_troubles_are_named_at_once(
    trouble: str, rclone: tuple[Environment, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    variables, directory = rclone
    (directory / "some").mkdir(exist_ok=True)
    (directory / "some" / "a.png").write_bytes(png(0))
    change, message = CREDENTIAL_TROUBLES[trouble]
    use(monkeypatch, change(variables))
    start = time.monotonic()
    error = refusal(entry("s3://bucket/some"))
    assert time.monotonic() - start < 15
    assert message in error.what
    assert error.where == "s3://bucket/some"
    for value in (variables["AWS_SECRET_ACCESS_KEY"], "not-the-secret", "hunter22"):
        assert value not in str(error)


def test_a_server_that_accepts_and_stays_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from audit import corpus_source

    monkeypatch.setitem(corpus_source._S3_CONFIG, "read_timeout", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        use(monkeypatch, {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
        error = refusal(entry("s3://bucket/x"))
    assert "does not answer" in error.what
    assert isinstance(error, SourceUnavailable)


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>welcome</html>"), (404, b"<html>no</html>"), (500, b"boom")]
)
def test_a_server_that_is_not_s3_is_named(status: int, body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        use(monkeypatch, {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"})
        error = refusal(entry("s3://bucket/x"))
        server.shutdown()
    assert "AWS_ENDPOINT_URL" in str(error.next_step)


def test_storage_that_dies_midway_raises_instead_of_dropping_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bucket").mkdir()
    for i in range(60):
        (tmp_path / "bucket" / f"{i:03}.png").write_bytes(png(i))
    monkeypatch.setattr(corpus, "BATCH_ROWS", 5)
    with rclone_server(tmp_path) as variables:
        use(monkeypatch, variables)
        batches = manifest([entry("s3://bucket")], LIMITS)
        next(batches)
    with pytest.raises(SourceUnavailable, match="does not answer"):
        list(batches)


# --- ten thousand objects

_MEASURE = """
import json, resource, sys
import pyarrow as pa
from audit.corpus import manifest
from audit.spec import CorpusEntry, CorpusLimits

def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

rows, usable, marks = 0, 0, []
for batch in manifest([CorpusEntry(url=sys.argv[1], concept="ring")], CorpusLimits()):
    rows += batch.num_rows
    usable += batch["error"].null_count
    marks.append(peak())
print(json.dumps({"rows": rows, "usable": usable, "marks": marks}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_10_000_objects_from_rclone_in_bounded_memory(tmp_path: Path) -> None:
    count = 10_000
    for part in range(10):
        folder = tmp_path / "bucket" / "set" / f"{part}"
        folder.mkdir(parents=True)
        for i in range(count // 10):
            (folder / f"{i:05}.png").write_bytes(png(part * 1000 + i, 64))
    with rclone_server(tmp_path) as variables:
        done = subprocess.run(
            [sys.executable, "-c", _MEASURE, "s3://bucket/set"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
    measured = json.loads(done.stdout)
    assert measured["rows"] == measured["usable"] == count
    marks = measured["marks"]
    assert len(marks) == count // corpus.BATCH_ROWS
    # 10,000 pictures are 123 MB decoded and 125 MB as files; from the second batch on only the digests may add up
    assert marks[-1] - marks[1] < 25, f"peak resident set grew by {marks[-1] - marks[1]:.0f} MiB: {marks}"
