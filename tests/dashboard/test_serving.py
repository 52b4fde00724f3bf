"""The server answers for its own names, for reading alone, with strict headers, from the newest copy."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import pytest
from starlette.testclient import TestClient

from audit.dashboard.context import Context
from audit.dashboard.copies import Reader
from audit.dashboard.serving import application, is_loopback, served_hosts
from audit.index.copies import Copies
from audit.report import pictures as report_pictures
from tests.dashboard.html import parse
from tests.dashboard.pixels import images_in, is_copy, picture
from tests.dashboard.test_pictures import LATENT, hashes

LOCAL = "http://127.0.0.1:8321"


@pytest.fixture
def reader(published: Path, tmp_path: Path) -> Iterator[Reader]:
    shutil.copy(published, tmp_path / "index-000001.duckdb")
    found = Reader(Copies(str(tmp_path)))
    yield found
    found.close()


@pytest.fixture
def client(reader: Reader) -> TestClient:
    return TestClient(application(reader, served_hosts("127.0.0.1")), base_url=LOCAL)


def test_headers_allow_nothing_but_the_style_sheet_and_data(client: TestClient) -> None:
    for path in ("/", "/style.css", "/runs", "/nothing", "/case?run=x", "/a/b", "/run?run=%3Cscript%3E"):
        headers = client.get(path).headers
        assert headers["content-security-policy"] == (
            "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        assert headers["cache-control"] == "no-store" and headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-opener-policy"] == headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer" and headers["x-frame-options"] == "DENY"
        assert "server" not in headers and "set-cookie" not in headers


def test_pages_are_there(client: TestClient) -> None:
    assert client.get("/").status_code == 200 and client.get("/style.css").headers["content-type"].startswith(
        "text/css"
    )
    found = client.get("/runs?system=Mural")
    assert found.status_code == 200 and "Runs of Mural" in parse(found.text).all("h1")[0].text
    assert client.head("/").status_code == 200


@pytest.mark.parametrize(
    "path", ["/nothing", "/run?run=x", "/?colour=red", "/overview.html", "/a/b", "/..%2f..%2fetc%2fpasswd"]
)
def test_what_is_not_there_is_404_with_a_way_back(client: TestClient, path: str) -> None:
    found = client.get(path)
    assert found.status_code == 404
    (back,) = parse(found.text).all("main")[0].all("a")
    assert client.get(urljoin(LOCAL + path, back.attributes["href"])).status_code == 200


def test_a_query_that_names_a_field_twice_or_is_endless_is_no_trouble(client: TestClient) -> None:
    assert client.get("/runs?system=Mural&system=nobody").status_code == 404
    assert client.get("/runs?system=" + "x" * 50_000).status_code == 404
    assert client.get("/runs?system=%00%ff%fe").status_code == 404


def test_no_address_leads_to_an_original(
    reader: Reader, context: Context, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every page of a run and of its sensitive cases: pictures are small copies, blurred, or withheld when that fails."""
    site = TestClient(application(reader, served_hosts("127.0.0.1"), pictures=picture), base_url=LOCAL)
    run_id, cell_id = context.con.execute(LATENT, ["nudity", "uce"]).fetchall()[0]
    paths = [f"/run?run={run_id}", *(f"/case?run={run_id}&cell={cell_id}&case={n}" for n in range(4))]
    sensitive = hashes(context, f"c.concept = 'nudity' and r.run_id = '{run_id}'")
    others = hashes(context, f"c.concept = 'ring' and r.run_id = '{run_id}'")
    answers = [site.get(path) for path in paths]
    assert {found.headers["content-type"] for found in answers} == {"text/html; charset=utf-8"}
    images = [image for found in answers for image in images_in(found.text)]
    assert len(images) > 20 and any(is_copy(image, others) for image in images)
    assert not any(is_copy(image, sensitive) for image in images)
    monkeypatch.setattr(report_pictures, "_blur", lambda image: image)
    assert list(images_in(site.get(paths[1]).text)) == [] and "withheld" in site.get(paths[1]).text
    for path in (
        "/pictures",
        "/case.jpg",
        f"/case/{run_id}/{cell_id}/0",
        f"/images/{run_id}",
        paths[1] + "&sensitive=show",
    ):
        assert site.get(path).status_code == 404


def test_a_copy_that_breaks_while_it_is_open_is_one_message(client: TestClient, reader: Reader) -> None:
    reader.close()
    found = client.get("/runs")
    assert found.status_code == 503 and "cannot be read any more" in found.text
    assert "Traceback" not in found.text and found.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(client: TestClient, method: str) -> None:
    assert client.request(method, "/").status_code == 405


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8321", "127.0.0.1.evil.example", "", "[::1", "8.8.8.8"])
def test_another_host_name_is_refused(client: TestClient, host: str) -> None:
    """A page of somebody else whose name leads to 127.0.0.1 must not read these."""
    found = client.get("/", headers={"host": host})
    assert found.status_code == 400 and "erasure" not in found.text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8321", "127.0.0.1:1", "[::1]:8321", "[::1]"])
def test_own_host_names_are_served(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"host": host}).status_code == 200


def test_a_proxy_s_name_is_served_when_it_is_given(reader: Reader) -> None:
    client = TestClient(
        application(reader, served_hosts("10.0.0.1", ["audits.example"])), base_url="http://audits.example"
    )
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": "localhost"}).status_code == 400
    assert is_loopback("127.0.0.2") and is_loopback("::1") and not is_loopback("0.0.0.0") and not is_loopback("h")


def test_the_user_that_a_proxy_names_is_logged_and_nothing_else(
    reader: Reader, caplog: pytest.LogCaptureFixture
) -> None:
    site = application(reader, served_hosts("127.0.0.1"), user_header="X-Remote-User")
    client = TestClient(site, base_url=LOCAL)
    with caplog.at_level(logging.WARNING):
        client.get("/runs", headers={"x-remote-user": "ada\u001b[31m" + "x" * 500})
        client.get("/glossary")
    assert caplog.messages[0].startswith("ada") and "\x1b" not in caplog.messages[0]
    assert len(caplog.messages[0]) < 200 and caplog.messages[1] == "nobody is shown /glossary"
    caplog.clear()
    TestClient(application(reader, served_hosts("127.0.0.1")), base_url=LOCAL).get(
        "/runs", headers={"x-remote-user": "ada"}
    )
    assert caplog.messages == []


def test_a_newer_copy_is_opened_and_one_that_cannot_be_read_is_not(
    client: TestClient, reader: Reader, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("audit.dashboard.copies._LOOK_SECONDS", 0.0)
    shutil.copy(published, reader.path.with_name("index-000002.duckdb"))
    assert "from index-000002.duckdb" in client.get("/").text
    reader.path.with_name("index-000003.duckdb").write_bytes(b"DUCK")
    found = client.get("/").text
    assert "from index-000002.duckdb" in found and "No newer copy of the index can be read" in found
    reader.path.with_name("index-000003.duckdb").unlink()
    assert "No newer copy" not in client.get("/").text
    shutil.rmtree(reader.path.parent)
    assert client.get("/runs").status_code == 200, "the copy that is open stays"
