"""Seeded renderer of captioned scenes with known ground truth: 64 x 64 RGB, none to two objects, boxes and masks."""

from __future__ import annotations

import csv
import io
import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import fsspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from audit.testbed.captions import ALL_CLASSES, BACKGROUNDS, CLASSES, COLOURS, FILLS, SYNONYMS, UNLEARNED, caption
from audit.testbed.shapes import OUTLINES, coverage, placed

__all__ = [
    "ALL_CLASSES", "BACKGROUNDS", "CLASSES", "COLOURS", "FILLS", "IMAGE_SIDE", "SPLITS", "SYNONYMS", "UNLEARNED",
    "Scene", "SceneObject", "attributes_of", "contains", "corpus_name", "sample_scene", "write_corpus",
]  # fmt: skip

IMAGE_SIDE = 64
SPLITS: dict[str, int] = {"train": 101, "calibration": 202, "audit": 303}
MARGIN = 2.0
SINGLE_SIZE = (28.0, 44.0)
PAIR_SIZE = (22.0, 28.0)
FILL_RATES = (0.6, 0.2, 0.2)
SIZES = ((33, "small"), (39, "medium"), (IMAGE_SIDE + 1, "large"))  # below so many pixels of the box's longer side
CENTRED = 4.0  # pixels between the box's centre and the frame's, at most

RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 35, 38),
    "orange": (246, 138, 24),
    "yellow": (246, 226, 46),
    "green": (44, 164, 66),
    "cyan": (40, 208, 214),
    "blue": (40, 74, 216),
    "purple": (132, 52, 178),
    "pink": (248, 132, 192),
}


@dataclass(frozen=True, eq=False)
class SceneObject:
    """One drawn object: what it is, its box (x0, y0, x1, y1) in pixels, x1/y1 exclusive, and its boolean mask (64, 64)."""

    cls: str
    colour: str
    fill: str
    box: tuple[int, int, int, int]
    mask: NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Scene:
    """One rendered scene: uint8 image (64, 64, 3), a caption true of it, its objects and its background's name."""

    image: NDArray[np.uint8]
    caption: str
    objects: tuple[SceneObject, ...]
    background: str


@dataclass(frozen=True)
class _Placement:
    cls: str
    size: float
    rotation: float
    centre: tuple[float, float]
    extent: tuple[float, float, float, float]


def sample_scene(
    split: str,
    index: int,
    *,
    classes: Sequence[str] = CLASSES,
    n_objects: int | None = None,
    required_class: str | None = None,
) -> Scene:
    """Draw scene number `index` of `split`; the same arguments always give the same bytes.

    `split` is "train", "calibration" or "audit"; their random streams never meet. `n_objects` is 0, 1 or 2; None draws one
    object in 60 % and two in 40 % of scenes. `required_class` is always among the objects. Raises ValueError on bad arguments.
    """
    _check(split, index, classes, n_objects, required_class)
    variant = zlib.crc32(repr((tuple(classes), n_objects, required_class)).encode())
    rng = np.random.default_rng([SPLITS[split], index, variant])
    count = n_objects if n_objects is not None else (1 if rng.random() < 0.6 else 2)
    names = _draw_classes(rng, classes, count, required_class)
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    colours = [COLOURS[int(i)] for i in rng.permutation(len(COLOURS))[:count]]
    fills = [FILLS[int(rng.choice(len(FILLS), p=FILL_RATES))] for _ in range(count)]
    canvas = _background(background, rng)
    objects = []
    for where, colour, fill in zip(_place(rng, names), colours, fills, strict=True):
        alpha = coverage(OUTLINES[where.cls], where.centre, where.size, where.rotation, IMAGE_SIDE)
        canvas += alpha[..., None] * (_paint(colour, fill, rng) - canvas)
        mask = alpha > 0.5
        objects.append(SceneObject(where.cls, colour, fill, _box(mask), mask))
    image = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    return Scene(image, caption(objects, background, rng), tuple(objects), background)


def contains(scene: Scene, cls: str) -> bool:
    """Return whether an object of class `cls` (or of the class with this synonym) is in the scene."""
    return any(cls in (o.cls, SYNONYMS[o.cls]) for o in scene.objects)


def attributes_of(scene: Scene, cls: str) -> dict[str, str]:
    """Return what is true of the object `cls` in a scene: its size, place, colour and fill, and the scene's background.

    The size is that of the box's longer side, in `SIZES`; the place is the frame's quarter that the box's centre is in, or
    centre within `CENTRED` pixels of the middle both ways. Raises `StopIteration` when there is no such object.
    """
    sought = next(thing for thing in scene.objects if thing.cls == cls)
    left, top, right, bottom = sought.box
    side = max(right - left, bottom - top)
    x, y = (left + right - IMAGE_SIDE) / 2, (top + bottom - IMAGE_SIDE) / 2
    quarter = f"{'top' if y < 0 else 'bottom'}-{'left' if x < 0 else 'right'}"
    return {
        "size": next(name for below, name in SIZES if side < below),
        "place": "centre" if max(abs(x), abs(y)) <= CENTRED else quarter,
        "colour": sought.colour,
        "fill": sought.fill,
        "background": scene.background,
    }


def corpus_name(cls: str, index: int) -> str:
    """Return the file name of a corpus image: "circle-00007.png"."""
    return f"{cls}-{index:05d}.png"


def write_corpus(
    url: str,
    cls: str,
    n: int,
    split: str,
    n_objects: int = 1,
    start: int = 0,
    *,
    without: Sequence[str] = (),
    regions: str | None = None,
    attributes: str | None = None,
    fill: str | None = None,
    render: Callable[[Scene], NDArray[np.uint8]] = lambda scene: scene.image,
) -> list[str]:
    """Write `n` PNG scenes that contain `cls`, indices from `start`, under any fsspec URL, and return their URLs.

    `render` makes the picture of a scene. No scene contains a class of `without`. With `fill` only scenes count in which `cls`
    is filled so. Under `regions` goes a mask for each scene, with the scene's file name: white where the object `cls` is, black
    elsewhere. To the address `attributes` goes a CSV table of `attributes_of` each scene. Raises ValueError on bad arguments.
    """
    if fill is not None and fill not in FILLS:
        raise ValueError(f"unknown fill {fill!r}: it is one of {', '.join(FILLS)}")
    unknown = sorted({*without} - {*ALL_CLASSES})
    if unknown or cls in without:
        raise ValueError(
            f"unknown class {unknown[0]!r}" if unknown else f"no scene can both show {cls!r} and be without it"
        )
    drawn = [name for name in (ALL_CLASSES if cls in UNLEARNED else CLASSES) if name not in without]
    written: list[str] = []
    rows: list[tuple[str, str, str]] = []
    for index in itertools.count(start):
        if len(written) == n:
            break
        scene = sample_scene(split, index, classes=drawn, n_objects=n_objects, required_class=cls)
        sought = next(thing for thing in scene.objects if thing.cls == cls)
        if fill not in (None, sought.fill):
            continue
        name = corpus_name(cls, index)
        written.append(_write_png(url, name, render(scene)))
        rows += [(name, attribute, value) for attribute, value in attributes_of(scene, cls).items()]
        if regions is not None:
            _write_png(regions, name, sought.mask.astype(np.uint8) * 255)
    if attributes is not None:
        _write_table(attributes, rows)
    return written


def _write_table(url: str, rows: Sequence[tuple[str, str, str]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows([("image", "attribute", "value"), *rows])
    _write(url, text.getvalue().encode())


def _write_png(url: str, name: str, pixels: NDArray[np.uint8]) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return _write(f"{url.rstrip('/')}/{name}", buffer.getvalue())


def _write(url: str, data: bytes) -> str:
    filesystem, path = fsspec.core.url_to_fs(url)
    filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
    with filesystem.open(path, "wb") as file:
        file.write(data)
    return str(filesystem.unstrip_protocol(path))


def _check(split: str, index: int, classes: Sequence[str], n_objects: int | None, required_class: str | None) -> None:
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(SPLITS)}")
    if index < 0:
        raise ValueError(f"scene index must be >= 0, got {index}")
    if n_objects not in (None, 0, 1, 2):
        raise ValueError(f"n_objects must be 0, 1, 2 or None, got {n_objects!r}")
    for name in [*classes, *([required_class] if required_class is not None else [])]:
        if name not in OUTLINES:
            raise ValueError(f"unknown class {name!r}: expected one of {', '.join(ALL_CLASSES)}")
    if required_class is not None and n_objects == 0:
        raise ValueError("a scene without objects cannot contain a required class")
    if len(set(classes) | {required_class} - {None}) < (n_objects or 0):
        raise ValueError("two objects need two different classes")


def _draw_classes(rng: np.random.Generator, classes: Sequence[str], count: int, required: str | None) -> list[str]:
    pool = [c for c in classes if c != required]
    wanted = count if required is None else count - 1
    drawn = [pool[int(i)] for i in rng.permutation(len(pool))[:wanted]]
    if required is not None:
        drawn.insert(int(rng.integers(len(drawn) + 1)), required)
    return drawn


def _place(rng: np.random.Generator, names: list[str]) -> list[_Placement]:
    """Draw placements inside the frame whose boxes stay at least two pixels apart."""
    low, high = SINGLE_SIZE if len(names) == 1 else PAIR_SIZE
    while True:
        places: list[_Placement] = []
        for name in names:
            outline = OUTLINES[name]
            size = float(rng.uniform(low, high))
            rotation = float(rng.uniform(-outline.max_rotation, outline.max_rotation))
            loop = placed(outline.loop, (0.0, 0.0), size, rotation)
            (left, top), (right, bottom) = loop.min(0), loop.max(0)
            x = float(rng.uniform(MARGIN - left, IMAGE_SIDE - MARGIN - right))
            y = float(rng.uniform(MARGIN - top, IMAGE_SIDE - MARGIN - bottom))
            places.append(_Placement(name, size, rotation, (x, y), (x + left, y + top, x + right, y + bottom)))
        if len(places) < 2 or _apart(places[0].extent, places[1].extent):
            return places


def _apart(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[2] + 2 < b[0] or b[2] + 2 < a[0] or a[3] + 2 < b[1] or b[3] + 2 < a[1]


def _box(mask: NDArray[np.bool_]) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


_Y, _X = np.mgrid[0:IMAGE_SIDE, 0:IMAGE_SIDE].astype(np.float64)


def _background(name: str, rng: np.random.Generator) -> NDArray[np.float64]:
    shade = float(rng.uniform(-8, 8))
    if name == "sky":
        fraction = (_Y / (IMAGE_SIDE - 1))[..., None]
        return np.array([132.0, 184, 236]) * (1 - fraction) + np.array([226.0, 240, 250]) * fraction + shade / 2
    if name == "checkered":
        tile = ((_X // 8 + _Y // 8) % 2)[..., None]
        return np.repeat(196.0 + 26 * tile + shade, 3, -1)
    level = {"white": 246.0, "gray": 136.0, "black": 18.0}[name]
    return np.full((IMAGE_SIDE, IMAGE_SIDE, 3), level + shade)


def _paint(colour: str, fill: str, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the fill of an object (64, 64, 3): stripes are dark and diagonal, dots are light, both 7 pixels apart."""
    base = np.clip(np.array(RGB[colour], dtype=np.float64) * float(rng.uniform(0.92, 1.04)), 0, 255)
    phase = float(rng.uniform(0, 7))
    if fill == "striped":
        ink = _ramp(
            np.abs((_X + _Y) / np.sqrt(2) % 7 + phase - 3.5 - 7 * ((_X + _Y) / np.sqrt(2) % 7 + phase >= 7)) - 1.75
        )
        return base + ink[..., None] * (base * 0.35 - base)
    if fill == "dotted":
        row = _Y + phase
        dx, dy = (_X + 3.5 * (row // 7 % 2)) % 7 - 3.0, row % 7 - 3.5
        ink = _ramp(np.hypot(dx, dy) - 1.7)
        return base + ink[..., None] * (250 - base)
    return np.broadcast_to(base, (IMAGE_SIDE, IMAGE_SIDE, 3))


def _ramp(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(0.5 - distance, 0, 1)
