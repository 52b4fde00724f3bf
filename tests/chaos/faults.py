"""All kinds of faults."""

from __future__ import annotations

import importlib.util
import os

from tests.chaos.fault import Fault
from tests.chaos.process_faults import Killed, PowerLoss, Terminated, TwoConsolidators, TwoRuns
from tests.chaos.ray_faults import RAY
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
    *RAY,
)


def usable() -> tuple[Fault, ...]:
    """Return the faults that can be caused here: only root mounts file systems, and a cluster needs Ray."""
    root, ray = os.geteuid() == 0, importlib.util.find_spec("ray") is not None
    return tuple(
        fault for fault in FAULTS if (root or "mount" not in fault.storages) and (ray or "ray" not in fault.engines)
    )
