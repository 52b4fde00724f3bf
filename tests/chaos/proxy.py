"""An HTTP proxy on loopback in front of an S3 server: it passes requests on until a rule tells it to do harm."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import re
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any, Protocol
from urllib.parse import urlsplit

_HEAD_BYTES = 1 << 16
_UNIT = re.compile(r"/units/([a-z]+)/../[0-9a-f]{64}\.(failed\.)?parquet$")
_NO_BODY = (204, 304)


@dataclasses.dataclass(frozen=True)
class Request:
    """A request as it came, its body read whole."""

    method: str
    target: str
    headers: tuple[tuple[str, str], ...]
    body: bytes

    @property
    def path(self) -> str:
        """Return the path without its query."""
        return urlsplit(self.target).path

    @property
    def lists(self) -> bool:
        """Return whether it asks for a listing of a bucket."""
        return self.method == "GET" and "list-type=" in self.target


@dataclasses.dataclass(frozen=True)
class Response:
    """A response. `cut` is how many bytes of the body are sent before the connection is reset; None sends it all."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    cut: int | None = None

    @classmethod
    def error(cls, status: int, code: str, message: str) -> Response:
        """Return an error as S3 words it."""
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>"
        return cls(status, (("Content-Type", "application/xml"),), text.encode())


Forward = Callable[[Request], Coroutine[Any, Any, Response]]


class Rule(Protocol):
    """What the proxy does to requests while the rule is set. Raises ConnectionResetError to drop a connection."""

    async def answer(self, request: Request, forward: Forward) -> Response | None:
        """Return the answer to a request, or None to leave it alone."""
        ...


class Proxy:
    """The proxy in a thread of its own, on `port` or on one that is free. `rule` may be set at any time, and is left alone."""

    def __init__(self, upstream: str, port: int = 0) -> None:
        parts = urlsplit(upstream)
        self._upstream = (str(parts.hostname), int(parts.port or 80))
        self.rule: Rule | None = None
        self.requests = 0
        self.hits = 0
        self.units: Counter[str] = Counter()  # by kind: unit files that were stored
        self.paths: Counter[str] = Counter()  # by method and what the last part of the path is called
        self.port = port
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._thread = threading.Thread(target=self._run, name="s3-proxy", daemon=True)

    @property
    def url(self) -> str:
        """Return the address of the proxy."""
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._listening.wait(30)
        return self

    def __exit__(self, *error: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=_HEAD_BYTES)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                while (request := await _read_request(reader, writer)) is not None:
                    response = await self._answer(request)
                    await _write_response(writer, request, response)
                    if response.cut is not None:
                        break
            except ConnectionResetError:
                writer.transport.abort()
        writer.close()

    async def _answer(self, request: Request) -> Response:
        self.requests += 1
        rule = self.rule
        if rule is not None:
            try:
                response = await rule.answer(request, self._forward)
            except ConnectionResetError:
                self.hits += 1
                raise
            if response is not None:
                self.hits += 1
                return response
        return await self._forward(request)

    async def _forward(self, request: Request) -> Response:
        reader, writer = await asyncio.open_connection(*self._upstream, limit=_HEAD_BYTES)
        try:
            skipped = ("connection", "expect", "transfer-encoding", "content-length")
            headers = [(name, value) for name, value in request.headers if name.lower() not in skipped]
            headers += [("Content-Length", str(len(request.body))), ("Connection", "close")]
            head = f"{request.method} {request.target} HTTP/1.1\r\n"
            writer.write(
                (head + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n").encode("latin-1") + request.body
            )
            await writer.drain()
            response = await _read_response(reader)
        finally:
            writer.close()
        if request.method == "PUT" and response.status == 200 and (match := _UNIT.search(request.path)):
            self.units[match[1]] += 1
        if response.status == 200:
            self.paths[f"{request.method} {request.path.rsplit('/', 1)[-1]}"] += 1
        return response


async def _read_head(reader: asyncio.StreamReader) -> tuple[str, tuple[tuple[str, str], ...]]:
    lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    pairs = (line.partition(":") for line in lines[1:] if line)
    return lines[0], tuple((name.strip(), value.strip()) for name, _, value in pairs)


def _of(headers: tuple[tuple[str, str], ...], name: str) -> str | None:
    return next((value for other, value in headers if other.lower() == name), None)


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    try:
        line, headers = await _read_head(reader)
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = line.split(" ", 2)
    if (_of(headers, "expect") or "").lower() == "100-continue":
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = b""
    if length := _of(headers, "content-length"):
        body = await reader.readexactly(int(length))
    elif (_of(headers, "transfer-encoding") or "").lower() == "chunked":
        while size := int((await reader.readline()).split(b";")[0], 16):
            body += await reader.readexactly(size)
            await reader.readexactly(2)
        await reader.readline()
    return Request(method, target, headers, body)


async def _read_response(reader: asyncio.StreamReader) -> Response:
    line, headers = await _read_head(reader)
    status = int(line.split(" ", 2)[1])
    body = await reader.read()  # the server closes, as it was asked to
    return Response(status, headers, body)


async def _write_response(writer: asyncio.StreamWriter, request: Request, response: Response) -> None:
    skipped = ("connection", "transfer-encoding", *(() if request.method == "HEAD" else ("content-length",)))
    headers = [(name, value) for name, value in response.headers if name.lower() not in skipped]
    if request.method != "HEAD" and response.status not in _NO_BODY:
        headers.append(("Content-Length", str(len(response.body))))
    head = f"HTTP/1.1 {response.status} X\r\n" + "".join(f"{n}: {v}\r\n" for n, v in headers) + "\r\n"
    body = b"" if request.method == "HEAD" else response.body
    writer.write(head.encode("latin-1") + (body if response.cut is None else body[: response.cut]))
    await writer.drain()
    if response.cut is not None:
        writer.transport.abort()
