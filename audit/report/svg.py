"""Draw SVG that stands inside an HTML page and follows its light or dark scheme through the page's colour variables."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

INK, MUTED, GRID, PAPER = "var(--ink)", "var(--muted)", "var(--line)", "var(--paper)"
SERIES, LIMIT = "var(--series)", "var(--limit)"
SYMBOLS, HOLLOW = ("●", "■", "◆", "▲", "▼", "✚"), ("○", "□", "◇", "△", "▽", "✚")  # of `SHAPES`, in a caption
SHAPES = (
    "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0z",
    "M-3.5 -3.5h7v7h-7z",
    "M0 -4.8L4.8 0L0 4.8L-4.8 0z",
    "M0 -3.5L3.5 3.5h-7z",
    "M0 3.5L3.5 -3.5h-7z",
    "M-1.2 -3.5h2.4v2.3h2.3v2.4h-2.3v2.3h-2.4v-2.3h-2.3v-2.4h2.3z",
)


class Drawing:
    """Lines, texts and marks in CSS pixels, y downwards. Later ones are drawn above earlier ones."""

    def __init__(self, width: float, height: float) -> None:
        self._root = ElementTree.Element("svg", {"viewBox": f"0 0 {width:g} {height:g}"})

    def line(
        self,
        points: Sequence[tuple[float, float]],
        color: str,
        width: float = 1.0,
        *,
        dash: str = "none",
        opacity: float = 1.0,
    ) -> None:
        """Draw straight lines from point to point."""
        look = {"fill": "none", "stroke": color, "stroke-width": f"{width:g}", "stroke-dasharray": dash}
        self._add("polyline", points=_places(points), opacity=f"{opacity:g}", **look)

    def area(self, points: Sequence[tuple[float, float]], color: str, *, opacity: float) -> None:
        """Fill the area whose outline goes from point to point."""
        self._add("polygon", points=_places(points), fill=color, opacity=f"{opacity:g}")

    def text(
        self, x: float, y: float, text: str, color: str, *, size: int = 11, anchor: str = "start", bold: bool = False
    ) -> None:
        """Write one line, centred on `y`; `anchor` is start, middle or end."""
        look = {"fill": color, "font-size": f"{size}px", "text-anchor": anchor, "dominant-baseline": "central"}
        if bold:
            look["font-weight"] = "bold"
        self._add("text", x=f"{x:.2f}", y=f"{y:.2f}", **look).text = text

    def mark(self, x: float, y: float, shape: int, color: str, *, hollow: bool = False) -> None:
        """Draw the mark of a value, in one of `SHAPES`."""
        look = {"fill": PAPER if hollow else color, "stroke": color, "stroke-width": "1.5"}
        self._add("path", d=SHAPES[shape % len(SHAPES)], transform=f"translate({x:.2f} {y:.2f})", **look)

    def markup(self, *, prefix: str, title: str, description: str) -> str:
        """Return the markup; a screen reader reads title and description. `prefix` keeps identifiers of a page apart."""
        self._root.set("role", "img")
        self._root.set("aria-labelledby", f"{prefix}title {prefix}description")
        for position, (name, identifier, text) in enumerate(
            (("title", f"{prefix}title", title), ("desc", f"{prefix}description", description))
        ):
            element = ElementTree.Element(name, {"id": identifier})
            element.text = text
            self._root.insert(position, element)
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, **attributes: str) -> ElementTree.Element:
        """Append an element. Its look stands in attributes, not in a style, which a strict Content-Security-Policy forbids."""
        return ElementTree.SubElement(self._root, tag, attributes)


def _places(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
