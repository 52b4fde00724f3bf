"""EGLOCE: its gradient against finite differences in float64, its steps, its failures, and the flip test."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from audit import guards
from audit.checkpoints import apply_artefact
from audit.diffusion.guard import Conditioning, Prediction, Step
from audit.diffusion.levels import Level
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.sampling import initial_noise, sample
from audit.guards import egloce
from audit.guards.building import build
from audit.guards.egloce import Egloce, moved
from audit.guards.egloce_parameters import EgloceParameters
from audit.guards.energy import Energy, Flip, blur, flip_test, jpeg
from audit.spec.sections import Guard as GuardSpec
from tests.checkpoints.files import spm
from tests.guards.making import RING, conditioning, make, parts_of, run

SETTINGS = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


def tiny_energy(pipeline: Pipeline, phrases: tuple[str, ...] = ("ring", "hoop")) -> Energy:
    """A CLIPModel of random weights in float64 whose tokenizer is the tiny pipeline's."""
    tokenizer = pipeline.tokenizer
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {
        **small,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 16,
        "eos_token_id": tokenizer.eos_token_id,
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = {**small, "image_size": 16, "patch_size": 4}
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    network = network.double().eval().requires_grad_(False)
    return Energy(network, tokenizer, SETTINGS, ("a {phrase}",), phrases)


def tiny_guard(pipeline: Pipeline, text: str, **parameters: Any) -> tuple[Egloce, Any]:
    """The guard on the tiny pipeline in float64, begun for one case, and its predictor."""
    unet, vae = (copy.deepcopy(module).double() for module in (pipeline.unet, pipeline.vae))
    values = EgloceParameters.model_validate(parameters).resolved(RING)
    energy = tiny_energy(pipeline)
    guard = Egloce(energy, lambda z: vae.decode(z / 8).sample.clamp(-1, 1), values)
    states, null = (pipeline.encode_text([t]).double() for t in (text, ""))

    def predict(latents: torch.Tensor) -> Prediction:
        noises = [unet(latents, 401, encoder_hidden_states=s).sample for s in (states, null)]
        return Prediction(*noises, 3.0, {}, 2)

    guard.begin(Conditioning(states, null, 3.0, (text,), (1,)), [401])
    return guard, predict


@pytest.mark.parametrize("gradient", ["full", "stop"])
@pytest.mark.parametrize("text", ["abc ring", ""])
def test_the_gradient_equals_finite_differences(pipeline: Pipeline, gradient: str, text: str) -> None:
    guard, predict = tiny_guard(pipeline, text, gradient=gradient, retention=0.7)
    step = Step(0, 401, Level.of(0.4), Level.of(0.5))
    z = 0.5 * torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, _, _ = guard._gradient(z, step, predict)
    held = predict(z).guided.detach()

    def energy(point: torch.Tensor) -> float:
        with torch.no_grad():
            noise = predict(point).guided if gradient == "full" else held
            features = guard._features(guard._decode(step.clean(point, noise)), step)
            return float(guard._repulsion(features) - 0.7 * guard._retention(features))

    for index in [(0, 0, 1, 2), (0, 1, 7, 0), (0, 3, 4, 4), (0, 2, 3, 6)]:
        shift = torch.zeros_like(z)
        shift[index] = 1e-5
        numeric = (energy(z + shift) - energy(z - shift)) / 2e-5
        assert float(found[index]) == pytest.approx(numeric, rel=2e-4, abs=1e-9)


def test_checkpointing_recomputes_blocks_and_gives_the_same_gradient(testbed: Pipeline) -> None:
    made, calls = [], []
    for checkpointing in (False, True):
        parts = {name: copy.deepcopy(getattr(testbed, name)) for name in ("unet", "vae")}
        own = dataclasses.replace(testbed, **parts)
        counted: list[int] = []
        own.unet.mid_block.resnets[1].register_forward_pre_hook(lambda *_, seen=counted: seen.append(1))
        guard = make(own, "egloce", checkpointing=checkpointing, iterations=1, window=[401, 401])
        made.append(run(own, [guard], ["a photo of a ring"], 3.0, steps=5))
        calls.append(len(counted))
        # The networks are everybody's: left checkpointed, each later training would compute its blocks twice.
        assert not own.unet.is_gradient_checkpointing and not own.vae.is_gradient_checkpointing
    torch.testing.assert_close(made[0].latents, made[1].latents, rtol=1e-4, atol=1e-4)
    assert calls[1] == calls[0] + 1  # once more, for the one backward pass


def test_it_protects_a_model_whose_layers_act_by_prompt(pipeline: Pipeline, tmp_path: Path) -> None:
    """SPM's hooks run again when checkpointed blocks are recomputed, after the prediction has returned."""
    made = []
    for checkpointing in (False, True):
        own = dataclasses.replace(pipeline, unet=copy.deepcopy(pipeline.unet), vae=copy.deepcopy(pipeline.vae))
        state = dict(own.unet.state_dict())
        model = apply_artefact(own, str(spm(tmp_path, state, dict(own.text_encoder.state_dict()))))
        parts = dataclasses.replace(parts_of(own), guarded_unet=lambda unet=model.unet: unet)
        parameters = {"energy": "testbed/energy", "checkpointing": checkpointing, "window": [501, 501]}
        guard = build(guards.resolve(GuardSpec(name="egloce", parameters=parameters), RING), parts)
        texts = ["a star", "xyz"]
        given, start = conditioning(own, texts, 3.0), initial_noise([1, 2], own.latent_shape)
        made.append(sample(model.noise_model(texts), own.schedule(2), start, given, [guard]))
        with pytest.raises(ValueError, match=r"through `Transport\.bind` only"):
            model.unet(start, 501, encoder_hidden_states=given.prompt)
    assert all(report.failure is None and report.timesteps == (501,) for (report,) in made[1].reports)
    torch.testing.assert_close(made[0].latents, made[1].latents, rtol=1e-4, atol=1e-4)


def test_steps_are_normalised_and_stay_in_the_trust_region() -> None:
    start = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    gradient = (
        torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(1))
        * torch.tensor([1e-6, 1e6])[:, None, None, None]
    )
    norms = start.flatten(1).norm(dim=1)
    once = moved(start, gradient, start, 0.02, 0.1)
    torch.testing.assert_close((once - start).flatten(1).norm(dim=1), 0.02 * norms, rtol=2e-2, atol=0)
    z = start
    for _ in range(20):
        z = moved(z, gradient, start, 0.02, 0.1)
    torch.testing.assert_close((z - start).flatten(1).norm(dim=1), 0.1 * norms, rtol=1e-4, atol=0)


@pytest.mark.parametrize("gradient", ["full", "stop"])
def test_it_lowers_its_energy_and_reports_it(testbed: Pipeline, gradient: str) -> None:
    text = "a photo of a ring and a square"
    guard = make(testbed, "egloce", gradient=gradient, iterations=2, rho=0.04)
    ((report,),) = run(testbed, [guard], [text], 4.0, steps=10).reports
    plain = make(testbed, "egloce", floor=1.0, window=[901, 901], iterations=1)  # looks and never moves
    ((idle,),) = run(testbed, [plain], [text], 4.0, steps=10).reports
    assert report.measures["energy_final"] < idle.measures["energy_final"] - 0.05
    assert report.timesteps == (801, 701, 601, 501, 401, 301, 201)
    assert report.unet_calls == 7 * 2 * 2
    assert report.facts == {"retains": "prompt"}
    assert idle.timesteps == () and "at or below the floor" in str(idle.reason)


def test_without_a_prompt_the_picture_is_the_anchor(testbed: Pipeline) -> None:
    guard = make(testbed, "egloce", iterations=1, window=[401, 401])
    made = run(testbed, [guard], ["", "a photo of a square"], 4.0, steps=5)
    assert [row[0].facts["retains"] for row in made.reports] == ["picture", "prompt"]


def test_retention_leaves_out_the_concept_and_unknown_words(testbed: Pipeline) -> None:
    energy = make(testbed, "egloce")._energy  # type: ignore[attr-defined]
    kept = energy.prompt("a photo of a ring and a blue square")
    torch.testing.assert_close(energy.concepts @ kept, torch.zeros(2), rtol=0, atol=1e-5)
    assert float(kept.norm()) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(energy.prompt("a <learned> square"), energy.prompt("a square"))
    assert energy.prompt("") is None and energy.prompt("<learned>") is None


def test_an_energy_that_is_not_finite_fails_that_case_alone(testbed: Pipeline) -> None:
    guard = make(testbed, "egloce", iterations=2, window=[401, 401], gradient="stop")
    whole = guard._decode  # type: ignore[attr-defined]

    def broken(latents: torch.Tensor) -> torch.Tensor:
        images = whole(latents)
        return torch.cat([images[:1] * float("nan"), images[1:]]) if len(images) > 1 else images

    guard._decode = broken  # type: ignore[attr-defined]
    made = run(testbed, [guard], ["a photo of a ring", "a photo of a ring"], 4.0, steps=5, seeds=[1, 2])
    bad, good = (row[0] for row in made.reports)
    assert "not finite at timestep 401" in str(bad.failure) and good.failure is None
    assert torch.isfinite(made.latents).all() and good.timesteps == (401,)


def test_a_gradient_of_zero_is_no_action(testbed: Pipeline) -> None:
    guard = make(testbed, "egloce", iterations=2, window=[401, 401], gradient="stop")
    whole = guard._decode  # type: ignore[attr-defined]
    levels = torch.tensor([100.0, 1.0])[:, None, None, None]  # the first picture is saturated: clamped, without slope
    guard._decode = lambda z: (whole(z) + levels * (levels > 1)).clamp(-1, 1)  # type: ignore[attr-defined]
    made = run(testbed, [guard], ["a photo of a ring", "a photo of a ring"], 4.0, steps=5, seeds=[1, 2])
    flat, moved_one = (row[0] for row in made.reports)
    assert flat.timesteps == () and "moved nothing" in str(flat.reason) and flat.failure is None
    assert flat.measures["flipped"] == 0.0 and moved_one.timesteps == (401,)


def test_the_flip_test_tells_an_adversarial_picture(testbed: Pipeline) -> None:
    """Pixels optimised against the energy lose their effect under JPEG and blur; a picture of a square has none to lose."""
    energy = make(testbed, "egloce")._energy  # type: ignore[attr-defined]
    from audit.testbed.scenes import sample_scene

    scenes = [sample_scene("calibration", 3, n_objects=1, required_class=name) for name in ("ring", "square")]
    ring, square = (torch.from_numpy(s.image).permute(2, 0, 1)[None].float() / 127.5 - 1 for s in scenes)
    attacked = ring.clone()
    for _ in range(12):
        attacked.requires_grad_(True)
        (gradient,) = torch.autograd.grad(energy.repulsion(energy.images(attacked)).sum(), attacked)
        attacked = (attacked.detach() - 0.02 * gradient.sign()).clamp(-1, 1)
    before, adversarial, honest = flip_test(energy, torch.cat([ring, attacked, square]))
    assert adversarial.plain < before.plain - 0.3
    assert adversarial.regained > (before.plain - adversarial.plain) / 4 > honest.regained


@pytest.mark.parametrize(
    ("highest", "flip", "flipped"),
    [
        (0.10, Flip(0.15, 0.70, 0.20), True),  # the early estimate was too blurred to show what comes back
        (0.80, Flip(0.15, 0.70, 0.20), True),
        (0.80, Flip(0.15, 0.20, 0.60), True),
        (0.80, Flip(0.15, 0.30, 0.35), False),  # less than half of what was lost
        (0.10, Flip(0.15, 0.18, 0.14), False),  # within the margin
        (0.16, Flip(0.15, 0.18, 0.14), False),
    ],
)
def test_a_flip_is_what_comes_back_of_the_most_there_ever_was(highest: float, flip: Flip, flipped: bool) -> None:
    assert flip.flipped(highest) is flipped


@pytest.mark.parametrize(
    ("flip", "floor", "flipped"),
    [
        (Flip(0.15, 0.70, 0.20), -1.0, 1.0),
        (Flip(0.15, 0.18, 0.14), -1.0, 0.0),
        (Flip(0.15, 0.70, 0.20), 1.0, 0.0),  # the guard never moved this picture
    ],
)
def test_the_guard_reports_what_comes_back_of_what_it_moved(
    testbed: Pipeline, monkeypatch: pytest.MonkeyPatch, flip: Flip, floor: float, flipped: float
) -> None:
    monkeypatch.setattr(egloce, "flip_test", lambda energy, images: [flip] * len(images))
    guard = make(testbed, "egloce", window=[601, 401], iterations=2, gradient="stop", floor=floor)
    ((report,),) = run(testbed, [guard], ["a photo of a square"], 4.0, steps=5).reports
    assert report.measures["energy_highest"] >= report.measures["energy_before"]
    assert report.measures["flipped"] == flipped and bool(report.timesteps) is (floor < 0)


def test_jpeg_and_blur_are_what_they_say() -> None:
    image = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0)) * 2 - 1
    smooth = blur(blur(image))
    assert 0 < (jpeg(smooth, 90) - smooth).abs().mean() < 0.1
    flat = torch.full((1, 3, 9, 9), 0.25)
    torch.testing.assert_close(blur(flat), flat)
    from scipy.ndimage import gaussian_filter

    expected = gaussian_filter(image[0, 0].numpy(), 1.0, mode="nearest", truncate=3.0)
    torch.testing.assert_close(blur(image)[0, 0], torch.from_numpy(expected), rtol=1e-4, atol=1e-5)
