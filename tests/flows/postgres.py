"""A Postgres of Debian's package on loopback, for tests."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.servers import free_port

_PROGRAMS = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"))
AVAILABLE = bool(_PROGRAMS) or shutil.which("pg_ctl") is not None


@contextlib.contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The SQLAlchemy address of an empty database in `folder`, gone when the block ends. Root starts it as `postgres`."""
    programs = _PROGRAMS[-1].parent if _PROGRAMS else Path(str(shutil.which("pg_ctl"))).parent
    account = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    folder.mkdir(parents=True)
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
        for parent in folder.parents:
            if parent.owner() == "root" and len(parent.parts) > 2:
                parent.chmod(parent.stat().st_mode | 0o011)  # pytest keeps its folders to their owner

    def command(name: str, *arguments: str) -> None:
        subprocess.run(
            [str(programs / name), *arguments], check=True, capture_output=True, cwd="/", timeout=120,
            user=account.pw_uid if account else None, group=account.pw_gid if account else None,
        )  # fmt: skip

    port = free_port()
    command("initdb", "-D", str(folder / "data"), "-U", "prefect", "-A", "trust", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c fsync=off -k {folder}"
    command("pg_ctl", "-D", str(folder / "data"), "-w", "-l", str(folder / "log"), "-o", options, "start")
    try:
        yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        command("pg_ctl", "-D", str(folder / "data"), "-m", "immediate", "stop")
