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


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """The SQLAlchemy address of an empty database, gone when the block ends. Root starts it as `postgres`.

    Its folder is none of pytest's, which are their owner's alone.
    """
    programs = _PROGRAMS[-1].parent if _PROGRAMS else Path(str(shutil.which("pg_ctl"))).parent
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)

    def command(name: str, *arguments: str) -> None:
        done = subprocess.run(
            [str(programs / name), *arguments], check=False, capture_output=True, text=True, cwd="/", timeout=120,
            user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        )  # fmt: skip
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}"

    port = free_port()
    command("initdb", "-D", str(folder / "data"), "-U", "prefect", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    command("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        command("pg_ctl", "-D", str(folder / "data"), "-m", "fast", "stop")
        shutil.rmtree(folder)
