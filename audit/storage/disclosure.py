"""The record of showing sensitive pictures: an explicit act that is logged and kept with the run."""

from __future__ import annotations

import datetime as dt
import json
import logging
import platform

from audit.storage.journal import Journal

log = logging.getLogger(__name__)


def record_disclosure(journal: Journal, run_id: str, where: str, now: dt.datetime) -> str:
    """Put on record, in a run file, that sensitive pictures were shown unblurred; return the file's name.

    The file says when, on which host and in which report (`where`). A warning is logged too.
    """
    name = f"shown-{now:%Y%m%dT%H%M%S%fZ}.json"
    record = {
        "act": "sensitive pictures shown unblurred",
        "report": where,
        "at": now.isoformat(),
        "host": platform.node(),
    }
    journal.put_run(run_id, name, json.dumps(record, indent=1, sort_keys=True).encode())
    log.warning("sensitive pictures of run %s are shown unblurred in %s", run_id, where)
    return name
