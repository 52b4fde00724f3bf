"""Pre-rendered training scenes: pictures as one uint8 array, ground truth as small integer arrays."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from audit.files import write_atomically
from audit.testbed.captions import ALL_CLASSES, BACKGROUNDS, CLASSES, COLOURS, FILLS
from audit.testbed.scenes import IMAGE_SIDE, Scene, sample_scene

NOTHING = -1
PATCH = 8  # pixels; the judges' patch size
COVERED = 6  # of a patch's 64 pixels: an object that shows less is not asked for


@dataclasses.dataclass(frozen=True)
class Scenes:
    """N scenes: images (N, 64, 64, 3) uint8; objects (N, 2, 3) as class, colour, fill, -1 where absent; backgrounds (N,).

    `patches` (N, 64) tells which object, 0 or 1, each patch of 8 x 8 pixels shows, row by row; -1 for none.
    """

    images: NDArray[np.uint8]
    objects: NDArray[np.int64]
    backgrounds: NDArray[np.int64]
    patches: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: torch.Tensor) -> torch.Tensor:
        """Return the pictures (B, 3, 64, 64), in [-1, 1], of the scenes `rows` (B,)."""
        return torch.from_numpy(self.images[rows.numpy()]).permute(0, 3, 1, 2).float() / 127.5 - 1


def _render(job: tuple[str, int, bool]) -> tuple[NDArray[np.uint8], list[list[int]], int, NDArray[np.int64]]:
    split, index, everything = job
    count = 0 if everything and index % 10 == 9 else None
    scene = sample_scene(split, index, classes=ALL_CLASSES if everything else CLASSES, n_objects=count)
    return scene.image, object_rows(scene), BACKGROUNDS.index(scene.background), shown_in_patches(scene)


def object_rows(scene: Scene) -> list[list[int]]:
    """Return two rows with the numbers of class, colour and fill; -1 where there is no object."""
    rows = [[ALL_CLASSES.index(o.cls), COLOURS.index(o.colour), FILLS.index(o.fill)] for o in scene.objects]
    return [*rows, [NOTHING] * 3, [NOTHING] * 3][:2]


def shown_in_patches(scene: Scene) -> NDArray[np.int64]:
    """Return the number of the object that each patch shows, row by row; -1 for none."""
    side = IMAGE_SIDE // PATCH
    shown = np.full((side, side), NOTHING, dtype=np.int64)
    for number, thing in enumerate(scene.objects):
        shown[thing.mask.reshape(side, PATCH, side, PATCH).sum((1, 3)) >= COVERED] = number
    return shown.reshape(-1)


def load_scenes(folder: Path, count: int, *, everything: bool, split: str = "train") -> Scenes:
    """Load the first `count` scenes of a split, which are rendered once, into `folder`.

    `everything` adds the unlearned classes and empty scenes: for judges, never for the diffusion model or its VAE.
    """
    path = folder / f"scenes-{split}-{'all' if everything else 'learned'}-{count}.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with ProcessPoolExecutor() as pool:
            rendered = list(pool.map(_render, ((split, i, everything) for i in range(count)), chunksize=250))
        images, objects, backgrounds, patches = zip(*rendered, strict=True)
        arrays = {
            "images": np.stack(images),
            "objects": np.array(objects),
            "backgrounds": np.array(backgrounds),
            "patches": np.stack(patches),
        }
        write_atomically(path, lambda unfinished: _save(unfinished, arrays))
    with np.load(path) as arrays:
        return Scenes(arrays["images"], arrays["objects"], arrays["backgrounds"], arrays["patches"])


def _save(path: Path, arrays: dict[str, NDArray[Any]]) -> None:
    with path.open("wb") as stream:  # by a name, numpy would add its own ending
        np.savez(stream, allow_pickle=True, **arrays)
