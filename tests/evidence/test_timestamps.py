"""Time stamps by an authority of our own on loopback, which OpenSSL signs; every way to fail is said and nothing passed over."""

from __future__ import annotations

import dataclasses
import datetime as dt
import http.server
import importlib.util
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit.errors import EnvironmentProblem, EvidenceError, NotVerified
from audit.evidence.timestamps import check_stamp, read_roots, request_stamp, stated_time
from tests.servers import free_port

OPENSSL = shutil.which("openssl")
CAN_STAMP = OPENSSL and subprocess.run([OPENSSL, "ts", "-help"], capture_output=True, check=False).returncode == 0
CLIENT = importlib.util.find_spec("rfc3161_client") is not None
needs_authority = pytest.mark.skipif(
    not (CAN_STAMP and CLIENT), reason="needs openssl with `ts` and the package rfc3161-client"
)
CONFIG = """
[tsa]
default_tsa = one
[one]
dir = {folder}
serial = $dir/serial
signer_cert = $dir/tsa.pem
signer_key = $dir/tsa.key
signer_digest = sha256
default_policy = 1.2.3.4.1
digests = sha256
ess_cert_id_alg = sha256
"""


def openssl(folder: Path, *words: str) -> None:
    subprocess.run([str(OPENSSL), *words], cwd=folder, check=True, capture_output=True)


def make_authority(folder: Path, name: str) -> None:
    """Write a root certificate and one that may sign time stamps below it."""
    subject = f"/CN={name}"
    openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "root.key", "-out", "root.pem",
            "-subj", f"{subject} root", "-days", "30")  # fmt: skip
    openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-keyout", "tsa.key", "-out", "tsa.csr", "-subj", subject)
    (folder / "usage").write_text("extendedKeyUsage = critical,timeStamping\n")
    openssl(folder, "x509", "-req", "-in", "tsa.csr", "-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial",
            "-extfile", "usage", "-out", "tsa.pem", "-days", "30")  # fmt: skip
    (folder / "serial").write_text("01\n")
    (folder / "tsa.cnf").write_text(CONFIG.format(folder=folder))


@dataclasses.dataclass
class Authority:
    """A running authority. `answer` changes what it sends."""

    folder: Path
    url: str = ""
    answer: str = "granted"

    def reply(self, query: bytes) -> tuple[int, str, bytes]:
        if self.answer == "down":
            return 503, "text/plain", b"later"
        if self.answer == "page":
            return 200, "text/html", b"<html>"
        if self.answer == "garbage":
            return 200, "application/timestamp-reply", b"\x30\x03\x02\x01\x00garbage"
        if self.answer == "replayed":
            return 200, "application/timestamp-reply", (self.folder / "reply").read_bytes()
        (self.folder / "query").write_bytes(query if self.answer == "granted" else query[:-3] + b"\x00\x00\x00")
        openssl(self.folder, "ts", "-reply", "-config", "tsa.cnf", "-queryfile", "query", "-out", "reply")
        return 200, "application/timestamp-reply", (self.folder / "reply").read_bytes()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    authority = Authority(tmp_path_factory.mktemp("tsa"))
    make_authority(authority.folder, "Test authority")

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            code, kind, body = authority.reply(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(code)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    authority.url = f"http://127.0.0.1:{server.server_address[1]}/stamp"
    yield authority
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def authority(running: Authority) -> Iterator[Authority]:
    running.answer = "granted"
    yield running


@needs_authority
def test_a_stamp_verifies_here_and_by_openssl(authority: Authority, tmp_path: Path) -> None:
    data = b"an envelope"
    before = dt.datetime.now(dt.UTC).replace(microsecond=0)
    reply = request_stamp(authority.url, data)
    roots = read_roots(authority.folder / "root.pem")
    assert before <= check_stamp(reply, data, roots, "x.tsr") <= dt.datetime.now(dt.UTC)
    assert stated_time(reply, data, "x.tsr") == check_stamp(reply, data, roots, "x.tsr")
    (tmp_path / "data").write_bytes(data)
    (tmp_path / "reply.tsr").write_bytes(reply)
    root = str(authority.folder / "root.pem")
    openssl(tmp_path, "ts", "-verify", "-data", "data", "-in", "reply.tsr", "-CAfile", root)


@needs_authority
def test_a_stamp_of_other_data_or_under_another_root_does_not_verify(authority: Authority, tmp_path: Path) -> None:
    reply = request_stamp(authority.url, b"an envelope")
    roots = read_roots(authority.folder / "root.pem")
    with pytest.raises(NotVerified, match="not over this envelope"):
        check_stamp(reply, b"another envelope", roots, "x.tsr")
    with pytest.raises(NotVerified, match="cannot be read"):
        check_stamp(reply[:-20], b"an envelope", roots, "x.tsr")
    make_authority(tmp_path, "Somebody else")
    with pytest.raises(NotVerified, match="does not verify"):
        check_stamp(reply, b"an envelope", read_roots(tmp_path / "root.pem"), "x.tsr")
    with pytest.raises(NotVerified, match="does not verify"):
        check_stamp(reply, b"an envelope", [], "x.tsr")


@needs_authority
@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        ("down", "HTTP status 503"),
        ("page", "'text/html' instead of a time stamp"),
        ("garbage", "cannot be read"),
        ("broken", "refused|cannot be read"),
    ],
)
def test_an_authority_that_fails_is_an_error(answer: str, sentence: str, authority: Authority) -> None:
    authority.answer = answer
    with pytest.raises(EvidenceError, match=sentence) as told:
        request_stamp(authority.url, b"an envelope")
    assert "nothing was sealed" in (told.value.next_step or "")


@needs_authority
def test_a_reply_to_an_earlier_request_is_an_error(authority: Authority) -> None:
    request_stamp(authority.url, b"an envelope")
    authority.answer = "replayed"
    with pytest.raises(EvidenceError, match="answers another request"):
        request_stamp(authority.url, b"an envelope")
    with pytest.raises(EvidenceError, match="not over this envelope"):
        request_stamp(authority.url, b"another envelope")


@pytest.mark.skipif(not CLIENT, reason="needs the package rfc3161-client")
def test_an_authority_that_is_not_there_is_an_error() -> None:
    with pytest.raises(EvidenceError, match="does not answer"):
        request_stamp(f"http://127.0.0.1:{free_port()}/", b"an envelope")
    for url in ("ftp://127.0.0.1/", "http://user:secret@127.0.0.1/"):
        with pytest.raises(EvidenceError, match="over http or https") as told:
            request_stamp(url, b"an envelope")
        assert "secret" not in str(told.value)


def test_without_the_library_nothing_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    with pytest.raises(EnvironmentProblem, match="not installed"):
        request_stamp("http://127.0.0.1/", b"an envelope")


def test_a_file_without_certificates_is_no_root(tmp_path: Path) -> None:
    (tmp_path / "root.pem").write_text("nothing")
    for name in ("root.pem", "absent.pem"):
        with pytest.raises(EvidenceError, match="root certificates cannot be read"):
            read_roots(tmp_path / name)
