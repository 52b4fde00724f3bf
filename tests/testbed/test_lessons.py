"""What the testbed's judges are shown: fainter pictures, the same ones whenever a training goes on from a checkpoint."""

from __future__ import annotations

import torch

from audit.testbed.train_judges import FADE, augment, faded


def pictures() -> torch.Tensor:
    return torch.rand((16, 3, 8, 8), generator=torch.Generator().manual_seed(1)) * 2 - 1


def test_faded_pictures_keep_their_mean_and_lose_contrast_at_most_by_the_share_named() -> None:
    before = pictures()
    after = faded(before, torch.Generator().manual_seed(2))
    assert torch.allclose(after.mean((2, 3)), before.mean((2, 3)), atol=1e-6)
    left = after.std((2, 3)) / before.std((2, 3))
    assert left.min() >= 1 - FADE - 1e-6 and left.max() <= 1 + 1e-6
    assert left.max() - left.min() > FADE / 4, "each picture by a share of its own"
    assert torch.allclose(left, left[:, :1].expand_as(left), atol=1e-5), "the colours alike"


def test_what_a_judge_is_shown_depends_on_the_generator_alone() -> None:
    def shown(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        return augment(faded(pictures(), generator), generator)

    assert torch.equal(shown(3), shown(3)) and not torch.equal(shown(3), shown(4))
    assert shown(3).abs().max() <= 1
