"""Read a LoRA's base model and clip skip from its safetensors header; its tensors do not show them.

kohya's scripts write `ss_base_model_version` and `ss_clip_skip`, and the model specification of Stability AI
`modelspec.architecture`. Every value is text, also numbers and None.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from audit.checkpoints.families import family_of
from audit.checkpoints.tensors import BackboneTensors
from audit.errors import CheckpointError
from audit.weights.families import LAYOUTS, Family

_BASES = ("ss_base_model_version", "modelspec.architecture")
_MARKS: Mapping[Family | None, str] = {
    "sdxl": r"xl", "sd2": r"sd_?v?2|stable-diffusion-v?2", "sd3": r"sd_?v?3|diffusion-v?3", "flux": r"flux",
    "sd1": r"sd_?v?1|stable-diffusion-v?1",
    None: r"cascade|pixart|auraflow|lumina|hunyuan|kolors|chroma|wan_?2|qwen|cogvideo",  # another model
}  # fmt: skip


def read_header(metadata: Mapping[str, str], backbone: BackboneTensors, where: str) -> tuple[int, tuple[str, ...]]:
    """Return the clip skip that a LoRA was trained with, and notes on it.

    SDXL and later families read a fixed layer, and no clip skip is noted there. Raises `CheckpointError` for a LoRA of another
    family than the backbone's.
    """
    own = family_of(backbone.unet)
    for field in _BASES:
        base = metadata.get(field, "")
        said = next((family for family, marks in _MARKS.items() if re.search(marks, base, re.IGNORECASE)), own)
        if said != own:
            name = "another model" if said is None else LAYOUTS[said].title
            raise CheckpointError(
                f"the personalisation cannot be used: it was trained on {name}, says its header ({field}: {base[:60]})",
                where=where,
                next_step=f"get a LoRA that was trained on this backbone's family, {LAYOUTS[own].title}",
            )
    skip = metadata.get("ss_clip_skip", "").strip()
    if own not in ("sd1", "sd2") or not re.fullmatch(r"[2-9]|1\d", skip):
        return 1, ()
    return int(skip), (
        f"it was trained with clip skip {skip} (ss_clip_skip in its header), and the audit reads the text encoder's last "
        "layer: it may act less here than where it was made for",
    )
