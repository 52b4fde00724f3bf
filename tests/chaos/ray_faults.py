"""Faults of a Ray cluster of a head and two nodes: the run, a node, the head, a server or S3 goes while a run lasts."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path

from audit.plan.document import KINDS
from tests.chaos.arena import SECONDS, VERDICTS, Arena
from tests.chaos.fault import Base, Outcome
from tests.chaos.process_faults import Killed, PowerLoss
from tests.chaos.s3_rules import HARMS
from tests.chaos.service_faults import PostgresRestarted
from tests.chaos.storage_faults import S3Fault
from tests.chaos.zygote import Child
from tests.flows.clusters import processes_called

_PATIENCE = 5.0  # seconds that a process is looked for which computes a unit


class _OfRay(Base):
    """A fault while units are computed by the nodes."""

    weight = 0.5
    stages: Sequence[str] = KINDS
    storages: Sequence[str] = ("disk", "s3")
    engines: Sequence[str] = ("ray",)


class NodeKilled(_OfRay):
    """SIGKILL to a node and all its processes; it comes back after a while."""

    kind = "ray-node-killed"

    def apply(self, arena: Arena) -> Outcome:
        cluster, rng = arena.campaign.services.ray, arena.round.random()
        child = arena.resume()
        alive = arena.moment(child)
        name = rng.choice(cluster.names)
        cluster.kill_node(name)
        time.sleep(rng.uniform(0.0, 5.0))
        cluster.start_node(name)
        code = child.wait(SECONDS)
        return Outcome(alive, {arena.run_id: code}, f"node {name}, exit {code}")


class HeadKilled(_OfRay):
    """SIGKILL to the head: the run ends with one message, and a resume on a new cluster goes on."""

    kind = "ray-head-killed"

    def apply(self, arena: Arena) -> Outcome:
        cluster = arena.campaign.services.ray
        child = arena.resume()
        alive = arena.moment(child)
        cluster.kill_head()
        try:
            code = child.wait(SECONDS)
        finally:
            cluster.restart()
        text = child.text()
        assert code in VERDICTS or text.count("next:") == 1, f"not one message:\n{text[-1200:]}"
        assert "Traceback" not in text, text[-1200:]
        return Outcome(alive and code not in VERDICTS, {arena.run_id: code}, f"exit {code}")


class ProcessKilled(_OfRay):
    """SIGKILL to a process of a node that computes a unit of the stage."""

    kind = "ray-process-killed"

    def apply(self, arena: Arena) -> Outcome:
        child = arena.resume()
        arena.moment(child)
        deadline, killed = time.monotonic() + _PATIENCE, False
        while not killed and time.monotonic() < deadline and child.code is None:
            for process in processes_called(f"ray::{arena.round.stage}")[:1]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
                    killed = True
        code = child.wait(SECONDS)
        return Outcome(killed, {arena.run_id: code}, f"exit {code}")


class PrefectRestartedOnRay(_OfRay):
    """The Prefect server, which every process of the nodes talks to, ends and comes back after a while."""

    kind = "ray-prefect-restarted"

    def apply(self, arena: Arena) -> Outcome:
        server, rng = arena.campaign.services.prefect, arena.round.random()
        _ = arena.campaign.services.ray
        child = arena.resume()
        alive = arena.moment(child)
        how = rng.choice((server.kill, server.stop))
        how()
        try:
            time.sleep(rng.uniform(0.0, 3.0))
        finally:
            server.start()
        code = child.wait(SECONDS)
        return Outcome(alive, {arena.run_id: code}, f"{how.__name__}, exit {code}")


class RunKilledOnRay(_OfRay, Killed):
    """SIGKILL to the run itself; what nodes compute may still reach the journal while the run is resumed."""

    kind = "ray-run-killed"
    storages = _OfRay.storages


class RunTerminatedOnRay(RunKilledOnRay):
    """SIGTERM to the run itself."""

    kind, number = "ray-run-terminated", signal.SIGTERM


class PostgresRestartedOnRay(_OfRay, PostgresRestarted):
    """The database of the Prefect server, which every process of the nodes talks to, ends and comes back after a while."""

    kind = "ray-postgres-restarted"
    storages = _OfRay.storages


class PowerLossOnRay(_OfRay, PowerLoss):
    """SIGKILL to the run and the whole cluster, and then what none of them had synchronised is gone, in part or in whole."""

    kind = "ray-power-loss"
    storages: Sequence[str] = ("disk",)

    def log(self, arena: Arena) -> Path:
        return arena.campaign.services.nodes_log

    def end(self, arena: Arena, child: Child) -> None:
        super().end(arena, child)
        cluster = arena.campaign.services.ray
        cluster.kill()
        cluster.restart()


class S3FaultOnRay(_OfRay, S3Fault):
    """A kind of harm on the way to S3, drawn for the round, to what the nodes and the run ask of it."""

    weight = 1.0
    stages: Sequence[str] = KINDS
    storages = ("s3",)

    def __init__(self) -> None:
        self.kind = "ray-s3"

    def harm(self, rng: random.Random) -> str:
        return rng.choice(sorted(HARMS))


RAY = (
    NodeKilled(), HeadKilled(), ProcessKilled(), PrefectRestartedOnRay(), RunKilledOnRay(), RunTerminatedOnRay(),
    PostgresRestartedOnRay(), PowerLossOnRay(), S3FaultOnRay(),
)  # fmt: skip
