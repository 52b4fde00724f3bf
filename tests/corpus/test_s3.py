"""Corpora on real S3 servers: moto for the protocol, rclone for authentication, both for what can go wrong; memory."""

from __future__ import annotations

import functools
import http.server
import itertools
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends

from audit.corpus import images, ingest
from audit.corpus.ingest import fetch, items, manifest, manifest_sha256, read_manifest, write_manifest
from audit.errors import CorpusError, JournalError
from audit.storage import s3
from audit.storage.errors import SourceUnavailable
from audit.storage.journal import Journal
from tests.corpora import LIMITS, entry, png, refusal, rows, table, write_folder
from tests.servers import Environment, free_port, moto_server, rclone_server, use


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path)


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
    """Put objects into moto's memory directly: requests would cost most of these tests' time."""
    for key, body in objects.items():
        s3_backends[DEFAULT_ACCOUNT_ID]["aws"].put_object(bucket, key, body)


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
    assert [row["concept"] for row in rows(entry(f"s3://{bucket}/a"), entry(f"s3://{bucket}/no", "star"))] == ["ring"]
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
    assert time.monotonic() - start < 60  # botocore's own patience is five times a minute
    assert message in error.what
    assert error.where == "s3://bucket/some"
    with pytest.raises(JournalError) as caught:  # a journal there is told the same
        Journal("s3://bucket/some").probe()
    assert message in caught.value.what
    for value in (variables["AWS_SECRET_ACCESS_KEY"], "not-the-secret", "hunter22"):
        assert value not in f"{error}{caught.value}"


def test_a_server_that_accepts_and_stays_silent_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(s3.CONFIG, "read_timeout", 0.3)
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
    monkeypatch.setattr(ingest, "BATCH_ROWS", 5)
    with rclone_server(tmp_path) as variables:
        use(monkeypatch, variables)
        batches = manifest([entry("s3://bucket")], LIMITS)
        next(batches)
    with pytest.raises(SourceUnavailable, match="does not answer"):
        list(batches)


_MEASURE = """
import json, resource, sys
import pyarrow as pa
from audit.corpus.ingest import manifest
from audit.spec.sections import CorpusEntry, CorpusLimits

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
@pytest.mark.timeout(3600)  # minutes of requests where other work takes the cores
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
    assert len(marks) == count // ingest.BATCH_ROWS
    # 10,000 pictures are 123 MB decoded and 125 MB as files; from the second batch on only the digests may add up
    assert marks[-1] - marks[1] < 25, f"peak resident set grew by {marks[-1] - marks[1]:.0f} MiB: {marks}"
