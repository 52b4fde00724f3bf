"""Turn a diffusion model's attention maps into masks of a concept. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F


def token_map(
    maps: Sequence[torch.Tensor], tokens: Sequence[int], side: int, *, per_layer: bool = False
) -> torch.Tensor:
    """Return one map (B, side, side): each layer (B, s, s, L) averaged over `tokens` and upsampled, then averaged over layers.

    With `per_layer` each layer's map is min-max normalised before the mean, so that none outweighs the others.
    """
    upsampled = []
    for layer in maps:
        one = layer[..., list(tokens)].mean(-1)
        one = F.interpolate(one[:, None], size=(side, side), mode="bilinear", align_corners=False)[:, 0]
        upsampled.append(min_max(one) if per_layer else one)
    return torch.stack(upsampled).mean(0)


def min_max(maps: torch.Tensor) -> torch.Tensor:
    """Scale each map (B, H, W) to [0, 1]; a flat map becomes all zero, so that it masks nothing."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-8)


def smoothed(maps: torch.Tensor, side: int) -> torch.Tensor:
    """Average maps (B, H, W) over windows of odd `side`; at the borders over the cells that exist."""
    return F.avg_pool2d(maps[:, None], side, stride=1, padding=side // 2, count_include_pad=False)[:, 0]


def binary(maps: torch.Tensor, tau: float, dilation: int = 0) -> torch.Tensor:
    """Return boolean masks (B, H, W): normalised maps at or above `tau`, grown by `dilation` cells in eight directions."""
    masks = (maps >= tau).float()
    for _ in range(dilation):
        masks = F.max_pool2d(masks[:, None], 3, stride=1, padding=1)[:, 0]
    return masks > 0


def random_cells(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return a mask (H, W) of as many cells as `mask`, each cell as likely as any other."""
    chosen = torch.randperm(mask.numel(), generator=generator)[: int(mask.sum())]
    cells = torch.zeros(mask.numel(), dtype=torch.bool)
    cells[chosen] = True
    return cells.view_as(mask).to(mask.device)


def shifted(mask: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Move `mask` (H, W) along both axes by random distances, around the edges: its area and shape, elsewhere."""
    rows, columns = (int(torch.randint(1, size, (1,), generator=generator)) for size in mask.shape)
    return mask.roll((rows, columns), (0, 1))


def box(mask: torch.Tensor) -> str:
    """Return the mask's bounding box as `row0:row1, column0:column1`, ends exclusive; `empty` for none."""
    rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
    return f"{rows[0]}:{rows[-1] + 1}, {columns[0]}:{columns[-1] + 1}" if rows else "empty"


def overlap(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the intersection over union (B,) of masks (B, H, W); 1 when both are empty."""
    both, either = (first & second).sum((1, 2)).float(), (first | second).sum((1, 2)).float()
    return torch.where(either > 0, both / either.clamp_min(1), torch.ones_like(both))


def chosen_layers(names: Mapping[str, torch.Tensor], layers: str, sides: Sequence[int]) -> list[torch.Tensor]:
    """Return the maps of the blocks asked for (`all`, `down`, `mid`, `up`) and query grids (none named: all)."""
    return [
        layer
        for name, layer in names.items()
        if (layers == "all" or name.startswith(f"{layers}_block")) and (not sides or layer.shape[1] in sides)
    ]
