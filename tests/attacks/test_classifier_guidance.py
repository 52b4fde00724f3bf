"""Classifier guidance: a guided step against the published formula, its control, its failures, and what it finds."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from audit.attacks.classifier_guidance import (
    ClassifierGuide,
    Judge,
    build,
    log_probability,
    shifted,
    why_unassessed,
)
from audit.diffusion.guard import Conditioning, Guard, Prediction, Step
from audit.diffusion.levels import Level, noise_of
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import Sampled, initial_noise, sample
from audit.instruments.differentiable_clip import DifferentiableClip, decoder
from audit.spec.classifier_guidance import ClassifierGuidance
from audit.weights.references import resolve_model
from audit.weights.schedulers import Kind
from tests.attacks.on_testbed import OnDisk, hits
from tests.guards.making import conditioning
from tests.tiny_families import write_sd2, write_sd3

TEMPLATES = ("a {phrase}", "one {phrase}")
SEEDS = (3, 4)


def settings(**changes: Any) -> ClassifierGuidance:
    given = ClassifierGuidance(
        guide_sha256="0" * 64, phrase="ring", against=("square", "star"), templates=TEMPLATES, scale=0.2,
        normalise="prediction", window=(1000, 0), gradient="prediction", views=0,
    )  # fmt: skip
    return dataclasses.replace(given, **changes)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Any) -> Pipeline:
    loaded = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))
    return dataclasses.replace(loaded, unet=copy.deepcopy(loaded.unet).double(), vae=copy.deepcopy(loaded.vae).double())


@pytest.fixture(scope="module")
def clip(tiny: Pipeline) -> DifferentiableClip:
    """A CLIPModel of random weights in float64 whose tokenizer is the tiny pipeline's."""
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**small, "vocab_size": len(tiny.tokenizer), "max_position_embeddings": 16}
    text["eos_token_id"] = tiny.tokenizer.eos_token_id
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vision = {**small, "image_size": 16, "patch_size": 4}
        network = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    network = network.double().eval().requires_grad_(False)
    return DifferentiableClip(network, tiny.tokenizer, {"image_mean": [0.5] * 3, "image_std": [0.4] * 3})


def judge_of(clip: DifferentiableClip) -> Judge:
    return functools.partial(log_probability, clip, clip.directions(TEMPLATES, ("ring", "square", "star")))


def guide_of(tiny: Pipeline, judge: Judge, **changes: Any) -> ClassifierGuide:
    return ClassifierGuide(judge, decoder(tiny), settings(**changes))


def given(tiny: Pipeline) -> Conditioning:
    texts = ["abc ring", "one star"]
    states, null = (tiny.encode_text(t).double() for t in (texts, [""] * 2))
    return Conditioning(states, null, 3.0, tuple(texts), SEEDS)


def predictor(tiny: Pipeline, step: Step, text: Conditioning) -> Any:
    def predict(latents: torch.Tensor) -> Prediction:
        null, prompt = (
            tiny.unet(latents.double(), step.timestep, encoder_hidden_states=states).sample
            for states in (text.null, text.prompt)
        )
        return Prediction(prompt, null, text.guidance, {}, 2)

    return predict


STEP = Step(0, 401, Level.of(0.4), Level.of(0.5))


def one_step(
    tiny: Pipeline, guide: ClassifierGuide, step: Step = STEP
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The latents, the prediction under classifier-free guidance, and what the guide makes of it."""
    text = given(tiny)
    latents = initial_noise(SEEDS, (4, 8, 8)).double() * 0.7
    predict = predictor(tiny, step, text)
    guide.begin(text, [step.timestep])
    seen = guide.before_step(latents, step, predict)
    assert seen is latents
    with torch.no_grad():
        prediction = predict(latents)
    return latents, prediction.guided, guide.guide(prediction.guided, prediction, step)


@pytest.mark.parametrize("gradient", ["prediction", "full"])
def test_a_guided_step_is_that_of_the_published_formula(
    gradient: str, tiny: Pipeline, clip: DifferentiableClip
) -> None:
    """Algorithm 2 of arXiv 2105.05233 with p read off the clean estimate, written out without the tool's own parts."""
    latents, plain, guided = one_step(
        tiny, guide_of(tiny, judge_of(clip), gradient=gradient, normalise="none", scale=7.0)
    )
    abar, text = torch.tensor(0.4, dtype=torch.float64), given(tiny)
    network = clip._network
    rows = []
    for phrase in ("ring", "square", "star"):
        ids = clip._tokenizer([f"a {phrase}", f"one {phrase}"], padding=True, return_tensors="pt")
        each = network.get_text_features(**ids)
        each = each.pooler_output if hasattr(each, "pooler_output") else each
        mean = (each / each.norm(dim=1, keepdim=True)).mean(0)
        rows.append(mean / mean.norm())
    expected = []
    for row in range(2):
        x = latents[row : row + 1].float().requires_grad_(True)
        if gradient == "full":
            own = [
                tiny.unet(x.double(), 401, encoder_hidden_states=states[row : row + 1]).sample
                for states in (text.null, text.prompt)
            ]
            eps = own[0] + 3.0 * (own[1] - own[0])
        else:
            eps = plain[row : row + 1]
        clean = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
        picture = tiny.vae.decode(clean / tiny.vae.config["scaling_factor"]).sample.clamp(-1, 1)
        values = (picture / 2 + 0.5 - 0.5) / 0.4
        pictured = network.get_image_features(pixel_values=values)
        pictured = pictured.pooler_output if hasattr(pictured, "pooler_output") else pictured
        cosines = (pictured / pictured.norm()) @ torch.stack(rows).T
        log_p = torch.log(torch.softmax(network.logit_scale.exp() * cosines, 1)[0, 0])
        (g,) = torch.autograd.grad(log_p, x)
        expected.append(plain[row : row + 1] - 7.0 * (1 - abar).sqrt() * g)
    assert not torch.allclose(guided, plain, atol=1e-3)
    torch.testing.assert_close(guided, torch.cat(expected), rtol=1e-4, atol=1e-6, check_dtype=False)


def test_normalised_steps_have_the_share_of_the_predicted_noise(tiny: Pipeline, clip: DifferentiableClip) -> None:
    _, plain, guided = one_step(tiny, guide_of(tiny, judge_of(clip), scale=0.3))
    moved, length = (guided - plain).flatten(1), plain.flatten(1).norm(dim=1)
    torch.testing.assert_close(moved.norm(dim=1), 0.3 * length, rtol=1e-5, atol=0, check_dtype=False)
    _, _, formula = one_step(tiny, guide_of(tiny, judge_of(clip), normalise="none"))
    assert torch.cosine_similarity(moved, (formula - plain).flatten(1)).min() > 0.9999


@pytest.mark.parametrize("normalise", ["prediction", "none"])
def test_the_control_takes_as_long_a_step_elsewhere(normalise: str, tiny: Pipeline, clip: DifferentiableClip) -> None:
    judge = judge_of(clip)
    _, plain, guided = one_step(tiny, guide_of(tiny, judge, normalise=normalise))
    _, _, random = one_step(tiny, guide_of(tiny, judge, normalise=normalise, direction="random"))
    own, other = (guided - plain).flatten(1), (random - plain).flatten(1)
    torch.testing.assert_close(other.norm(dim=1), own.norm(dim=1), rtol=1e-5, atol=0, check_dtype=False)
    assert torch.cosine_similarity(own, other).abs().max() < 0.4
    assert torch.cosine_similarity(other[:1], other[1:]).abs() < 0.4


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "flow"])
def test_every_kind_of_prediction_has_its_noise_shifted(kind: Kind) -> None:
    level = Level(0.3, 0.7) if kind == "flow" else Level.of(0.3)
    latents, prediction, shift = (initial_noise([n], (4, 8, 8)) for n in range(3))
    moved = noise_of(kind, level, latents, shifted(kind, level.signal, prediction, shift))
    torch.testing.assert_close(moved, noise_of(kind, level, latents, prediction) - shift, rtol=1e-4, atol=1e-5)


def test_a_step_at_noise_alone_or_outside_the_window_is_left_alone(tiny: Pipeline, clip: DifferentiableClip) -> None:
    for changes, step in (
        ({"window": (400, 0)}, STEP),
        ({"window": (1000, 402), "gradient": "full"}, STEP),
        ({"gradient": "full"}, Step(0, 1000, Level(0.0, 1.0), Level(0.1, 0.9), "flow")),
    ):
        guide = guide_of(tiny, judge_of(clip), **changes)
        _, plain, guided = one_step(tiny, guide, step)
        assert torch.equal(guided, plain)
        assert {report.unet_calls for report in guide.report()} == {0}
        assert all("no step was steered" in str(why_unassessed(report)) for report in guide.report())


def test_a_gradient_that_is_not_finite_leaves_the_case_unassessed(tiny: Pipeline, clip: DifferentiableClip) -> None:
    plain_judge = judge_of(clip)

    def broken(images: torch.Tensor) -> torch.Tensor:
        return plain_judge(images) * images.new_tensor([1.0, torch.nan])

    guide = guide_of(tiny, broken)
    _, plain, guided = one_step(tiny, guide)
    first, second = guide.report()
    assert why_unassessed(first) is None and first.timesteps == (401,)
    assert "gradient is not finite at timestep 401" in str(why_unassessed(second))
    assert torch.equal(guided[1], plain[1]) and not torch.equal(guided[0], plain[0])


def test_a_guide_that_sees_nothing_in_any_picture_has_not_steered(tiny: Pipeline) -> None:
    guide = guide_of(tiny, lambda images: 0.0 * images.flatten(1).sum(1))
    _, plain, guided = one_step(tiny, guide)
    assert torch.equal(guided, plain)
    assert all("no step was steered" in str(why_unassessed(report)) for report in guide.report())


REF = resolve_model("testbed/energy")


def sampled(
    backbone: Pipeline, texts: Sequence[str], seeds: Sequence[int], guards: Sequence[Guard] = (), **changes: Any
) -> Sampled:
    own = settings(templates=("a photo of a {phrase}",), **changes)
    guide = build(own, REF, "cpu", decoder(backbone))
    start = initial_noise(seeds, backbone.latent_shape)
    text = conditioning(backbone, texts, 3.0, seeds)
    return sample(noise_model(backbone.unet), backbone.schedule(5), start, text, [*guards, guide])


@pytest.mark.parametrize(
    "changes", [{}, {"gradient": "full"}, {"views": 2}, {"direction": "random", "gradient": "full"}]
)
def test_a_picture_does_not_depend_on_its_batch(changes: dict[str, Any], tiny_folder: Any) -> None:
    backbone = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))
    texts = ["a ring", "no moon"]
    together = sampled(backbone, texts, SEEDS, **changes)
    assert torch.isfinite(together.latents).all()
    for row in range(2):
        alone = sampled(backbone, texts[row : row + 1], SEEDS[row : row + 1], **changes)
        torch.testing.assert_close(alone.latents, together.latents[row : row + 1], rtol=1e-3, atol=1e-3)
    calls = 10 if changes == {"gradient": "full"} else 0
    assert [reports[0].unet_calls for reports in together.reports] == [calls, calls]


@pytest.mark.parametrize("write", [write_sd2, write_sd3])
def test_networks_that_predict_velocities_are_guided_too(write: Callable[[Path], Path], tmp_path: Path) -> None:
    backbone = load_pipeline(resolve_model(str(write(tmp_path / "family"))), torch.device("cpu"))
    texts = ["a ring", "no moon"]
    made = {scale: sampled(backbone, texts, SEEDS, scale=scale) for scale in (1e-9, 0.2)}
    assert all(torch.isfinite(one.latents).all() for one in made.values())
    assert not torch.allclose(made[1e-9].latents, made[0.2].latents, atol=0.05)
    assert all(why_unassessed(report) is None for (report,) in made[0.2].reports)


@pytest.mark.slow
def test_it_brings_back_what_prompts_and_random_steps_do_not() -> None:
    models, seeds, text = OnDisk("esd-x-ring"), list(range(16)), "a photo of a ring"
    against = ("circle", "moon", "square", "star", "triangle", "cross", "heart", "diamond", "hexagon")
    found = {}
    for direction in ("gradient", "random", "none"):
        guards = []
        if direction != "none":
            own = settings(against=against, templates=("a photo of a {phrase}",), views=4, direction=direction)
            guards = [build(own, REF, "cpu", decoder(models.pipeline))]
        schedule, network = models.pipeline.schedule(20), models.noise_model("esd-x")
        found[direction] = hits(models.pipeline, network, text, "ring", seeds, schedule, guards)
    assert found["gradient"] >= 4 and max(found["random"], found["none"]) <= 2, found
