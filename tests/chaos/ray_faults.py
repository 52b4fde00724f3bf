"""Faults of a Ray cluster of a head and two nodes: the run, a node, the head, a process or a server goes while a run lasts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Sequence

from audit.plan.document import KINDS
from tests.chaos.arena import SECONDS, VERDICTS, Arena
from tests.chaos.fault import Base, Outcome
from tests.chaos.process_faults import Killed
from tests.chaos.service_faults import PostgresRestarted
from tests.flows.clusters import processes_called

_PATIENCE = 5.0  # seconds that a process is looked for which computes a unit


class _OfRay(Base):
    """A fault while units are computed by the nodes."""

    weight = 0.5
    stages: Sequence[str] = KINDS
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
    storages: Sequence[str] = ("disk",)


class RunTerminatedOnRay(RunKilledOnRay):
    """SIGTERM to the run itself."""

    kind, number = "ray-run-terminated", signal.SIGTERM


class PostgresRestartedOnRay(_OfRay, PostgresRestarted):
    """The database of the Prefect server, which every process of the nodes talks to, ends and comes back after a while."""

    kind = "ray-postgres-restarted"


RAY = (
    NodeKilled(), HeadKilled(), ProcessKilled(), PrefectRestartedOnRay(), RunKilledOnRay(), RunTerminatedOnRay(),
    PostgresRestartedOnRay(),
)  # fmt: skip
