"""Boundaries of an object store on loopback whose answers are mutated: status lines, headers, listings and objects."""

from __future__ import annotations

import contextlib
import os
import socketserver
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from audit.corpus import ingest
from audit.storage.journal import Journal
from tests.corpora import LIMITS, entry, png
from tests.fuzzing.harness import Boundary, Opened
from tests.servers import environment
from tests.synthetic import Run, cell

LISTING = (
    '<?xml version="1.0" encoding="UTF-8"?>\n<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
    "<Name>bucket</Name><Prefix>set/</Prefix><KeyCount>1</KeyCount><MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>"
    "<Contents><Key>set/1.png</Key><LastModified>2026-11-22T00:00:00.000Z</LastModified>"
    "<ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag><Size>{size}</Size>"
    "<StorageClass>STANDARD</StorageClass></Contents></ListBucketResult>"
)
ERROR = (
    '<?xml version="1.0"?><Error><Code>{code}</Code><Message>said by a test</Message><RequestId>1</RequestId></Error>'
)


def answer(body: bytes, status: str = "200 OK", kind: str = "application/xml") -> bytes:
    """A whole HTTP answer."""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        'Last-Modified: Sun, 22 Nov 2026 00:00:00 GMT\r\nETag: "0123456789abcdef0123456789abcdef"\r\n'
        "Connection: close\r\nx-amz-request-id: 1\r\n\r\n"
    )
    return head.encode() + body


def error(status: str, code: str) -> bytes:
    """A whole answer of a server that refuses."""
    return answer(ERROR.format(code=code).encode(), status)


class Server(socketserver.ThreadingTCPServer):
    """Answers each request with raw bytes: `listing` to listings, `object` to everything else."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.listing = self.object = b""
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()


class Handler(socketserver.StreamRequestHandler):
    """One request and its answer; then the connection ends, whatever length was announced."""

    def handle(self) -> None:
        with contextlib.suppress(OSError):
            line = self.rfile.readline()
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
            said: bytes = self.server.listing if b"list-type" in line else self.server.object  # type: ignore[attr-defined]
            head, end, _ = said.partition(b"\r\n\r\n")
            self.wfile.write(head + end if line.startswith(b"HEAD ") else said)


def _point_at(server: Server) -> None:
    """Make the server the only object store that this process knows; the caller's settings come back with the test."""
    host, port = server.server_address[:2]
    os.environ.update(environment(f"http://{host!s}:{port}", "testing-key", "testing-secret"))


def _corpus(mutated: str) -> Callable[[Path], Opened]:
    def open_boundary(folder: Path) -> Opened:
        server = Server()
        _point_at(server)
        picture = png(0)
        listing = answer(LISTING.format(size=len(picture)).encode())
        picture_answer = answer(picture, kind="image/png")
        good = {"listing": listing, "object": picture_answer}

        def attempt(data: bytes) -> object:
            server.listing, server.object = (data, picture_answer) if mutated == "listing" else (listing, data)
            batches = ingest.manifest([entry("s3://bucket/set")], LIMITS)
            return pa.Table.from_batches(batches, schema=ingest.MANIFEST_SCHEMA)

        return _closing(Opened([good[mutated]], attempt, REFUSALS), server, attempt)

    return open_boundary


def _journal(folder: Path) -> Opened:
    """The journal below an object store: its runs, and a unit whose bytes are mutated on their way."""
    local = Journal(str(folder / "runs"))
    made = Run("run-1", cells=[cell(0, 4)])
    made.write(local)
    key = made.key("detect")
    (path,) = (folder / "runs" / "units" / "detect").rglob("*.parquet")
    server = Server()
    _point_at(server)
    remote = Journal("s3://bucket/set")

    def attempt(data: bytes) -> object:
        server.listing = server.object = data
        return remote.read("detect", key)

    return _closing(Opened([answer(path.read_bytes(), kind="binary/octet-stream")], attempt, REFUSALS), server, attempt)


def _closing(opened: Opened, server: Server, owner: Any) -> Opened:
    """The same; the server ends with the boundary's function."""
    weakref.finalize(owner, _close, server)
    return opened


def _close(server: Server) -> None:
    server.shutdown()
    server.server_close()


REFUSALS = (
    error("403 Forbidden", "AccessDenied"),
    error("404 Not Found", "NoSuchKey"),
    answer(b"<html>It works!</html>", kind="text/html"),
    answer(b""),
    b"",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nx",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nx",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
    b"220 ftp.example.org FTP server ready\r\n",
    error("301 Moved Permanently", "PermanentRedirect"),
    error("500 Internal Server Error", "InternalError"),
    error("503 Slow Down", "SlowDown"),
)

# An answer that asks to be called again costs a second or more of waiting.
BOUNDARIES = (
    Boundary("S3 listing", _corpus("listing"), smoke_count=2, slow_count=60),
    Boundary("S3 object", _corpus("object"), smoke_count=2, slow_count=60),
    Boundary("S3 journal", _journal, smoke_count=2, slow_count=60),
)
