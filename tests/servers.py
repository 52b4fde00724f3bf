"""Real S3 servers on loopback for tests: moto (fast, in memory, no authentication) and rclone (files, authentication).

Each context manager yields the environment that points botocore, s3fs and the tool at its server; give it to
`monkeypatch.setenv` (see `use`) or to a child process. Nothing else of the caller's AWS configuration gets through.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

Environment = dict[str, str]

_START_SECONDS = 30.0


def environment(endpoint: str, key: str, secret: str) -> Environment:
    """Variables for an S3 server at `endpoint`; AWS files and the instance metadata service are shut out."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": key,
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        # rclone answers ranged reads with the whole object's checksum
        "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def use(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    """Make `variables` the only AWS settings of this process until the test ends."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def moto_server() -> Iterator[Environment]:
    """The environment of an in-memory S3 server in this process, with no buckets; it accepts any credentials."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it prints every request otherwise
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield environment(f"http://{host}:{port}", "moto-key", "moto-secret")
    finally:
        server.stop()


@contextlib.contextmanager
def rclone_server(directory: Path, remember: str = "0s") -> Iterator[Environment]:
    """The environment of `rclone serve s3` over `directory`, whose subfolders are its buckets.

    Signatures are checked against a random key pair, and objects are plain files that survive the server. What it
    knows of a folder it forgets after `remember`. Told to forget at once, as tests need that change files behind it, it lists
    a folder again and again during a PUT, which takes half a minute on busy cores.
    """
    key, secret = "audit" + secrets.token_hex(6), secrets.token_hex(20)
    port = free_port()
    command = [
        str(Path(sys.executable).with_name("rclone")), "serve", "s3", "--config", os.devnull,
        "--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}",
        "--vfs-cache-mode", "off", "--dir-cache-time", remember, str(directory),
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        yield environment(f"http://127.0.0.1:{port}", key, secret)
    finally:
        process.terminate()
        process.communicate(timeout=10)


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            _, log = process.communicate()
            raise RuntimeError(f"the server ended with {process.returncode}: {log.decode(errors='replace')[-2000:]}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.05)
    raise RuntimeError(f"the server did not listen on port {port} within {_START_SECONDS:.0f} s")
