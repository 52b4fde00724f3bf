"""Every family's pictures are those of diffusers' own pipeline on the same latents."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline
from diffusers.models.transformers import transformer_flux

from audit.corpus.images import psnr
from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.guard import Conditioning
from audit.diffusion.inversion import invert
from audit.diffusion.pipeline import Pipeline, check_weights, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.errors import CheckpointError
from audit.testbed.flow_card import INVERSION_STEPS, PASSES, TOLERANCE
from audit.testbed.scenes import sample_scene
from audit.weights.references import pipeline_family, resolve_model
from tests.tiny_families import WRITERS, write_flux, write_sd3

PROMPTS = ["a ring", "no moon"]
STEPS = 4


@pytest.fixture(scope="module", params=[*WRITERS, "sd3-without-t5", "flux-schnell"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("families") / request.param
    if request.param == "sd3-without-t5":
        return write_sd3(where, t5=False)
    if request.param == "flux-schnell":
        return write_flux(where, guided=False)
    return WRITERS[request.param](where)


@pytest.fixture(scope="module")
def backbone(folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(folder)), torch.device("cpu"))


def start(backbone: Pipeline) -> torch.Tensor:
    """Two latents of the 8 x 8 of the tiny pipelines; Flux's configuration names no size."""
    return initial_noise([3, 4], (backbone.latent_shape[0], 8, 8))


def ours(backbone: Pipeline, latents: torch.Tensor, guidance: float) -> torch.Tensor:
    states, null = backbone.encode_text(PROMPTS), backbone.encode_text([""] * 2)
    conditioning = Conditioning(states, null, 1.0 if backbone.distilled else guidance, tuple(PROMPTS), (3, 4))
    model = noise_model(backbone.unet, guidance)
    done = sample(model, backbone.schedule(STEPS, (8, 8)), latents, conditioning)
    return backbone.decode_latents(done.latents)


def theirs(folder: Path, backbone: Pipeline, latents: torch.Tensor, guidance: float) -> torch.Tensor:
    given: dict[str, object] = (
        {"safety_checker": None, "requires_safety_checker": False} if backbone.family == "sd2" else {}
    )
    if backbone.t5 is not None and backbone.t5.encoder is None:
        given = {"text_encoder_3": None, "tokenizer_3": None}
    pipe = DiffusionPipeline.from_pretrained(folder, **given)
    pipe.set_progress_bar_config(disable=True)
    if backbone.family in ("sd2", "sdxl"):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, set_alpha_to_one=False, clip_sample=False)
    if backbone.family == "flux":
        latents = pipe._pack_latents(latents, len(latents), 16, 8, 8)
    out = pipe(
        prompt=PROMPTS,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        latents=latents,
        output_type="pt",
        height=16,  # the cut-down VAEs halve a side once
        width=16,
    ).images
    return out * 2 - 1


def test_a_folder_is_recognised_and_loaded_strictly(folder: Path, backbone: Pipeline) -> None:
    assert folder.name.startswith(backbone.family)
    assert pipeline_family(backbone.ref) == backbone.family
    check_weights(backbone.ref)


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_pictures_are_those_of_diffusers(folder: Path, backbone: Pipeline, guidance: float) -> None:
    latents = start(backbone)
    difference = (ours(backbone, latents, guidance) - theirs(folder, backbone, latents, guidance)).abs().max() / 2
    assert float(difference) <= 1 / 255, float(difference) * 255


def test_inversion_goes_there_and_back(backbone: Pipeline) -> None:
    clean = 0.5 * start(backbone)
    states = backbone.encode_text(PROMPTS)
    schedule, model = backbone.schedule(10, (8, 8)), noise_model(backbone.unet)
    up = invert(model, schedule, clean, states, passes=40, tolerance=1e-6)
    down = sample(model, schedule, up.latents, Conditioning(states, states, 1.0, tuple(PROMPTS)))
    assert float(up.residual_max.max()) < 1e-3
    assert float((down.latents - clean).norm() / clean.norm()) < 1e-2


def test_joint_attention_is_seen_without_changing_the_prediction(tmp_path: Path) -> None:
    """Against the same softmax taken from the layer's inputs, head by head."""
    backbone = load_pipeline(resolve_model(str(write_sd3(tmp_path / "sd3", t5=False))), torch.device("cpu"))
    latents, states = start(backbone), backbone.encode_text(PROMPTS)
    layer = backbone.unet.get_submodule("transformer_blocks.1.attn")
    given: dict[str, torch.Tensor] = {}
    layer.register_forward_pre_hook(lambda module, args, kwargs: given.update(kwargs), with_kwargs=True)
    with torch.no_grad():
        plain = noise_model(backbone.unet)(latents, 500.0, states)
        with CrossAttentionMaps(backbone.unet, None) as captured:
            seen = noise_model(backbone.unet)(latents, 500.0, states)
        assert torch.equal(plain, seen)
        image, text = given["hidden_states"], given["encoder_hidden_states"]
        query = layer.norm_q(layer.to_q(image).view(2, 16, 2, 8))
        keys = [
            layer.norm_k(layer.to_k(image).view(2, 16, 2, 8)),
            layer.norm_added_k(layer.add_k_proj(text).view(2, -1, 2, 8)),
        ]
        scores = torch.einsum("bqhd,bkhd->bhqk", query, torch.cat(keys, 1)) / 8**0.5
        expected = scores.softmax(-1)[..., 16:].mean(1)
    assert set(captured.maps) == {"transformer_blocks.0.attn", "transformer_blocks.1.attn"}
    assert torch.allclose(captured.maps["transformer_blocks.1.attn"].flatten(1, 2), expected, atol=1e-6)


def test_flux_s_attention_is_seen_without_changing_the_prediction(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the softmax of the queries and keys that diffusers itself multiplies, in both kinds of blocks."""
    backbone = load_pipeline(resolve_model(str(write_flux(tmp_path / "flux"))), torch.device("cpu"))
    latents, states = start(backbone), backbone.encode_text(PROMPTS)
    multiplied: list[tuple[torch.Tensor, torch.Tensor]] = []

    def recorded(query: torch.Tensor, key: torch.Tensor, *rest: torch.Tensor, **more: object) -> torch.Tensor:
        multiplied.append((query, key))
        return dispatch(query, key, *rest, **more)

    dispatch = transformer_flux.dispatch_attention_fn
    monkeypatch.setattr(transformer_flux, "dispatch_attention_fn", recorded)
    with torch.no_grad():
        plain = noise_model(backbone.unet)(latents, 500.0, states)
        multiplied.clear()
        with CrossAttentionMaps(backbone.unet, None) as captured:
            seen = noise_model(backbone.unet)(latents, 500.0, states)
        assert torch.equal(plain, seen)
        assert torch.equal(noise_model(backbone.unet)(latents, 500.0, states), plain)
    text, image = states.shape[1] - 1, 16
    assert list(captured.maps) == ["transformer_blocks.0.attn", "single_transformer_blocks.0.attn"]
    for maps, (query, key) in zip(captured.maps.values(), multiplied, strict=False):
        assert query.shape == (2, text + image, 2, 16)  # the text stands first
        scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / 16**0.5
        expected = scores.softmax(-1)[:, :, text:, :text].mean(1)
        assert maps.shape == (2, 4, 4, text)
        assert torch.allclose(maps.flatten(1, 2), expected, atol=1e-6)
        assert float(maps.std()) > 0


def test_a_folder_without_its_t5_says_how_to_do_without(tmp_path: Path) -> None:
    folder = write_sd3(tmp_path / "sd3")
    shutil.rmtree(folder / "text_encoder_3")
    with pytest.raises(CheckpointError, match="set text_encoder_3 and tokenizer_3 to"):
        resolve_model(str(folder))


def test_half_of_a_t5_and_one_of_another_width_are_named(tmp_path: Path) -> None:
    folder = write_sd3(tmp_path / "sd3")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "tokenizer_3": [None, None]}))
    with pytest.raises(CheckpointError, match="text_encoder_3 and tokenizer_3 without the other"):
        pipeline_family(resolve_model(str(folder)))
    (folder / "model_index.json").write_text(json.dumps(index))
    settings = json.loads((folder / "text_encoder_3" / "config.json").read_text())
    (folder / "text_encoder_3" / "config.json").write_text(json.dumps({**settings, "d_model": 8}))
    with pytest.raises(CheckpointError, match="has a T5 of width 8, and its transformer's joint_attention_dim is"):
        pipeline_family(resolve_model(str(folder)))


def test_flux_without_t5_is_refused(tmp_path: Path) -> None:
    folder = write_flux(tmp_path / "flux")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps({**index, "text_encoder_2": [None, None]}))
    with pytest.raises(CheckpointError, match=r"no text_encoder_2 .* T5 is what Flux reads prompts with"):
        pipeline_family(resolve_model(str(folder)))


def test_a_quantised_transformer_is_refused_by_name(tmp_path: Path) -> None:
    folder = write_sd3(tmp_path / "sd3", t5=False)
    path = folder / "transformer" / "config.json"
    path.write_text(
        json.dumps({**json.loads(path.read_text()), "quantization_config": {"quant_method": "bitsandbytes"}})
    )
    with pytest.raises(CheckpointError, match="quantization_config"):
        pipeline_family(resolve_model(str(folder)))


def test_scenes_come_back_through_the_testbed_s_own_flow() -> None:
    """The card measures 64 scenes against the same goals: residual below 1e-3, and more than 35 dB."""
    backbone = load_pipeline(resolve_model("testbed/sd3"), torch.device("cpu"))
    scenes = torch.stack([torch.from_numpy(sample_scene("audit", i).image) for i in range(2)])
    clean = backbone.encode_images(scenes.permute(0, 3, 1, 2).float() / 127.5 - 1)
    model, schedule, null = (
        noise_model(backbone.unet),
        backbone.schedule(INVERSION_STEPS),
        backbone.encode_text([""] * 2),
    )
    up = invert(model, schedule, clean, null, passes=PASSES, tolerance=TOLERANCE)
    down = sample(model, schedule, up.latents, Conditioning(null, null, 1.0, ("",) * 2))
    before, after = (backbone.decode_latents(latents).numpy() for latents in (clean, down.latents))
    assert float(up.residual_max.max()) < 1e-3
    assert all(psnr(*pair, peak=2.0) > 35.0 for pair in zip(before, after, strict=True))
