"""Write shares as the gate's sentences have them."""

from __future__ import annotations

import math


def percent(share: float, digits: int = 0) -> str:
    """Return a share in [0, 1] as text: two significant digits below 10 %, else `digits` decimals; never rounded to 0 or 1."""
    value = 100.0 * share
    if 0.0 < value < 0.01:
        return "<0.01 %"
    if value < 10.0:
        return f"{value:.2g} %"
    if 99.0 < value < 100.0:
        return f"{min(value, 99.9):.1f} %"
    return f"{value:.{digits}f}".removesuffix(".0") + " %"


def bound(share: float, upwards: bool) -> str:
    """Return a bound as text, rounded to the side on which it stays true: one decimal of a percent, two below 1 %."""
    value = 100.0 * share
    scale = 100.0 if value < 1.0 else 10.0
    rounded = math.ceil(value * scale - 1e-9) if upwards else math.floor(value * scale + 1e-9)
    return f"{rounded / scale:g} %"
