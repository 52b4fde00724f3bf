"""Compare a decision on record with one derived anew from the rows."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

_CLOSE = 1e-9  # of numbers that another version of a library may compute anew


def differences(stored: object, derived: object, path: str = "") -> Iterator[str]:
    """Yield a sentence for each field in which two JSON values differ. Fields that only `derived` has are a newer version's."""
    if isinstance(stored, Mapping) and isinstance(derived, Mapping):
        for name, value in stored.items():
            place = f"{path}.{name}" if path else str(name)
            if name not in derived:
                yield f"{place} is {_short(value)} in the bundle, and nothing by the rows"
            else:
                yield from differences(value, derived[name], place)
    elif isinstance(stored, list) and isinstance(derived, list):
        if len(stored) != len(derived):
            yield f"{path} has {len(stored)} entries in the bundle, and {len(derived)} by the rows"
        for number, (old, new) in enumerate(zip(stored, derived, strict=False)):
            yield from differences(old, new, f"{path}[{number}]")
    elif not _equal(stored, derived):
        yield f"{path} is {_short(stored)} in the bundle, and {_short(derived)} by the rows"


def _equal(stored: object, derived: object) -> bool:
    if (
        isinstance(stored, int | float)
        and isinstance(derived, int | float)
        and bool not in (type(stored), type(derived))
    ):
        return math.isclose(stored, derived, rel_tol=_CLOSE, abs_tol=_CLOSE)
    return type(stored) is type(derived) and bool(stored == derived)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
