"""Words that the sections of a monthly report share, and the length of names in them."""

from __future__ import annotations

import re

from audit.report.words import plain

NAME = 120  # most characters of a name
SENTENCE = 400

# What a kind of scenario controls, and whether whoever attacks must have the weights of the audited model (white box).
ACCESS = {
    "text": "prompts",
    "adversarial-text": "prompts found by search",
    "embedding-whitebox": "embeddings (white box)",
    "embedding-blackbox": "embeddings (black box)",
    "latent-whitebox": "start noise (white box)",
    "latent-blackbox": "start noise (black box)",
    "img2img": "a noised picture (black box)",
    "completion": "a part of a picture (black box)",
    "relearning": "training on pictures (white box)",
    "cycles": "training and erasing in turn (white box)",
    "noise-based": "noise in the sampler (black box)",
    "classifier-guidance": "a classifier's gradient in the sampler (white box)",
}
_PERCENT = re.compile(r"(?<=\d) %")


def name(text: object) -> str:
    """Return a name on one line, cut where it is too long to print."""
    return plain(text, NAME)


def unbroken(text: str) -> str:
    """Return text in which no line ends between a number and its percent sign."""
    return _PERCENT.sub("\u00a0%", text)
