"""Read a LoRA's base model and clip skip from its safetensors header; its tensors do not show them.

kohya's scripts write `ss_base_model_version` and `ss_clip_skip`, and the model specification of Stability AI
`modelspec.architecture`. Every value is text, also numbers and None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from audit.errors import CheckpointError

_BASES = ("ss_base_model_version", "modelspec.architecture")
_OTHERS = {
    "SDXL": r"xl", "Stable Diffusion 2.x": r"sd_?v?2|stable-diffusion-v?2", "Stable Diffusion 3": r"sd_?v?3|diffusion-v?3",
    "Flux": r"flux", "another model": r"cascade|pixart|auraflow|lumina|hunyuan|kolors|chroma|wan_?2|qwen|cogvideo",
}  # fmt: skip


def read_header(metadata: Mapping[str, str], where: str) -> tuple[int, tuple[str, ...]]:
    """Return the clip skip that a LoRA was trained with, and notes on it.

    Raises `CheckpointError` for a LoRA of another base model than Stable Diffusion 1.x.
    """
    for field in _BASES:
        base = metadata.get(field, "")
        other = next((name for name, marks in _OTHERS.items() if re.search(marks, base, re.IGNORECASE)), None)
        if other is not None:
            raise CheckpointError(
                f"the personalisation cannot be used: it was trained on {other}, says its header ({field}: {base[:60]})",
                where=where,
                next_step="get a LoRA that was trained on this backbone, of the family of Stable Diffusion 1.x",
            )
    skip = metadata.get("ss_clip_skip", "").strip()
    if not re.fullmatch(r"[2-9]|1\d", skip):
        return 1, ()
    return int(skip), (
        f"it was trained with clip skip {skip} (ss_clip_skip in its header), and the audit reads the text encoder's last "
        "layer: it may act less here than where it was made for",
    )
