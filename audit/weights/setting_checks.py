"""Checks of the settings in configuration files, and the sentences that say what is wrong with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeGuard

from audit.files import Document

Settings: TypeAlias = Document

LARGEST = 1_000_000  # of any width or count: far beyond every model of the family
DEEPEST = 64  # layers of a text encoder
BLOCKS = 8  # of one list
LAYERS = 256  # blocks times layers times transformer layers; Stable Diffusion XL has 60
SIDE = 256  # of latents: pictures of 2048 pixels

Check: TypeAlias = Callable[[object], bool]
# Field -> (what it has to be, in words; the check; whether it may be left out).
Fields: TypeAlias = Mapping[str, tuple[str, Check, bool]]


def whole(value: object, low: int = 1, high: int = LARGEST) -> bool:
    """Return whether a value is a whole number between two bounds, both included."""
    return type(value) is int and low <= value <= high


def few(value: object) -> bool:
    """Return whether a value is a number of layers."""
    return whole(value, 0, DEEPEST)


def number(value: object) -> TypeGuard[float]:
    """Return whether a value is a number above 0."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 1e-9 <= value <= 1e9


def finite(value: object) -> bool:
    """Return whether a value is a number that is not enormous."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= 1e9


def token(value: object) -> bool:
    """Return whether a value is a token's number, or none."""
    return value is None or whole(value, 0)


def each(check: Check) -> Check:
    """Return the check of a short list whose every item passes."""
    return lambda value: isinstance(value, list) and 0 < len(value) <= BLOCKS and all(check(item) for item in value)


def either(*checks: Check) -> Check:
    """Return the check that one of several passes."""
    return lambda value: any(check(value) for check in checks)


def one_of(*values: object) -> Check:
    """Return the check for one of these values, of the same type."""
    return lambda value: any(type(value) is type(known) and value == known for known in values)


def problem_of(settings: Settings, part: str, fields: Fields, neutral: Settings) -> str | None:
    """Return the first problem with the settings of `part`; None when all are honoured.

    `neutral` holds the one value of each field, beside null, that changes nothing.
    """
    for name, (needed, check, may_lack) in fields.items():
        if name not in settings and may_lack:
            continue
        if name not in settings:
            return f"has {part} without {name}"
        if not check(settings[name]):
            wanted = f"; {needed} is needed" if needed else ", which is not supported"
            return f"has {part} with {name} {shown(settings[name])}{wanted}"
    for name, nothing in neutral.items():
        value = settings.get(name)
        if value is not None and (type(value) is not type(nothing) or value != nothing):
            instead = "" if nothing is None else f" (only {shown(nothing)} is)"
            return f"has {part} with {name} {shown(value)}, which is not supported{instead}"
    return None


def shown(value: object) -> str:
    """Return a value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
