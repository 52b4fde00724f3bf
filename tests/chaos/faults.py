"""All kinds of faults."""

from __future__ import annotations

import os

from tests.chaos.fault import Fault
from tests.chaos.process_faults import Killed, PowerLoss, Terminated, TwoConsolidators, TwoRuns
from tests.chaos.s3_rules import HARMS
from tests.chaos.service_faults import PostgresRestarted, PrefectRestarted
from tests.chaos.storage_faults import DiskFull, ReadOnly, S3Fault

FAULTS: tuple[Fault, ...] = (
    Killed(),
    Terminated(),
    PowerLoss(),
    TwoConsolidators(),
    TwoRuns(),
    *(S3Fault(name) for name in HARMS),
    DiskFull(),
    ReadOnly(),
    PrefectRestarted(),
    PostgresRestarted(),
)


def usable() -> tuple[Fault, ...]:
    """Return the faults that this user can cause: only root mounts file systems."""
    return tuple(fault for fault in FAULTS if os.geteuid() == 0 or "mount" not in fault.storages)
