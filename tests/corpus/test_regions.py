"""Masks of corpus pictures: matched by name, known by their pixels, and refused before they could mean something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.corpus.images import pixel_sha256
from audit.corpus.regions import Pictured, read_regions, white
from audit.errors import CorpusError
from audit.spec.sections import CorpusEntry, CorpusLimits
from audit.testbed.scenes import sample_scene, write_corpus

NAMES = ("ring-00000", "ring-00001")


@pytest.fixture
def entry(tmp_path: Path) -> CorpusEntry:
    """Two scenes of two objects, with the mask of the ring in each."""
    write_corpus(str(tmp_path / "ring"), "ring", 2, "audit", 2, regions=str(tmp_path / "masks"))
    return CorpusEntry(url=str(tmp_path / "ring"), concept="ring", regions=str(tmp_path / "masks"))


def pictured(entry: CorpusEntry, side: int = 64) -> list[Pictured]:
    return [Pictured(Path(entry.url).as_uri() + f"/{name}.png", side, side) for name in NAMES]


def test_a_region_is_the_mask_with_the_picture_s_name_whatever_its_format(entry: CorpusEntry) -> None:
    masks = Path(str(entry.regions))
    with Image.open(masks / "ring-00001.png") as image:
        image.save(masks / "ring-00001.bmp")
    (masks / "ring-00001.png").unlink()
    (masks / "of-no-picture.png").write_bytes(b"")
    (masks / ".DS_Store").write_bytes(b"x")
    regions = read_regions(entry, pictured(entry), CorpusLimits())
    assert [Path(region.uri).name for region in regions] == ["ring-00000.png", "ring-00001.bmp"]
    for index, region in enumerate(regions):
        (thing,) = [
            t for t in sample_scene("audit", index, n_objects=2, required_class="ring").objects if t.cls == "ring"
        ]
        mask = np.repeat(thing.mask[..., None], 3, axis=2).astype(np.uint8) * 255
        assert region.sha256 == pixel_sha256(mask) and np.array_equal(white(mask), thing.mask)


def gone(masks: Path) -> None:
    (masks / "ring-00000.png").unlink()


def twice(masks: Path) -> None:
    (masks / "ring-00000.jpg").write_bytes(b"")


def damaged(masks: Path) -> None:
    (masks / "ring-00001.png").write_bytes(b"no picture")


def broken_link(masks: Path) -> None:
    gone(masks)
    (masks / "ring-00000.png").symlink_to(masks / "nowhere.png")


def filled(level: int, side: int = 64) -> Callable[[Path], None]:
    return lambda masks: Image.new("L", (side, side), level).save(masks / "ring-00001.png")


@pytest.mark.parametrize(
    ("change", "what", "where"),
    [
        (gone, "1 of 2 pictures of 'ring' have no region mask, first file://.*ring-00000.png", "masks"),
        (twice, "1 of 2 pictures of 'ring' have more than one region mask", "masks"),
        (damaged, "a region mask cannot be used: not an image", "ring-00001.png"),
        (broken_link, "a region mask cannot be used: broken link", "ring-00000.png"),
        (filled(0), "a region mask cannot be used: it is all black", "ring-00001.png"),
        (filled(255), "a region mask cannot be used: it is all white", "ring-00001.png"),
        (filled(255, 32), "it has 32 x 32 pixels and its picture 64 x 64", "ring-00001.png"),
    ],
)
def test_a_mask_that_tells_nothing_is_refused_by_its_name(
    entry: CorpusEntry, change: Callable[[Path], None], what: str, where: str
) -> None:
    change(Path(str(entry.regions)))
    with pytest.raises(CorpusError, match=what) as caught:
        read_regions(entry, pictured(entry), CorpusLimits())
    assert str(caught.value.where).endswith(where) and caught.value.next_step
