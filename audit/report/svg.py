"""Make an SVG document safe to stand inside an HTML page, beside others, in a light or dark scheme."""

from __future__ import annotations

import re
from xml.etree import ElementTree

# Stand-ins that are drawn and then replaced by the page's own colours.
INK, MUTED, GRID, PAPER, SERIES, LIMIT = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
_VARIABLES = {INK: "ink", MUTED: "muted", GRID: "line", PAPER: "paper", SERIES: "series", LIMIT: "limit"}

_ELEMENTS = {"svg", "g", "defs", "path", "use", "text", "tspan", "clipPath", "rect", "line", "circle"}
_ATTRIBUTES = {
    "id", "d", "style", "transform", "x", "y", "x1", "x2", "y1", "y2", "cx", "cy", "r", "width", "height", "points",
    "clip-path", "viewBox", "href",
}  # fmt: skip
_FONT = re.compile(r"font: (?P<weight>(?:bold |[0-9]+ )?)(?P<size>[\d.]+)px [^;\"]*")
_LOCAL_URL = re.compile(r"url\(#([^)]*)\)")


def inline(document: bytes, *, prefix: str, title: str, description: str) -> str:
    """Markup of the drawing for inline use: known elements only, identifiers prefixed, colours as CSS variables.

    Raises `xml.etree.ElementTree.ParseError` when `document` is not well-formed.
    """
    root = ElementTree.fromstring(document)
    clean = _copy(root, prefix)
    if clean is None:
        raise ValueError("not an SVG document")
    for name in ("width", "height"):
        clean.attrib.pop(name, None)
    clean.set("role", "img")
    clean.set("aria-labelledby", f"{prefix}title {prefix}description")
    for position, (name, text) in enumerate((("title", title), ("desc", description))):
        element = ElementTree.Element(name, {"id": prefix + ("title" if name == "title" else "description")})
        element.text = text
        clean.insert(position, element)
    return ElementTree.tostring(clean, encoding="unicode")


def _copy(element: ElementTree.Element, prefix: str) -> ElementTree.Element | None:
    name = _local(element.tag)
    if name not in _ELEMENTS:
        return None
    copy = ElementTree.Element(name)
    for key, value in element.attrib.items():
        attribute = _local(key)
        if attribute in _ATTRIBUTES:
            cleaned = _value(attribute, value, prefix)
            if cleaned is not None:
                copy.set(attribute, cleaned)
    copy.text = element.text if name in ("text", "tspan") else None
    for child in element:
        kept = _copy(child, prefix)
        if kept is not None:
            copy.append(kept)
    return copy


def _local(name: object) -> str:
    """The name without its namespace; comments and processing instructions have none."""
    return name.rsplit("}", 1)[-1] if isinstance(name, str) else ""


def _value(attribute: str, value: str, prefix: str) -> str | None:
    if attribute == "id":
        return prefix + value
    if attribute == "href":
        return f"#{prefix}{value[1:]}" if value.startswith("#") else None
    value = _LOCAL_URL.sub(lambda match: f"url(#{prefix}{match[1]})", value)
    if attribute == "style":
        value = _FONT.sub(r"font-weight: \g<weight>; font-size: \g<size>px", value).replace("font-weight: ;", "")
        for color, variable in _VARIABLES.items():
            value = value.replace(color, f"var(--{variable})")
    return value.strip()
