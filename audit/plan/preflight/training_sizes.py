"""Check that erasers can train at the size that they are told to, before anything is computed. Imports no torch."""

from __future__ import annotations

from audit import erasers
from audit.errors import SpecError
from audit.plan.preflight.network_shapes import least_cells, network_settings, pixels_of_a_cell, query_sides
from audit.plan.resolved import Resolved
from audit.weights.families import FLUX_SIDE
from audit.weights.references import ModelRef


def check_training_sizes(resolved: Resolved, backbone: ModelRef) -> None:
    """Check `pixels` and `mask_side` of each eraser that is trained against the backbone's network. Raises `SpecError`."""
    named = [(defence.name, defence.eraser) for defence in resolved.spec.defences if defence.eraser is not None]
    trained = [(name, eraser) for name, eraser in named if eraser.checkpoint is None]
    if not trained:
        return
    config, cell = network_settings(backbone), pixels_of_a_cell(backbone)
    own, least = int(config.get("sample_size", FLUX_SIDE)), cell * least_cells(config)
    for name, eraser in trained:
        values, method = erasers.resolve_parameters(eraser, resolved.spec.backbone), eraser.method
        where = f"defences.{name}.eraser.parameters"
        pixels = values.get("pixels")
        if isinstance(pixels, int) and pixels % least:
            raise SpecError(
                f"eraser {method!r}: training pictures of {pixels} pixels do not fit this backbone",
                where=f"{where}.pixels",
                next_step=f"use a multiple of {least}, such as {own * cell}, or null for the backbone's own size",
            )
        mask = values.get("mask_side")
        known = query_sides(config, "all", pixels // cell if isinstance(pixels, int) else own)
        if isinstance(mask, int) and mask not in known:
            raise SpecError(
                f"eraser {method!r}: no cross-attention layer has {mask} x {mask} queries at its training size",
                where=f"{where}.mask_side",
                next_step=f"choose mask_side among: {', '.join(map(str, sorted(known)))}",
            )
