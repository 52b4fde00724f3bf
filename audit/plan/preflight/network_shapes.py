"""Sizes of latents and of attention layers, by the settings in a backbone's folder. Imports no torch."""

from __future__ import annotations

from audit.weights.files import read_json
from audit.weights.references import ModelRef, denoiser_part
from audit.weights.setting_checks import Settings


def network_settings(backbone: ModelRef) -> Settings:
    """Return the settings of the denoising network."""
    return read_json(backbone.path / denoiser_part(backbone.path) / "config.json")


def pixels_of_a_cell(backbone: ModelRef) -> int:
    """Return how many pixels wide one cell of the latents is."""
    vae = read_json(backbone.path / "vae" / "config.json")
    return int(2 ** (len(vae["block_out_channels"]) - 1))


def least_cells(config: Settings) -> int:
    """Return the number of which a side of latents has to be a multiple: a UNet halves it, a transformer cuts it into patches."""
    if "guidance_embeds" in config:  # Flux packs 2 x 2 latents
        return 2
    return int(config.get("patch_size", 1)) * int(2 ** (len(config.get("block_out_channels", [1])) - 1))


def _parts(config: Settings) -> dict[str, list[str]]:
    """Return the block types of the UNet's three parts; a transformer has no parts, and counts as one with joint attention."""
    if "down_block_types" not in config and "patch_size" in config:
        return {"down": [], "mid": ["CrossAttn"], "up": []}
    return {
        "down": list(config.get("down_block_types") or ()),
        "mid": [str(config.get("mid_block_type") or "")],
        "up": list(config.get("up_block_types") or ()),
    }


def crossing(config: Settings) -> dict[str, list[int]]:
    """Return the numbers of the blocks with cross-attention, by part."""
    return {part: [i for i, kind in enumerate(kinds) if "CrossAttn" in kind] for part, kinds in _parts(config).items()}


def query_sides(config: Settings, layers: str, side: int) -> set[int]:
    """Return the sides of the query grids of the chosen layers for latents of `side`.

    Each down block but the last halves them. A transformer has one grid, of patches; Flux packs 2 x 2 latents beforehand.
    """
    if "down_block_types" not in config and "patch_size" in config:
        return {side // (2 if "guidance_embeds" in config else int(config["patch_size"]))}
    depth, found = len(_parts(config)["down"]), crossing(config)
    sides: set[int] = set()
    if layers in ("all", "down"):
        sides |= {side >> i for i in found["down"]}
    if layers in ("all", "mid") and found["mid"]:
        sides.add(side >> (depth - 1))
    if layers in ("all", "up"):
        sides |= {side >> (depth - 1 - i) for i in found["up"]}
    return sides
