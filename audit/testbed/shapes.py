"""Outlines of the testbed's object classes and their anti-aliased rasterisation.

Every shape is one or two closed polygons in a unit frame (larger side of the bounding box = 2, y pointing down), so that a
single signed distance function draws them all. Rotation is limited per class, because a square turned by 45 degrees is a diamond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Outline:
    """Outer loop, optional hole (both (n, 2) in unit coordinates) and the largest rotation in degrees that keeps the class."""

    loop: Array
    hole: Array | None
    max_rotation: float


def _unit(points: Array) -> Array:
    """Shift and scale points so that the larger side of their bounding box is 2 and its centre is the origin."""
    low, high = points.min(0), points.max(0)
    return (points - (low + high) / 2) * (2 / (high - low).max())


def _polar(angles_deg: NDArray[np.floating[Any]], radii: Array | float = 1.0) -> Array:
    angles = np.deg2rad(angles_deg)
    return np.stack([radii * np.sin(angles), -radii * np.cos(angles)], -1)


def _regular(sides: int, first_deg: float = 0.0) -> Array:
    return _polar(np.arange(sides) * (360.0 / sides) + first_deg)


def _star() -> Array:
    return _polar(np.arange(10) * 36.0, np.where(np.arange(10) % 2 == 0, 1.0, 0.42))


def _plus(arm: float = 0.36) -> Array:
    a = arm
    corners = [
        (-a, -1),
        (a, -1),
        (a, -a),
        (1, -a),
        (1, a),
        (a, a),
        (a, 1),
        (-a, 1),
        (-a, a),
        (-1, a),
        (-1, -a),
        (-a, -a),
    ]
    return np.array(corners, dtype=np.float64)


def _heart() -> Array:
    t = np.linspace(0, 2 * np.pi, 36, endpoint=False)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x, -y], -1)


def _crescent(bite_x: float = 0.52, bite_r: float = 0.84) -> Array:
    """Return the unit disc minus a disc of radius `bite_r` centred at (`bite_x`, 0): two arcs that meet in the horns."""
    horn_x = (1 - bite_r**2 + bite_x**2) / (2 * bite_x)
    horn_y = np.sqrt(1 - horn_x**2)
    outer_from = np.arctan2(horn_y, horn_x)
    outer = np.linspace(outer_from, 2 * np.pi - outer_from, 26)
    inner_from = np.arctan2(horn_y, horn_x - bite_x)
    inner = np.linspace(2 * np.pi - inner_from, inner_from, 22)[1:-1]
    arcs = [np.stack([np.cos(outer), np.sin(outer)], -1)]
    arcs.append(np.stack([bite_x + bite_r * np.cos(inner), bite_r * np.sin(inner)], -1))
    return np.concatenate(arcs)


def _arrow() -> Array:
    right = [(0.0, -1.0), (0.72, -0.12), (0.26, -0.12), (0.26, 1.0)]
    return np.array(right + [(-x, y) for x, y in reversed(right[1:])], dtype=np.float64)


def _drop() -> Array:
    """Return a disc with a tip on top: the tangents from (0, -1.55) to a unit disc around (0, 0.4)."""
    distance = 1.95
    touch = np.arccos(1 / distance)
    arc = np.linspace(touch, 2 * np.pi - touch, 30)
    disc = np.stack([np.sin(arc), 0.4 - np.cos(arc)], -1)
    return np.concatenate([np.array([[0.0, -1.55]]), disc])


def _outline(loop: Array, max_rotation: float, hole_ratio: float | None = None) -> Outline:
    loop = _unit(loop)
    return Outline(loop, None if hole_ratio is None else loop * hole_ratio, max_rotation)


OUTLINES: dict[str, Outline] = {
    "circle": _outline(_regular(40), 180),
    "square": _outline(np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=np.float64), 10),
    "triangle": _outline(_regular(3), 18),
    "star": _outline(_star(), 18),
    "ring": _outline(_regular(40), 180, hole_ratio=0.56),
    "cross": _outline(_plus(), 12),
    "heart": _outline(_heart(), 18),
    "moon": _outline(_crescent(), 30),
    "diamond": _outline(np.array([[0, -1], [0.6, 0], [0, 1], [-0.6, 0]], dtype=np.float64), 10),
    "hexagon": _outline(_regular(6, first_deg=30), 10),
    "arrow": _outline(_arrow(), 20),
    "drop": _outline(_drop(), 20),
}


def placed(points: Array, centre: tuple[float, float], size: float, rotation_deg: float) -> Array:
    """Return unit points (n, 2) rotated clockwise by `rotation_deg`, scaled to `size` pixels, moved to `centre` (x, y)."""
    angle = np.deg2rad(rotation_deg)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return points @ turn * (size / 2) + np.array(centre)


def signed_distance(points: Array, polygon: Array) -> Array:
    """Return the distance (m,), in pixels, of points (m, 2) to the polygon (n, 2): negative inside, positive outside."""
    start, end = polygon, np.roll(polygon, -1, 0)
    edge = end - start
    px, py = points[None, :, 0], points[None, :, 1]
    wx, wy = px - start[:, :1], py - start[:, 1:]
    along = np.clip((wx * edge[:, :1] + wy * edge[:, 1:]) / (edge**2).sum(1)[:, None], 0, 1)
    squared = (wx - along * edge[:, :1]) ** 2 + (wy - along * edge[:, 1:]) ** 2
    straddles = (start[:, 1:] > py) != (end[:, 1:] > py)
    slope = edge[:, :1] / np.where(edge[:, 1:] == 0, 1, edge[:, 1:])
    crossings = (straddles & (px < start[:, :1] + slope * wy)).sum(0)
    distance = np.sqrt(squared.min(0))
    return np.where(crossings % 2 == 1, -distance, distance)


def coverage(outline: Outline, centre: tuple[float, float], size: float, rotation_deg: float, side: int) -> Array:
    """Return the share (side, side), 0..1, of each pixel that the placed outline covers; edges are one pixel wide."""
    loop = placed(outline.loop, centre, size, rotation_deg)
    low = np.clip(np.floor(loop.min(0)).astype(int) - 1, 0, side)
    high = np.clip(np.ceil(loop.max(0)).astype(int) + 1, 0, side)
    grid_x, grid_y = np.meshgrid(np.arange(low[0], high[0]) + 0.5, np.arange(low[1], high[1]) + 0.5)
    points = np.stack([grid_x.ravel(), grid_y.ravel()], -1)
    distance = signed_distance(points, loop)
    if outline.hole is not None:
        distance = np.maximum(distance, -signed_distance(points, placed(outline.hole, centre, size, rotation_deg)))
    full = np.zeros((side, side))
    full[low[1] : high[1], low[0] : high[0]] = np.clip(0.5 - distance, 0, 1).reshape(grid_x.shape)
    return full
