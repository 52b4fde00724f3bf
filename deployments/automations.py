"""Create or update the automations of `automations.yaml` on the Prefect server that PREFECT_API_URL names.

    python -m deployments.automations custom-webhook/audit-alerts

The argument is a notification block of that server, `type/name`. Running it again updates what is there.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import httpx
import yaml
from prefect.client.orchestration import PrefectClient, get_client
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound

FILE = Path(__file__).with_name("automations.yaml")
_TRIES = 5  # the first request to a server that has just started may be refused
Answer = TypeVar("Answer")


def read_automations(block_id: str) -> list[AutomationCore]:
    """Return the automations of the file, which notify the block of this id."""
    text = json.dumps(yaml.safe_load(FILE.read_text(encoding="utf-8"))["automations"]).replace("${BLOCK}", block_id)
    return [AutomationCore.model_validate(fields) for fields in json.loads(text)]


async def deploy(block: str) -> list[str]:
    """Create or update every automation; return a line for each. Raises `SystemExit` when there is no such block."""
    kind, _, name = block.partition("/")
    async with get_client() as client:
        try:
            document = await _patiently(lambda: client.read_block_document_by_name(name, kind))
        except ObjectNotFound:
            raise SystemExit(
                f"error: the server has no block {block}\n  next:  make it in the server's page of blocks, or with "
                "CustomWebhookNotificationBlock(...).save(NAME)"
            ) from None
        return [await _place(client, automation) for automation in read_automations(str(document.id))]


async def _place(client: PrefectClient, automation: AutomationCore) -> str:
    existing = await client.read_automations_by_name(automation.name)
    if not existing:
        await client.create_automation(automation)
        return f"created {automation.name}"
    await client.update_automation(existing[0].id, automation)
    return f"updated {automation.name}"


async def _patiently(ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
    for attempt in range(_TRIES):
        try:
            return await ask()
        except httpx.ConnectError:
            if attempt == _TRIES - 1:
                raise SystemExit("error: the Prefect server does not answer\n  next:  set PREFECT_API_URL") from None
            await asyncio.sleep(2**attempt / 4)
    raise AssertionError


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Create or update the automations of a Prefect server.")
    parser.add_argument("block", help="Notification block of the server, such as custom-webhook/audit-alerts.")
    for line in asyncio.run(deploy(parser.parse_args().block)):
        sys.stdout.write(line + "\n")
