"""Find the largest batch that fits into a GPU's free memory, by measuring two small ones."""

from __future__ import annotations

from collections.abc import Callable

import torch

from audit.diffusion.pipeline import Pipeline

SHARE = 0.8  # of the free memory: guards, judges and fragments need the rest


def batch_that_fits(peak: Callable[[int], int], free: int, most: int, share: float = SHARE) -> int:
    """Return the largest power of two up to `most` whose peak memory fits into `share` of `free` bytes; at least 1.

    `peak(batch)` returns the bytes that a batch takes beyond what is taken already, and raises `torch.OutOfMemoryError`
    when it does not fit. Memory grows by the same amount with each picture, so two small batches foretell a large one,
    which is measured before it is believed.
    """
    one = _fitting(peak, 1)
    two = _fitting(peak, 2) if one is not None else None
    if one is None or two is None or most < 2:
        return 1
    each = max(two - one, 1)
    room = int(1 + (share * free - one) // each)
    batch = 1 << max(0, min(room, most).bit_length() - 1)
    while batch > 2:
        taken = _fitting(peak, batch)
        if taken is not None and taken <= share * free:
            return batch
        batch //= 2
    return batch


def _fitting(peak: Callable[[int], int], batch: int) -> int | None:
    try:
        return peak(batch)
    except torch.OutOfMemoryError:
        return None


def measured_batch(pipeline: Pipeline, most: int, share: float = SHARE) -> int:
    """Return the batch of guided sampling and decoding that fits on the pipeline's CUDA device, up to `most`."""
    device = pipeline.device

    def peak(batch: int) -> int:
        """Return the bytes that a batch takes beyond what is taken already."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        evaluate(pipeline, batch)
        return torch.cuda.max_memory_allocated(device) - before

    free, _ = torch.cuda.mem_get_info(device)
    try:
        return batch_that_fits(peak, free, most, share)
    finally:
        torch.cuda.empty_cache()


@torch.no_grad()
def evaluate(pipeline: Pipeline, batch: int) -> None:
    """Run what takes most memory in sampling: the UNet on two branches of a batch, and the decoder on the batch."""
    latents = torch.zeros(batch, *pipeline.latent_shape, device=pipeline.device)
    states = pipeline.encode_text([""]).expand(2 * batch, -1, -1)
    dtype = pipeline.unet.dtype
    pipeline.unet(torch.cat([latents, latents]).to(dtype), 501, encoder_hidden_states=states.to(dtype))
    pipeline.decode_latents(latents)
