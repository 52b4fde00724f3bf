"""Answer requests for pages: on loopback, for reading alone, from the newest published copy."""

from __future__ import annotations

import datetime as dt
import ipaddress
import logging
from collections.abc import Collection

import duckdb
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from audit import locations
from audit.dashboard.context import STALE_DAYS, Context
from audit.dashboard.copies import Reader
from audit.dashboard.links import HOME, LiveLinks
from audit.dashboard.site import POLICY, STYLE, answer, failure, style_sheet
from audit.report.embedding import Pictures

LOG = logging.getLogger(__name__)
HEADERS = {
    "content-security-policy": f"{POLICY}; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
_LONGEST_USER = 120


def application(
    reader: Reader,
    hosts: Collection[str],
    *,
    pictures: Pictures | None = None,
    stale_days: int = STALE_DAYS,
    user_header: str | None = None,
) -> ASGIApp:
    """Return the server's application. It answers GET and HEAD for `hosts` alone, with a strict Content-Security-Policy.

    With `user_header`, the name that a proxy in front of it puts there is written to the log with each page; nothing is
    allowed or forbidden by it.
    """

    def page(request: Request) -> Response:
        """Answer one request for a page."""
        name = request.path_params.get("page") or HOME
        if user_header is not None:
            user = locations.readable(request.headers.get(user_header, "nobody"))[:_LONGEST_USER]
            LOG.warning("%s is shown %s", user, locations.readable(request.url.path))
        query = dict(request.query_params)
        try:
            with reader.connection() as (con, index, notice):
                context = Context(
                    con, dt.datetime.now(dt.UTC), LiveLinks(name.count("/")), pictures, stale_days, index, notice
                )
                response = answer(context, name, query)
        except duckdb.Error as error:
            LOG.error("the index cannot be read: %s", locations.readable(str(error)))
            sentence = "The copy of the index that is open cannot be read any more."
            return _html(failure(sentence, "publish a new one with: erasure-audit db publish FOLDER"), 503)
        return _html(response.html, response.status)

    def style(request: Request) -> Response:
        return Response(style_sheet(), media_type="text/css")

    routes = [
        Route(f"/{STYLE}", style, methods=["GET"]),
        Route("/", page, methods=["GET"]),
        Route("/{page:path}", page, methods=["GET"]),
    ]
    return _Guarded(Starlette(routes=routes), hosts)


def _html(text: str, status: int) -> Response:
    return Response(text, status, media_type="text/html")


class _Guarded:
    """What every answer passes: the Host header, the method, and the headers of the answer."""

    def __init__(self, inner: ASGIApp, hosts: Collection[str]) -> None:
        self._inner, self._hosts = inner, {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.encode(), value.encode()) for name, value in HEADERS.items()]
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self._inner(scope, receive, guarded)
        else:
            await Response(f"{refused[1]}\n", refused[0], media_type="text/plain")(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        named = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(named) != 1 or _host(named[0]) not in self._hosts:
            return 400, "This address is not one of this server's."
        if scope["method"] not in ("GET", "HEAD"):
            return 405, "This server is read only."
        return None


def _host(header: str) -> str:
    """Return the name in a Host header, without its port."""
    name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() and not header.endswith("]") else header
    return name.strip("[]").lower()


def served_hosts(host: str, also: Collection[str] = ()) -> frozenset[str]:
    """Return the names under which a server that listens on `host` may be asked for."""
    names = {host.lower(), *(name.lower() for name in also)}
    return frozenset(names | ({"localhost", "127.0.0.1", "::1"} if is_loopback(host) else set()))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
