"""The renderer: seeded, split-safe, and truthful about what it drew."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from audit.testbed.captions import ALL_CLASSES, BACKGROUNDS, CLASSES, COLOURS, SYNONYMS, UNLEARNED
from audit.testbed.card import build_detectors, class_scores
from audit.testbed.drawings import in_ink
from audit.testbed.scenes import IMAGE_SIDE, SPLITS, attributes_of, contains, corpus_name, sample_scene, write_corpus


def digest(split: str, index: int) -> str:
    return hashlib.sha256(sample_scene(split, index).image.tobytes()).hexdigest()


def test_same_arguments_give_the_same_scene() -> None:
    first, second = sample_scene("audit", 5), sample_scene("audit", 5)
    assert np.array_equal(first.image, second.image)
    assert (first.caption, first.background) == (second.caption, second.background)


def test_splits_share_no_picture() -> None:
    digests = [digest(split, index) for split in SPLITS for index in range(60)]
    assert len(set(digests)) == len(digests)


@pytest.mark.parametrize("index", range(25))
def test_boxes_and_masks_agree_and_objects_are_apart(index: int) -> None:
    scene = sample_scene("calibration", index, classes=CLASSES + UNLEARNED, n_objects=2)
    assert scene.image.shape == (IMAGE_SIDE, IMAGE_SIDE, 3) and scene.image.dtype == np.uint8
    first, second = scene.objects
    assert first.cls != second.cls and not (first.mask & second.mask).any()
    for thing in scene.objects:
        x0, y0, x1, y1 = thing.box
        rows, columns = np.nonzero(thing.mask)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (x0, y0, x1, y1)
        assert max(x1 - x0, y1 - y0) >= 16


def test_learned_scenes_and_captions_never_name_an_unlearned_class() -> None:
    forbidden = {*UNLEARNED, *(SYNONYMS[name] for name in UNLEARNED)}
    for index in range(200):
        scene = sample_scene("train", index)
        assert not forbidden & set(scene.caption.split())
        assert not any(thing.cls in UNLEARNED for thing in scene.objects)


def test_captions_say_only_what_is_there() -> None:
    for index in range(150):
        scene = sample_scene("train", index)
        words = set(scene.caption.split())
        assert words & set(COLOURS) <= {thing.colour for thing in scene.objects}
        assert words & set(BACKGROUNDS) <= {scene.background}
        assert words & set(CLASSES) <= {thing.cls for thing in scene.objects}


def test_about_a_third_of_mentions_use_the_synonym() -> None:
    captions = [sample_scene("train", i, required_class="circle", n_objects=1).caption.split() for i in range(400)]
    share = sum("disc" in words for words in captions) / len(captions)
    assert 0.2 < share < 0.4


def test_required_class_and_counts_are_kept() -> None:
    for count in (1, 2):
        scene = sample_scene("audit", 3, required_class="drop", n_objects=count)
        assert contains(scene, "drop") and contains(scene, "teardrop") and len(scene.objects) == count
    assert sample_scene("audit", 3, n_objects=0).objects == ()


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"split": "test", "index": 0}, "test"),
        ({"split": "audit", "index": -1}, "-1"),
        ({"split": "audit", "index": 0, "n_objects": 3}, "3"),
        ({"split": "audit", "index": 0, "required_class": "blob"}, "blob"),
        ({"split": "audit", "index": 0, "required_class": "ring", "n_objects": 0}, "without objects"),
        ({"split": "audit", "index": 0, "classes": ("ring",), "n_objects": 2}, "two different"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sample_scene(**arguments)  # type: ignore[arg-type]


def test_corpus_is_written_through_fsspec(tmp_path: Path) -> None:
    written = write_corpus(tmp_path.as_uri(), "ring", 3, "audit", start=4)
    assert [url.rsplit("/", 1)[1] for url in written] == [corpus_name("ring", i) for i in (4, 5, 6)]
    with Image.open(tmp_path / "ring-00004.png") as image:
        drawn = sample_scene("audit", 4, n_objects=1, required_class="ring").image
        assert np.array_equal(np.asarray(image), drawn)


def test_size_and_place_are_those_of_the_box() -> None:
    found = set()
    for index in range(60):
        scene = sample_scene("audit", index, n_objects=1, required_class="ring")
        (ring,) = scene.objects
        left, top, right, bottom = ring.box
        said = attributes_of(scene, "ring")
        assert (said["colour"], said["fill"], said["background"]) == (ring.colour, ring.fill, scene.background)
        assert (max(right - left, bottom - top) < 33) == (said["size"] == "small")
        vertical, _, horizontal = said["place"].partition("-")
        if said["place"] != "centre":
            assert (vertical == "top") == (top + bottom < IMAGE_SIDE) and (horizontal == "left") == (
                left + right < IMAGE_SIDE
            )
        found |= {said["size"], said["place"]}
    assert len(found) == 3 + 5


def test_regions_lie_beside_the_scenes_and_show_the_class_that_is_sought(tmp_path: Path) -> None:
    write_corpus(
        str(tmp_path / "ring"), "ring", 3, "audit", 2, regions=str(tmp_path / "masks"), without=("star", "moon")
    )
    for index in range(3):
        scene = sample_scene(
            "audit",
            index,
            classes=[c for c in CLASSES if c not in ("star", "moon")],
            n_objects=2,
            required_class="ring",
        )
        (thing,) = [thing for thing in scene.objects if thing.cls == "ring"]
        with Image.open(tmp_path / "masks" / corpus_name("ring", index)) as mask:
            assert np.array_equal(np.asarray(mask), thing.mask * 255)
        with Image.open(tmp_path / "ring" / corpus_name("ring", index)) as image:
            assert np.array_equal(np.asarray(image), scene.image)


@pytest.mark.parametrize(("without", "named"), [(["ring"], "both show 'ring'"), (["blob"], "unknown class 'blob'")])
def test_a_scene_cannot_be_without_what_it_shows(tmp_path: Path, without: list[str], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        write_corpus(str(tmp_path), "ring", 1, "audit", without=without)
    assert list(tmp_path.iterdir()) == []


def test_a_drawing_has_outlines_and_nothing_else(tmp_path: Path) -> None:
    scene = sample_scene("audit", 3, n_objects=1, required_class="ring")
    drawn = in_ink(scene)
    assert drawn.shape == (64, 64, 3) and drawn.dtype == np.uint8
    darkness = 244 - drawn[..., 0].astype(int)
    mask = scene.objects[0].mask
    inner = mask & np.roll(mask, 2, 0) & np.roll(mask, -2, 0) & np.roll(mask, 2, 1) & np.roll(mask, -2, 1)
    assert inner.any() and darkness[inner].mean() < 10 and darkness.max() > 200  # no fill, and lines
    assert np.ptp(drawn.reshape(-1, 3).astype(int), axis=1).max() <= 4  # no colour
    (written,) = write_corpus(str(tmp_path), "ring", 1, "audit", start=3, render=in_ink)
    np.testing.assert_array_equal(np.array(Image.open(written.removeprefix("file://"))), drawn)


def test_the_classifier_knows_the_drawn_shapes_of_the_shipped_spec() -> None:
    """What an audit with drawings stands on, and what it must not show: drawn circles are rings to the classifier."""
    detector = next(one for one in build_detectors("cpu") if one.instrument.detector == "classifier")
    for name, known in (("ring", True), ("star", True), ("moon", True), ("arrow", True), ("circle", False)):
        scenes = [sample_scene("audit", i, classes=ALL_CLASSES, n_objects=1, required_class=name) for i in range(16)]
        found = class_scores(detector, [in_ink(scene) for scene in scenes])[:, ALL_CLASSES.index(name)] >= 0.5
        assert (int(found.sum()) >= 12) is known, (name, found.sum())
