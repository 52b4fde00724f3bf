"""Tell somebody how a run ended, through Apprise: chat, mail, pagers and webhooks, without a Prefect server.

A message that cannot be delivered is said on stderr and changes no exit code: the verdict does not depend on it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from audit.errors import Interrupted, SpecError
from flows.console import say

if TYPE_CHECKING:
    from apprise import Apprise

    from audit.report.notice import Notice
    from audit.verdict.results import RunResult

ADDRESSES = "ERASURE_AUDIT_NOTIFY"  # the environment variable's name; addresses separated by spaces


@contextlib.contextmanager
def notifying(urls: Sequence[str] | None, run_id: str, *, only_shut: bool) -> Iterator[Callable[[RunResult], None]]:
    """Check the addresses, give a function that tells a result, and tell of any error that ends the block.

    `urls` are Apprise's; None means those in ERASURE_AUDIT_NOTIFY. With `only_shut`, PASS is told to nobody. Raises
    `SpecError` for an address that Apprise does not know.
    """
    from audit.report import notice

    addresses = list(urls) if urls else os.environ.get(ADDRESSES, "").split()
    clients = [_client(address) for address in addresses]

    def tell(result: RunResult) -> None:
        message = notice.of_result(result)
        if message.urgent or not only_shut:
            _send(clients, message)

    try:
        yield tell
    except Interrupted:
        raise
    except Exception as error:
        _send(clients, notice.of_failure(run_id, error))
        raise


def _client(address: str) -> tuple[str, Apprise]:
    """Return a client for one address, and the part of the address that holds no secret."""
    import apprise

    scheme = urlsplit(address).scheme or "no scheme"
    client = apprise.Apprise()
    if not client.add(address):
        raise SpecError(
            f"Apprise does not know an address of this form ({scheme}://...)",
            where="--notify",
            next_step="see the list of services: https://github.com/caronc/apprise/wiki; a webhook is json://host:port/path",
        )
    return f"{scheme}://...", client


def _send(clients: Sequence[tuple[str, Apprise]], message: Notice) -> None:
    import apprise

    kind = apprise.NotifyType.FAILURE if message.urgent else apprise.NotifyType.SUCCESS
    for name, client in clients:
        with contextlib.suppress(Exception):  # a plug-in's own mistakes must not cost the verdict
            if client.notify(title=message.title, body=message.body, notify_type=kind):
                continue
        say(f"warning: the message to {name} was not delivered")
