"""DDIM inversion: exactness, honest residuals, and fewer evaluations than a fixed number of passes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from audit.diffusion.guard import Conditioning
from audit.diffusion.inversion import invert, latent_statistics
from audit.diffusion.sampling import NoiseModel, Schedule, sample
from audit.diffusion.schedule import make_schedule
from tests.tiny import SD14_SCHEDULER

MEANS = torch.randn(6, 4, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
SPREAD = 0.15
SCHEDULES = [make_schedule(SD14_SCHEDULER | {"steps_offset": o}, steps) for steps in (10, 25, 50) for o in (0, 1)]
LEVELS = {t: level.signal**2 for s in SCHEDULES for t, level in zip(s.timesteps, s.levels[1:], strict=True)}


def mixture(latents: torch.Tensor, timestep: float | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """The exact noise prediction for data that is a mixture of Gaussians: a model with a known answer."""
    abar = LEVELS[float(timestep)]
    variance = abar * SPREAD**2 + 1 - abar
    distance = (latents[:, None] - abar**0.5 * MEANS).flatten(2).pow(2).sum(2)
    weights = torch.softmax(-distance / (2 * variance), 1)
    centre = abar**0.5 * torch.einsum("bk,kchw->bchw", weights, MEANS)
    return (1 - abar) ** 0.5 * (latents - centre) / variance


def clean(n: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    picks = torch.randint(len(MEANS), (n,), generator=generator)
    return MEANS[picks] + SPREAD * torch.randn(n, 4, 4, 4, generator=generator)


def five_passes(model: NoiseModel, schedule: Schedule, z0: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Residual (B,) of the plain fixed point: five evaluations a step, whatever it takes; the worst of the steps."""
    x, worst = z0, torch.zeros(len(z0))
    for t, a, b in zip(schedule.timesteps, schedule.a, schedule.b, strict=True):
        previous = x
        for _ in range(5):
            x = (previous - b * model(x, t, states)) / a
        gap = (previous - b * model(x, t, states)) / a - x
        worst = torch.maximum(worst, gap.flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1))
    return worst


def round_trip(steps: int, passes: int, tolerance: float = 1e-5) -> tuple[float, torch.Tensor, torch.Tensor]:
    schedule, z0 = make_schedule(SD14_SCHEDULER, steps), clean(16)
    states = torch.zeros(len(z0), 1, 1)
    inverted = invert(mixture, schedule, z0, states, passes=passes, tolerance=tolerance)
    back = sample(mixture, schedule, inverted.latents, Conditioning(states, states, 1.0, ("",) * len(z0)))
    error = ((back.latents - z0).flatten(1).norm(dim=1) / z0.flatten(1).norm(dim=1)).mean()
    return float(error), inverted.residual_max, inverted.calls


def test_fixed_point_beats_explicit_inversion() -> None:
    explicit, explicit_residual, _ = round_trip(50, passes=0)
    refined, residual, _ = round_trip(50, passes=5)
    assert refined < explicit / 20
    assert residual.max() < 1e-3 < explicit_residual.max()


def test_images_stop_when_they_have_converged() -> None:
    _, residual, calls = round_trip(50, passes=10, tolerance=1e-4)
    assert residual.max() < 1e-4
    assert calls.max() < 50 * 5


@pytest.mark.parametrize("field", [{"set_alpha_to_one": True}, {"steps_offset": 0}], ids=str)
def test_a_sampler_with_another_grid_or_clean_level_is_caught(field: dict[str, Any]) -> None:
    """Explicit inversion would hide either: its own error is larger than theirs."""
    schedule = make_schedule(SD14_SCHEDULER, 50)
    other = make_schedule({**SD14_SCHEDULER, **field}, 50)
    assert schedule != other
    z0 = clean(8)
    states = torch.zeros(8, 1, 1)
    inverted = invert(mixture, schedule, z0, states, passes=10, tolerance=1e-6)
    given = Conditioning(states, states, 1.0, ("",) * 8)
    matched = (sample(mixture, schedule, inverted.latents, given).latents - z0).norm() / z0.norm()
    mismatched = (sample(mixture, other, inverted.latents, given).latents - z0).norm() / z0.norm()
    assert matched < 1e-4 < 1e-3 < mismatched


def test_fewer_evaluations_than_five_passes_at_their_residual() -> None:
    schedule, z0 = make_schedule(SD14_SCHEDULER, 50), clean(16)
    states = torch.zeros(len(z0), 1, 1)
    fixed = five_passes(mixture, schedule, z0, states)
    ours = invert(mixture, schedule, z0, states, passes=10, tolerance=float(fixed.max()))
    assert ours.residual_max.max() <= fixed.max()
    assert ours.calls.float().mean() < 0.6 * 5 * schedule.steps


def test_the_batch_does_not_matter() -> None:
    schedule, z0 = make_schedule(SD14_SCHEDULER, 25), clean(6)
    states = torch.zeros(6, 1, 1)
    together = invert(mixture, schedule, z0, states, passes=5, tolerance=1e-4)
    alone = invert(mixture, schedule, z0[2:3], states[:1], passes=5, tolerance=1e-4)
    torch.testing.assert_close(together.latents[2:3], alone.latents, rtol=1e-5, atol=1e-5)
    assert together.calls[2] == alone.calls[0]


def test_a_model_that_does_not_contract_is_reported_not_hidden() -> None:
    def steep(latents: torch.Tensor, timestep: float | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return torch.sin(200 * latents)

    schedule, z0 = make_schedule(SD14_SCHEDULER, 10), clean(4)
    inverted = invert(steep, schedule, z0, torch.zeros(4, 1, 1), passes=5, tolerance=1e-6)
    assert (inverted.residual_max > 1e-3).all()


def test_non_finite_predictions_never_look_converged() -> None:
    def broken(latents: torch.Tensor, timestep: float | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return torch.full_like(latents, torch.nan)

    schedule = make_schedule(SD14_SCHEDULER, 10)
    inverted = invert(broken, schedule, clean(2), torch.zeros(2, 1, 1), passes=3, tolerance=1e-3)
    assert not (inverted.residual_max < 1e-3).any()


def test_latent_statistics_of_standard_normal_noise() -> None:
    noise = torch.randn(4, 4, 64, 64, generator=torch.Generator().manual_seed(0))
    statistics = latent_statistics(noise)
    torch.testing.assert_close(statistics.rms, torch.ones(4), rtol=0, atol=0.03)
    torch.testing.assert_close(statistics.autocorrelation, torch.zeros(4), rtol=0, atol=0.03)
    torch.testing.assert_close(statistics.nll_per_dim, torch.full((4,), 1.4189), rtol=0, atol=0.03)
