"""A Postgres of Debian's package on loopback, for tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.servers import free_port

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
AVAILABLE = bool(_PROGRAMS) or shutil.which("pg_ctl") is not None


class Cluster:
    """An empty database on loopback that can be stopped and started. Root runs it as `postgres`.

    Its folder is none of pytest's, which are their owner's alone.
    """

    def __init__(self) -> None:
        """Make the database; `start` runs it."""
        self._programs = _PROGRAMS[-1].parent if _PROGRAMS else Path(str(shutil.which("pg_ctl"))).parent
        self._account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        if self._account:
            os.chown(self._folder, self._account.pw_uid, self._account.pw_gid)
        self._port = free_port()
        self.url = f"postgresql+asyncpg://prefect@127.0.0.1:{self._port}/postgres"  # SQLAlchemy's
        self._command("initdb", "-U", "prefect", "-A", "trust", "--no-sync")

    def start(self) -> None:
        """Start it; it takes connections then."""
        options = f"-p {self._port} -c listen_addresses=127.0.0.1 -c fsync=off -k {self._folder}"
        self._command("pg_ctl", "-w", "-l", str(self._folder / "log"), "-o", options, "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: `fast` ends its sessions, `immediate` is a crash."""
        self._command("pg_ctl", "-m", mode, "stop")

    def remove(self) -> None:
        """Remove its folder."""
        shutil.rmtree(self._folder)

    def _command(self, name: str, *arguments: str) -> None:
        account = self._account
        done = subprocess.run(
            [str(self._programs / name), "-D", str(self._folder / "data"), *arguments], check=False,
            capture_output=True, text=True, cwd="/", timeout=120,
            user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy address of an empty database, gone when the block ends."""
    cluster = Cluster()
    try:
        cluster.start()
        try:
            yield cluster.url
        finally:
            cluster.stop()
    finally:
        cluster.remove()
