"""The record of showing sensitive pictures: an explicit act that is logged and kept with the run."""

from __future__ import annotations

import datetime as dt
import json
import logging
import platform

from audit.storage.journal import Journal

log = logging.getLogger(__name__)


def record_disclosure(journal: Journal, run_id: str, where: str, now: dt.datetime) -> str:
    """The name of the run file that says when, where and on which host sensitive pictures were shown unblurred."""
    name = f"shown-{now:%Y%m%dT%H%M%S%fZ}.json"
    said = {
        "act": "sensitive pictures shown unblurred",
        "report": where,
        "at": now.isoformat(),
        "host": platform.node(),
    }
    journal.put_run(run_id, name, json.dumps(said, indent=1, sort_keys=True).encode())
    log.warning("sensitive pictures of run %s are shown unblurred in %s", run_id, where)
    return name
