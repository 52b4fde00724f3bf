"""IRECE: the three readings of its noise by hand, its controls, its gates, and its masks on scenes with known objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from audit import guards
from audit.corpus.images import to_model_input
from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.guard import Step, case_generator
from audit.diffusion.levels import Level
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.sampling import initial_noise
from audit.guards import localise
from audit.guards.irece import Localiser, Located
from audit.spec.sections import Concept
from audit.spec.sections import Guard as GuardSpec
from audit.testbed.scenes import sample_scene
from tests.guards.making import RING, conditioning, make, run

STEP = Step(2, 501, Level.of(0.3), Level.of(0.4))


def perturbed(testbed: Pipeline, **parameters: Any) -> tuple[torch.Tensor, torch.Tensor, Any]:
    """Latents before and after the step at t*, and the guard."""
    guard = make(testbed, "irece", **parameters)
    guard.begin(conditioning(testbed, [""], 1.0, [4]), [901, 501, 1])
    latents = initial_noise([9], testbed.latent_shape)
    with torch.no_grad():
        return latents, guard.before_step(latents, STEP, None), guard  # type: ignore[arg-type]


def mask_of(testbed: Pipeline, latents: torch.Tensor, **parameters: Any) -> tuple[torch.Tensor, Located]:
    found = localiser(testbed, **parameters)
    with torch.no_grad():
        located = found.locate(latents, 501)
    return localise.binary(located.maps, 0.4)[0], located


def localiser(testbed: Pipeline, concept: Concept = RING, **parameters: Any) -> Localiser:
    resolved = guards.resolve(GuardSpec(name="irece", parameters=parameters), concept)["parameters"]
    return Localiser(testbed.unet, testbed.tokenizer, testbed.encode_text, resolved)


def test_the_three_readings_of_the_noise(testbed: Pipeline) -> None:
    latents, replaced, _ = perturbed(testbed)
    mask, located = mask_of(testbed, latents)
    assert 0 < mask.float().mean() < 1
    drawn = torch.randn(latents.shape[1:], generator=case_generator("irece", 4, "noise"))
    torch.testing.assert_close(replaced[0], torch.where(mask, drawn, latents[0]))
    _, added, _ = perturbed(testbed, noise="add")
    torch.testing.assert_close(added[0], latents[0] + mask * drawn)
    _, level, _ = perturbed(testbed, noise="level", reference="zero")
    torch.testing.assert_close(level[0], torch.where(mask, 0.7**0.5 * drawn, latents[0]))
    _, level, _ = perturbed(testbed, noise="level")
    clean = (latents[0] - 0.7**0.5 * located.noise[0]) / 0.3**0.5
    mean = clean[:, ~mask].mean(1)[:, None, None]
    torch.testing.assert_close(level[0], torch.where(mask, 0.3**0.5 * mean + 0.7**0.5 * drawn, latents[0]))


def test_controls_keep_the_area_or_cover_the_picture(testbed: Pipeline) -> None:
    latents, located, guard = perturbed(testbed)
    area = guard.report()[0].measures["mask_area"]
    for mask in ("random", "shifted"):
        _, changed, control = perturbed(testbed, mask=mask)
        assert control.report()[0].measures["mask_area"] == pytest.approx(area)
        assert not torch.equal(changed, located)
    _, changed, control = perturbed(testbed, mask="full")
    assert control.report()[0].measures["mask_area"] == 1.0 and (changed != latents).all()


def test_gates_leave_the_latent_alone_and_say_why(testbed: Pipeline) -> None:
    for parameters, reason in (
        ({"gate": 0.99}, "below the gate of 0.99"),
        ({"area_max": 0.01}, "not within 0 to 0.01"),
        ({"area_min": 0.98}, "not within 0.98 to 1"),
    ):
        latents, changed, guard = perturbed(testbed, **parameters)
        report = guard.report()[0]
        assert torch.equal(latents, changed) and reason in str(report.reason) and report.timesteps == ()
        assert report.unet_calls == 1 and "located_area" in report.measures


def test_a_flat_map_locates_nothing(testbed: Pipeline) -> None:
    guard = make(testbed, "irece")
    guard.begin(conditioning(testbed, [""], 1.0, [4]), [501])
    flat = torch.zeros(1, 16, 16)
    guard._localiser.locate = lambda latents, timestep: Located(flat, flat, latents, 1)  # type: ignore[attr-defined]
    latents = initial_noise([9], testbed.latent_shape)
    assert torch.equal(guard.before_step(latents, STEP, None), latents)  # type: ignore[arg-type]
    assert "flat" in str(guard.report()[0].reason)


@pytest.mark.parametrize("localisation", ["attention", "contrast-neighbours", "noise-difference"])
def test_a_map_that_is_not_finite_fails_that_case_alone(testbed: Pipeline, localisation: str) -> None:
    guard = make(testbed, "irece", localisation=localisation)
    guard.begin(conditioning(testbed, ["", ""], 1.0, [4, 5]), [501])
    latents = initial_noise([9, 9], testbed.latent_shape)
    latents[0, 0, 3, 3] = float("nan")
    with torch.no_grad():
        changed = guard.before_step(latents, STEP, None)  # type: ignore[arg-type]
    bad, good = guard.report()
    assert "not finite at timestep 501" in str(bad.failure) and bad.timesteps == () and bad.unet_calls > 0
    assert good.failure is None and good.timesteps == (501,) and torch.isfinite(changed[1]).all()


@pytest.mark.parametrize(
    ("localisation", "calls"),
    [
        ("attention", 1),
        ("contrast-tokens", 1),
        ("contrast-null", 2),
        ("contrast-neighbours", 2),
        ("noise-difference", 2),
    ],
)
def test_it_costs_at_most_two_evaluations_and_acts_once(testbed: Pipeline, localisation: str, calls: int) -> None:
    made = run(testbed, [make(testbed, "irece", localisation=localisation)], [""], 1.0, steps=5)
    assert made.reports[0][0].unet_calls == calls and made.unet_calls == 5
    assert made.reports[0][0].timesteps == (401,) or made.reports[0][0].timesteps == (601,)


def test_attention_is_captured_at_t_star_only(testbed: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    entered: list[int] = []
    enter = CrossAttentionMaps.__enter__
    monkeypatch.setattr(CrossAttentionMaps, "__enter__", lambda self: (entered.append(1), enter(self))[1])
    before = {name: module.processor for name, module in testbed.unet.named_modules() if name.endswith("attn2")}
    run(testbed, [make(testbed, "irece")], ["a photo of a ring"], 3.0, steps=5)
    assert len(entered) == 1
    after = {name: module.processor for name, module in testbed.unet.named_modules() if name.endswith("attn2")}
    assert all(before[name] is after[name] for name in before)


def test_the_standard_model_is_asked_not_the_guarded_one(testbed: Pipeline) -> None:
    asked: list[int] = []

    def broken(latents: torch.Tensor, timestep: int, states: torch.Tensor) -> torch.Tensor:
        asked.append(len(latents))
        return noise_model(testbed.unet)(latents, timestep, states)

    from audit.diffusion.sampling import sample

    given = conditioning(testbed, [""], 1.0, [4])
    sample(broken, testbed.schedule(5), initial_noise([9], testbed.latent_shape), given, [make(testbed, "irece")])
    assert asked == [1] * 5


def test_the_phrase_must_stand_alone_in_the_template(testbed: Pipeline) -> None:
    from audit.errors import SpecError

    found = localiser(testbed, template="x{phrase}x")
    with pytest.raises(SpecError, match="melts into other words"):
        found.locate(initial_noise([1], testbed.latent_shape), 501)


def test_a_neighbour_named_within_the_concept_has_words_of_its_own(
    testbed: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    concept = Concept(name="red-ring", phrase="red ring", neighbours=("ring",))
    found = localiser(testbed, concept, localisation="contrast-neighbours")
    looked: list[list[int]] = []
    whole = localise.token_map

    def watched(maps: Any, tokens: Any, side: int, **more: Any) -> torch.Tensor:
        looked.append(list(tokens))
        return whole(maps, tokens, side, **more)

    monkeypatch.setattr(localise, "token_map", watched)
    with torch.no_grad():
        found.locate(initial_noise([1], testbed.latent_shape), 501)
    assert looked == [[5, 6], [5, 6], [9]]  # the second look is at "a photo of a red ring and a ring"


def overlaps(testbed: Pipeline, scenes: int, timestep_index: int, tau: float, **parameters: Any) -> dict[str, float]:
    """Mean IoU with the ring's true region of the mask and of a shifted mask of its area, over two-object scenes."""
    drawn = [sample_scene("calibration", i, n_objects=2, required_class="ring") for i in range(scenes)]
    pixels = torch.from_numpy(np.stack([to_model_input(scene.image, 64) for scene in drawn])).permute(0, 3, 1, 2)
    schedule = testbed.schedule(25)
    timestep, level = schedule.timesteps[timestep_index], schedule.levels[timestep_index + 1]
    noise = initial_noise(range(scenes), testbed.latent_shape)
    latents = level.noised(testbed.encode_images(pixels), noise)
    with torch.no_grad():
        masks = localise.binary(localiser(testbed, **parameters).locate(latents, timestep).maps, tau)
    objects = [next(o.mask for o in scene.objects if o.cls == "ring") for scene in drawn]
    true = F.avg_pool2d(torch.from_numpy(np.stack(objects)).float()[:, None], 4)[:, 0] >= 0.25
    elsewhere = [localise.random_cells(mask, case_generator("irece", i)) for i, mask in enumerate(masks)]
    return {
        "mask": float(localise.overlap(masks, true).mean()),
        "random": float(localise.overlap(torch.stack(elsewhere), true).mean()),
    }


def test_masks_lie_on_the_known_object(testbed: Pipeline) -> None:
    """A small version of what audit/testbed/README.md shows of 200 scenes."""
    literal = overlaps(testbed, 16, 11, 0.4)
    assert literal["mask"] > 0.25 and literal["mask"] > 2 * literal["random"], literal
    upper = overlaps(testbed, 16, 11, 0.5, layers="up")
    assert upper["mask"] > 0.4 and upper["mask"] > 3 * upper["random"], upper
    contrast = overlaps(testbed, 16, 11, 0.3, layers="up", localisation="contrast-neighbours")
    assert contrast["mask"] > 0.4 and contrast["mask"] > 3 * contrast["random"], contrast
