"""A Ray cluster of a head and two nodes whose parts a campaign ends and starts again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.flows.clusters import Cluster, ray_cluster

NODES = Path(__file__).parent / "nodes"  # its `sitecustomize` is imported by every Python of the cluster


class RayCluster:
    """A running cluster; `environment` are the variables of its processes beside Ray's own."""

    names = ("first", "second")

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = os.pathsep.join([str(NODES), environment.get("PYTHONPATH", "")])
        self._environment = {**environment, "PYTHONPATH": path}
        self._opened = contextlib.ExitStack()
        self.restart()

    @property
    def address(self) -> str:
        """Return the address for `--address`."""
        return self._cluster.address

    @property
    def client(self) -> dict[str, str]:
        """Return the variables of its clients."""
        return {name: value for name, value in self._cluster.environment.items() if name.startswith("RAY_")}

    def restart(self) -> None:
        """Start a head and its nodes anew, on other ports: of those before, nothing is left."""
        self._opened.close()
        self._nodes: dict[str, tuple[contextlib.ExitStack, subprocess.Popen[bytes]]] = {}
        self._cluster: Cluster = self._opened.enter_context(ray_cluster(self._environment))
        for name in self.names:
            self.start_node(name)

    def start_node(self, name: str) -> None:
        """Start a node."""
        stack = self._opened.enter_context(contextlib.ExitStack())
        self._nodes[name] = (
            stack,
            stack.enter_context(self._cluster.node(name, cpus=1)),
        )  # a process each, whose start is most of a round

    def kill_node(self, name: str) -> None:
        """End a node and its processes at once."""
        stack, child = self._nodes.pop(name)
        os.killpg(child.pid, signal.SIGKILL)
        stack.close()

    def kill(self) -> None:
        """End all of it at once."""
        for name in self.names:
            self.kill_node(name)
        self.kill_head()

    def kill_head(self) -> None:
        """End the head and its processes at once."""
        assert self._cluster.head is not None
        os.killpg(self._cluster.head.pid, signal.SIGKILL)

    def close(self) -> None:
        """End all of it."""
        self._opened.close()
