"""What whoever attacks controls in each kind of scenario, and whether that takes the weights of the audited model."""

from __future__ import annotations

from collections.abc import Mapping

# White box: with the weights of the audited model; black box: with its inputs alone.
ACCESS = {
    "text": "prompts (black box)",
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
BROUGHT_PROMPTS = "prompts of a file (black box)"
PERSONALISED = "weights added to the model's (white box)"


def access_words(entry: Mapping[str, object]) -> str | None:
    """Return what whoever attacks controls in a scenario, given as a stored spec has it; None for an unknown kind.

    Which weights a search for prompts takes is the method's to say, and not known here.
    """
    kind = str(entry.get("kind") or entry.get("name"))
    if kind == "adversarial-text" and entry.get("prompts"):
        return BROUGHT_PROMPTS
    return PERSONALISED if entry.get("personalisation") else ACCESS.get(kind)
