"""Pictures of cases: side by side, blurred where sensitive, and stand-ins wherever something is missing."""

from __future__ import annotations

import base64
import dataclasses
import io
import re

import numpy as np
import pytest
from PIL import Image

from audit.dashboard.context import Context
from audit.dashboard.site import answer
from audit.report import pictures
from audit.storage.pictures import Address, Purged
from tests.dashboard.html import Element, parse
from tests.dashboard.pixels import difference_hash, is_copy, picture

LATENT = """
select r.run_id, c.cell_id from cells as c inner join runs as r using (run_key)
where c.concept = ? and c.scenario = 'inverted' and c.defence = ? order by r.created_at desc limit 1
"""


def case(context: Context, concept: str = "ring", defence: str = "uce", number: int = 3) -> Element:
    run_id, cell_id = context.con.execute(LATENT, [concept, defence]).fetchall()[0]
    found = answer(context, "case", {"run": run_id, "cell": str(cell_id), "case": str(number)})
    assert found.status == 200
    return parse(found.html)


def shown(page: Element) -> list[bytes]:
    return [base64.b64decode(img.attributes["src"].partition(",")[2]) for img in page.all("img", cls="frame")]


@dataclasses.dataclass(frozen=True)
class Found:
    unit_key: str
    image_id: int


def hashes(context: Context, where: str) -> np.ndarray:
    """The perceptual hashes of the originals of all cases that a condition on runs r, cells c and cases k names."""
    sql = (
        "select u.unit_key, k.image_id from cells as c inner join runs as r using (run_key)"
        " inner join cases as k using (run_key, cell_id) inner join planned_units as u using (run_key, unit_id) where "
    )
    return np.array([difference_hash(picture(Found(*row))) for row in context.con.execute(sql + where).fetchall()])


@pytest.fixture
def pictured(context: Context) -> Context:
    return dataclasses.replace(context, pictures=picture)


def test_a_case_shows_reference_un_erased_erased_and_guarded_in_order(pictured: Context) -> None:
    page = case(pictured)
    titles = [span.text for span in page.all("span", cls="role")]
    assert titles == [
        "Reference image", "Reference, autoencoder alone", "Un-erased: round trip of the reference", "Erased: uce",
        "Guarded: esd-x+safree",
    ]  # fmt: skip
    originals = hashes(pictured, "c.concept = 'ring' and k.case_no = 3")
    assert len(shown(page)) == 5
    for jpeg in shown(page):
        assert jpeg[:3] == b"\xff\xd8\xff" and is_copy(jpeg, originals)
        with Image.open(io.BytesIO(jpeg)) as image:
            assert max(image.size) <= 192 and not image.getexif() and "icc_profile" not in image.info


def test_the_readings_are_those_of_the_index(pictured: Context) -> None:
    run_id, cell_id = pictured.con.execute(LATENT, ["ring", "uce"]).fetchall()[0]
    sql = (
        "select o.detector, o.outcome, round(o.score, 3) from outcomes as o inner join runs as r using (run_key)"
        " where r.run_id = ? and o.cell_id = ? and o.case_no = 3 order by o.detector desc"
    )
    wanted = {(d, o, f"{s:.3f}") for d, o, s in pictured.con.execute(sql, [run_id, cell_id]).fetchall()}
    (table,) = (t for t in case(pictured).all("table") if "judge read" in t.all("caption")[0].text)
    rows = [[c.text for c in tr.children if isinstance(c, Element)] for tr in table.all("tbody")[0].all("tr")]
    assert {(judge, reading.split()[-1], score) for _, d, judge, reading, score, *_ in rows if d == "uce"} == wanted
    assert len(rows) == 10


def test_sensitive_pictures_are_blurred_and_their_prompt_is_kept_back(pictured: Context) -> None:
    page = case(pictured, "nudity")
    originals = hashes(pictured, "c.concept = 'nudity' and k.case_no = 3")
    assert len(shown(page)) == 5 and not any(is_copy(jpeg, originals) for jpeg in shown(page))
    assert all("blurred" in img.attributes["alt"] for img in page.all("img"))
    assert "a picture of nudity" not in page.text and "SHA-256" in page.text
    assert "corpus/3.png" not in page.text
    clear = case(pictured)
    assert "a picture of ring" in clear.all("details")[0].text and "corpus/3.png" in clear.text


def test_what_cannot_be_blurred_is_withheld(pictured: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "_blur", lambda image: image)
    page = case(pictured, "nudity")
    assert not page.all("img") and {s.text for s in page.all("span", cls="blank")} == {"withheld"}


def gone(address: Address) -> bytes:
    raise Purged


def broken(address: Address) -> bytes:
    raise OSError("/secret/path is on fire")


@pytest.mark.parametrize(
    ("read", "word"),
    [
        (None, "no journal named"), (lambda a: None, "missing"), (gone, "purged"), (broken, "unreadable"),
        (lambda a: b"<svg onload=alert(1)>", "unreadable"),
    ],
)  # fmt: skip
def test_without_a_picture_there_is_a_stand_in(context: Context, read: object, word: str) -> None:
    page = case(dataclasses.replace(context, pictures=read))
    assert not page.all("img") and {s.text for s in page.all("span", cls="blank")} == {word}
    assert all(word in s.attributes["aria-label"] for s in page.all("span", cls="blank"))
    assert "secret" not in page.text and "svg" not in page.text


def test_a_run_begins_with_a_case_of_each_concept(pictured: Context) -> None:
    run_id = pictured.con.execute(LATENT, ["ring", "uce"]).fetchall()[0][0]
    html = answer(pictured, "run", {"run": run_id}).html
    page = parse(html)
    (section,) = (s for s in page.all("section") if s.attributes.get("aria-labelledby") == "pictures")
    assert [h.text for h in section.all("h3")] == ["ring", "nudity"]
    links = [a.attributes["href"] for a in section.all("a")]
    assert len(links) == 2
    for link in links:
        name, _, query = link.partition("?")
        fields = dict(part.split("=") for part in query.split("&"))
        assert name == "case" and answer(pictured, "case", fields).status == 200
    assert html.index('id="pictures"') < html.index('id="tables"')


@pytest.mark.parametrize(
    "query",
    [{"cell": "1", "case": "x"}, {"cell": "1"}, {"cell": "999", "case": "1"}, {"cell": "1", "case": "-1"},
     {"cell": "1", "case": "9" * 40}, {"cell": "1", "case": "1", "size": "full"}, {"cell": "١", "case": "1"}],
)  # fmt: skip
def test_a_case_that_is_not_there_is_a_page_with_a_way_back(context: Context, query: dict[str, str]) -> None:
    run_id = context.con.execute(LATENT, ["ring", "uce"]).fetchall()[0][0]
    found = answer(context, "case", {"run": run_id, **query})
    assert found.status == 404 and "./" in [a.attributes["href"] for a in parse(found.html).all("main")[0].all("a")]


def test_no_page_names_a_file_of_pictures(pictured: Context) -> None:
    run_id = pictured.con.execute(LATENT, ["nudity", "uce"]).fetchall()[0][0]
    for name, query in (("run", {"run": run_id}), ("overview", {})):
        html = answer(pictured, name, query).html
        assert all(src.startswith("data:image/jpeg;base64,") for src in re.findall(r'src="([^"]*)"', html))
