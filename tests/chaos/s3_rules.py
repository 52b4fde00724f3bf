"""What a storage on the network does at its worst, as rules of the proxy: each harms a number of requests, then none."""

from __future__ import annotations

import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import ClassVar

from tests.chaos.proxy import Forward, Request, Response


@dataclasses.dataclass
class Harm:
    """A rule that harms the next `left` requests of those it applies to."""

    name: ClassVar[str]
    rng: random.Random
    left: int

    async def answer(self, request: Request, forward: Forward) -> Response | None:
        """Return the harmed answer, or None when the request is none that it applies to."""
        if self.left <= 0 or not self.applies(request):
            return None
        response = await self.harm(request, forward)
        self.left -= response is not None
        return response

    def applies(self, request: Request) -> bool:
        """Return whether the rule applies to a request: here to each."""
        return True

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        """Return the harmed answer."""
        raise NotImplementedError


@dataclasses.dataclass
class Refusal(Harm):
    """An error in place of an answer; of a storage that fails, sometimes after it did what it was asked."""

    status: ClassVar[int]
    code: ClassVar[str]
    after: ClassVar[bool] = False

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        if self.after and self.rng.random() < 0.5:
            await forward(request)
        return Response.error(self.status, self.code, f"chaos: {self.code}")


class InternalError(Refusal):
    name, status, code, after = "s3-500", 500, "InternalError", True


class SlowDown(Refusal):
    name, status, code = "s3-503", 503, "SlowDown"


class ClockSkew(Refusal):
    name, status, code = "s3-clock-skew", 403, "RequestTimeTooSkewed"


class ExpiredCredentials(Refusal):
    name, status, code = "s3-expired-token", 403, "ExpiredToken"


@dataclasses.dataclass
class Slow(Harm):
    """An answer that takes its time."""

    name = "s3-slow"

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        await asyncio.sleep(self.rng.uniform(0.2, 2.0))
        return await forward(request)


@dataclasses.dataclass
class Reset(Harm):
    """A connection that is reset, before or after the storage did what it was asked."""

    name = "s3-reset"

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        self.left -= 1
        if self.rng.random() < 0.5:
            await forward(request)
        raise ConnectionResetError


@dataclasses.dataclass
class TruncatedBody(Harm):
    """An object of which a part comes before the connection is reset."""

    name = "s3-truncated"

    def applies(self, request: Request) -> bool:
        return request.method == "GET"

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        response = await forward(request)
        if not response.body:
            return None
        return dataclasses.replace(response, cut=self.rng.randrange(len(response.body)))


@dataclasses.dataclass
class StaleListing(Harm):
    """A listing as it was when the rule was first asked for it, whatever has been written since."""

    name = "s3-stale-listing"
    seen: dict[str, Response] = dataclasses.field(default_factory=dict)

    def applies(self, request: Request) -> bool:
        return request.lists

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        now = await forward(request)
        before = self.seen.setdefault(request.target, now)
        return before if before.body != now.body else None


@dataclasses.dataclass
class DuplicatePut(Harm):
    """A PUT that is delivered twice, the second time at once or later; either's answer is the one that comes back."""

    name = "s3-duplicate-put"
    later: list[asyncio.Task[None]] = dataclasses.field(default_factory=list)

    def applies(self, request: Request) -> bool:
        return request.method == "PUT"

    async def harm(self, request: Request, forward: Forward) -> Response | None:
        first = await forward(request)
        kind = self.rng.random()
        if kind < 1 / 3:
            return await forward(request)
        if kind < 2 / 3:
            await forward(request)
            return first

        async def again() -> None:
            await asyncio.sleep(self.rng.uniform(0.05, 1.0))
            await forward(request)

        self.later.append(asyncio.create_task(again()))
        return first


HARMS: dict[str, Callable[[random.Random, int], Harm]] = {
    harm.name: harm
    for harm in (
        InternalError, SlowDown, ClockSkew, ExpiredCredentials, Slow, Reset, TruncatedBody, StaleListing, DuplicatePut,
    )
}  # fmt: skip
