"""Serve a bucket of any number of pictures on loopback, made as they are asked for: what no disk has to hold.

python -m tests.bench.large_bucket OBJECTS

The servers of the tests list a whole folder, or a whole bucket, for each page of a thousand, and so cannot list a million
objects. This one answers `ListObjectsV2` and `GetObject` of `s3://bucket/set/NUMBER.png`, does not look at signatures, and
counts the pictures that it has sent (`/sent`). It prints its address, and serves until its standard input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import subprocess
import sys
import urllib.request
import zlib
from collections.abc import Iterator
from urllib.parse import parse_qs, unquote, urlsplit

from tests.servers import Environment, environment

SIDE = 32  # pixels
PAGE = 1_000  # keys
_DAY, _MODIFIED = "2026-01-01T00:00:00.000Z", "Thu, 01 Jan 2026 00:00:00 GMT"


def main() -> None:
    """Serve."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(int(sys.argv[1])))


@contextlib.contextmanager
def large_bucket(objects: int) -> Iterator[Environment]:
    """Yield the environment of a server of `objects` pictures, which is a process of its own."""
    command = [sys.executable, "-m", "tests.bench.large_bucket", str(objects)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            yield environment(process.stdout.readline().strip(), "any", "any")
        finally:
            process.stdin.close()


def sent(variables: Environment) -> int:
    """Return the number of pictures that the server has sent so far."""
    with urllib.request.urlopen(f"{variables['AWS_ENDPOINT_URL']}/sent", timeout=60) as response:
        return int(response.read())


def picture(number: int) -> bytes:
    """Return a PNG of its own for each number: its first pixels spell the number; 3 kB, uncompressed."""
    row = bytes(1) + number.to_bytes(8, "big") + bytes(SIDE * 3 - 8)
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(row * SIDE, 0)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def page(objects: int, query: dict[str, list[str]]) -> bytes:
    """Return one answer to `ListObjectsV2`; the token is the number of its first key."""
    first = int(query.get("continuation-token", ["0"])[0])
    after = min(first + PAGE, objects)
    size = len(picture(0))
    entries = "".join(
        f"<Contents><Key>set/{n:09}.png</Key><LastModified>{_DAY}</LastModified><ETag>&quot;{n:032x}&quot;</ETag>"
        f"<Size>{size}</Size><StorageClass>STANDARD</StorageClass></Contents>"
        for n in range(first, after)
    )
    more = f"<NextContinuationToken>{after}</NextContinuationToken>" if after < objects else ""
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>bucket</Name><Prefix>set/</Prefix><KeyCount>{after - first}</KeyCount><MaxKeys>{PAGE}</MaxKeys>"
        f"<IsTruncated>{str(bool(more)).lower()}</IsTruncated>{more}{entries}</ListBucketResult>"
    ).encode()


class _Connection(asyncio.Protocol):
    """One connection, on which requests without bodies follow each other."""

    sent = 0  # by all connections

    def __init__(self, objects: int) -> None:
        self._objects = objects
        self._read = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        *requests, self._read = (self._read + data).split(b"\r\n\r\n")
        for request in requests:
            self._transport.write(self._answer(request.split(b" ", 2)[1].decode()))

    def _answer(self, target: str) -> bytes:
        parts = urlsplit(target)
        if parts.path == "/sent":
            return _response("text/plain", str(_Connection.sent).encode())
        name = unquote(parts.path).removeprefix("/bucket").removeprefix("/")
        if not name:
            return _response("application/xml", page(self._objects, parse_qs(parts.query)))
        _Connection.sent += 1
        number = int(name.removeprefix("set/").removesuffix(".png"))
        return _response("image/png", picture(number), f'ETag: "{number:032x}"\r\n')


def _response(kind: str, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\nLast-Modified: {_MODIFIED}\r\n{more}\r\n"
    return head.encode() + body


async def _serve(objects: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(objects), "127.0.0.1", 0)
    async with server:
        print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
        await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    main()
