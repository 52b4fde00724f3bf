"""Masks from maps: normalisation, thresholds, controls of equal area, and where the known objects of scenes are."""

from __future__ import annotations

import pytest
import torch

from audit.diffusion.guard import case_generator
from audit.guards import localise


def disc(side: int = 16, centre: tuple[int, int] = (5, 9), radius: int = 3) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def test_layers_of_all_sizes_are_averaged_on_one_grid() -> None:
    large = torch.zeros(1, 8, 8, 3)
    large[0, :4, :4, 1] = 1.0
    small = torch.zeros(1, 4, 4, 3)
    small[0, :2, :2, 1] = 3.0
    found = localise.token_map([large, small], [1], 8)
    assert found.shape == (1, 8, 8)
    assert found[0, 1, 1] == pytest.approx(2.0) and found[0, 6, 6] == 0.0
    both = localise.token_map([large, small], [1], 8, per_layer=True)
    assert both[0, 1, 1] == pytest.approx(1.0)
    halved = localise.token_map([large], [1, 2], 8)
    assert halved[0, 1, 1] == pytest.approx(0.5)  # mean over the phrase's tokens


def test_min_max_spans_zero_to_one_and_a_flat_map_masks_nothing() -> None:
    maps = torch.stack([torch.arange(16.0).view(4, 4), torch.full((4, 4), 7.0)])
    scaled = localise.min_max(maps)
    assert scaled[0].min() == 0 and scaled[0].max() == 1
    assert not localise.binary(scaled, 0.4)[1].any()


def test_smoothing_averages_over_the_cells_that_are_there() -> None:
    maps = torch.zeros(1, 4, 4)
    maps[0, 0, 0] = 9.0
    smooth = localise.smoothed(maps, 3)
    assert smooth[0, 0, 0] == 9 / 4 and smooth[0, 1, 1] == 1 and smooth[0, 2, 2] == 0
    assert torch.equal(localise.smoothed(maps, 1), maps)


def test_tau_is_inclusive_and_dilation_grows_by_cells() -> None:
    maps = torch.zeros(1, 5, 5)
    maps[0, 2, 2] = 0.4
    assert localise.binary(maps, 0.4).sum() == 1
    assert localise.binary(maps, 0.41).sum() == 0
    assert localise.binary(maps, 0.4, dilation=1).sum() == 9
    assert localise.binary(maps, 0.4, dilation=2).sum() == 25


def test_controls_have_the_masks_area() -> None:
    mask = disc()
    for seed in range(5):
        cells = localise.random_cells(mask, case_generator("irece", seed, "mask"))
        moved = localise.shifted(mask, case_generator("irece", seed, "mask"))
        assert cells.sum() == moved.sum() == mask.sum()
        assert cells.dtype == moved.dtype == torch.bool


def test_overlap_and_box_of_known_masks() -> None:
    mask = disc()
    other = mask.roll(16 // 2, 1)
    found = localise.overlap(torch.stack([mask, mask, mask & False]), torch.stack([mask, other, mask & False]))
    assert found[0] == 1 and found[1] < 0.2 and found[2] == 1
    assert localise.box(mask) == "2:9, 6:13"
    assert localise.box(mask & False) == "empty"


def test_layers_are_chosen_by_block_and_side() -> None:
    maps = {
        "down_blocks.0.attn2": torch.zeros(1, 16, 16, 2),
        "mid_block.attn2": torch.zeros(1, 4, 4, 2),
        "up_blocks.1.attn2": torch.zeros(1, 8, 8, 2),
    }
    assert len(localise.chosen_layers(maps, "all", ())) == 3
    assert [m.shape[1] for m in localise.chosen_layers(maps, "mid", ())] == [4]
    assert [m.shape[1] for m in localise.chosen_layers(maps, "all", (8, 16))] == [16, 8]
    assert localise.chosen_layers(maps, "up", (4,)) == []
