"""Rows of the journal's pictures, and the checks and rounding by which decoded images become pictures."""

from __future__ import annotations

import torch

from audit.compute.stages.batching import Row
from audit.compute.stages.invert import Pixels
from audit.corpus.images import degenerate, encode_png, pixel_sha256
from audit.records import Case, Status
from audit.storage.journal import SCHEMAS

NOT_FINITE = "the decoded picture is not finite"


def row_without(case: Case, status: Status, error: str | None, **values: object) -> Row:
    """Return the row of a case without a picture: its status and reason, and whatever else `values` say."""
    shared = {"image_id": case.image_id, "invert_key": case.invert_key, "item": case.item}
    empty: Row = dict.fromkeys(SCHEMAS["generate"].names)
    return {**empty, **shared, "status": status.value, "error": error, **values}


def picture_row(
    case: Case, pixels: Pixels, calls: int = 0, report: str | None = None, denoised_by: str | None = None
) -> Row:
    """Return the row of a picture (H, W, 3); its status says why it is no evidence when it is black, constant or the like."""
    reason = degenerate(pixels)
    values = {
        "unet_calls": calls,
        "guard_report": report,
        "pixel_sha256": pixel_sha256(pixels),
        "denoised_by": denoised_by,
    }
    image = {"bytes": encode_png(pixels), "path": f"{case.image_id}.png"}
    status = Status.OK if reason is None else Status.DEGENERATE
    return row_without(case, status, reason, image=image, **values)


def noise_pixels(seed: int, side: int) -> Pixels:
    """Return Gaussian noise as a picture (side, side, 3): standard normal values in the model's range, cut at its ends."""
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return rounded(noise.clamp(-1, 1))[0]


def finite(values: torch.Tensor) -> torch.Tensor:
    """Return which latents or images of a batch are finite in all their values, (B,)."""
    return torch.isfinite(values).flatten(1).all(1)


def rounded(images: torch.Tensor) -> Pixels:
    """Return the pixels (B, H, W, 3), uint8, of images (B, 3, H, W) in [-1, 1], to the nearest level as diffusers does."""
    scaled = (images.float() / 2 + 0.5).clamp(0, 1).nan_to_num(0.0)
    return (scaled.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
