"""Names of what quantising code keeps beside weights: with these, numbers in a file are not the network's weights."""

from __future__ import annotations

import re

# ComfyUI, kohya, bitsandbytes, quanto, GPTQ.
_SCALES = re.compile(
    r"(^|\.)(scaled_fp8|scale_weight|weight_scale|scale_input|input_scale|output_scale|SCB|weight_format|absmax"
    r"|quant_map|qweight|qzeros|_data|_scale)$|\.quant_state\."
)


def is_scale(name: str) -> bool:
    """Return whether a tensor's name is one of those that quantising code writes."""
    return _SCALES.search(name) is not None
