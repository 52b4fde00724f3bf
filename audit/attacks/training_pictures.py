"""The pictures that an attack learns from, as the model sees them."""

from __future__ import annotations

import numpy as np
import torch

from audit.attacks.protocol import Search
from audit.corpus.images import to_model_input


def clean_latents(search: Search) -> torch.Tensor:
    """Return clean latents (N, 2, C, h, w) of the unit's pictures, plain and mirrored.

    Raises `CorpusError` for a picture that cannot be read.
    """
    pipeline, latents = search.models.pipeline, []
    for item in search.images:
        pixels = to_model_input(search.read_item(item), pipeline.resolution)
        both = torch.from_numpy(np.stack([pixels, pixels[:, ::-1]])).permute(0, 3, 1, 2)
        latents.append(pipeline.encode_images(both))
    return torch.stack(latents)
