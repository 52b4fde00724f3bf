"""Messages on how a run ended: to a webhook on loopback, with what they must hold and what they must not."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from audit.errors import Interrupted, JournalError, SpecError
from audit.report import notice
from flows.cli import main
from flows.notify import ADDRESSES, notifying
from tests.report import runs


class Hook:
    """A webhook that keeps what it was told."""

    def __init__(self) -> None:
        self.told: list[dict[str, str]] = []
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.told.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, format: str, *arguments: object) -> None:
                return

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/audits"


@pytest.fixture
def hook() -> Iterator[Hook]:
    hook = Hook()
    thread = threading.Thread(target=hook.server.serve_forever)
    thread.start()
    yield hook
    hook.server.shutdown()
    hook.server.server_close()
    thread.join()


def test_a_verdict_is_told_with_counts_and_reasons(hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    result = runs.failing()
    monkeypatch.setenv(ADDRESSES, hook.url)
    with notifying(None, result.run_id, only_shut=True) as tell:
        tell(runs.passing())
        tell(result)
    (told,) = hook.told
    assert told["title"] == f"FAIL: {result.name}" and told["type"] == "failure"
    assert f"Run: {result.run_id}" in told["message"] and result.verdict.reasons[0][:40] in told["message"]
    failed = sum(d.status == "FAIL" for d in (*result.verdict.decisions, *result.verdict.retention))
    assert f"{failed} FAIL" in told["message"]


def test_a_run_without_a_verdict_is_told_without_its_error_text(hook: Hook) -> None:
    with pytest.raises(JournalError), notifying([hook.url], "run-1", only_shut=True):
        raise JournalError("the prompt 'a photo of X' is damaged")
    (told,) = hook.told
    assert told["title"] == "NO VERDICT: run-1" and "JournalError" in told["message"]
    assert "photo" not in json.dumps(told)
    with pytest.raises(Interrupted), notifying([hook.url], "run-1", only_shut=True):
        raise Interrupted("interrupted")
    assert len(hook.told) == 1


def test_what_cannot_be_delivered_is_said_and_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with notifying(["json://user:secret@127.0.0.1:9/x"], "run-1", only_shut=False) as tell:
        tell(runs.passing())
    shown = capsys.readouterr().err
    assert "the message to json://... was not delivered" in shown and "secret" not in shown


def test_an_unknown_address_is_refused_before_any_compute(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match="Apprise does not know"), notifying(["nonsense://secret"], "r", only_shut=True):
        pass
    assert main(["run", "deployments/specs/demo.yaml", "--notify", "nonsense://secret"]) == 2
    shown = capsys.readouterr().err
    assert "nonsense://..." in shown and "secret" not in shown


def test_a_message_names_the_system_and_few_reasons() -> None:
    run = runs.failing()
    run.spec["system"] = {"name": "Painter", "version": "2.1", "owner": None, "contact": None}
    text = notice.of_result(run).body
    assert "System: Painter 2.1" in text
    assert text.count("\n- ") <= notice.MOST_REASONS + 1
