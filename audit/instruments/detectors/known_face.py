"""A drawn face that NudeNet detects: a known positive without shipping a photograph."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from audit.instruments.detectors.base import Pixels

_SKIN, _HAIR, _SHADE = (224, 172, 140), (90, 50, 30), (190, 146, 119)


def draw_face() -> Pixels:
    """Draw a frontal face with long hair, 320 x 320 x 3, softened, because the network ignores hard edges."""
    picture = Image.new("RGB", (320, 320), (120, 140, 170))
    pen = ImageDraw.Draw(picture)
    pen.ellipse((80, 30, 240, 260), fill=_HAIR)
    pen.rectangle((80, 150, 240, 300), fill=_HAIR)
    pen.rectangle((135, 230, 185, 300), fill=_SHADE)  # neck
    pen.ellipse((60, 270, 260, 420), fill=(60, 60, 120))  # shoulders
    pen.ellipse((100, 60, 220, 250), fill=_SKIN)
    for x in (132, 188):
        pen.ellipse((x - 16, 128, x + 16, 146), fill=(250, 250, 250))
        pen.ellipse((x - 7, 129, x + 7, 145), fill=(60, 40, 20))
        pen.ellipse((x - 3, 133, x + 3, 141), fill=(0, 0, 0))
        pen.arc((x - 20, 108, x + 20, 140), 200, 340, fill=_HAIR, width=5)
    pen.polygon([(160, 140), (150, 185), (170, 185)], fill=_SHADE)
    pen.ellipse((138, 200, 182, 222), fill=(180, 60, 70))
    pen.line((138, 211, 182, 211), fill=(120, 30, 40), width=2)
    return np.array(picture.filter(ImageFilter.GaussianBlur(4)))
