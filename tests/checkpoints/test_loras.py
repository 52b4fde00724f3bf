"""An eraser's LoRA is read as a checkpoint in every layout that trainings write, and fused without anybody's hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FluxTransformer2DModel, SD3Transformer2DModel, StableDiffusionXLPipeline, UNet2DConditionModel
from diffusers.utils.state_dict_utils import convert_unet_state_dict_to_peft
from safetensors.torch import save_file

from audit.checkpoints import apply_artefact, backbone_files, recognise
from audit.checkpoints.inspection import inspect
from audit.checkpoints.lora_files import lora_artefact
from audit.checkpoints.tensors import BackboneTensors, in_memory
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.diffusion.schedulers import DiffusersSolver
from audit.errors import CheckpointError
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.families import LAYOUTS
from audit.weights.references import ModelRef, resolve_model
from audit.weights.schedulers import AS_PIPELINE, choose, own_scheduler
from tests.attacks import loras
from tests.checkpoints.files import State, spm_state
from tests.original_layouts import LDM_PREFIX, ldm_names
from tests.tiny_families import write_sdxl

NAMES = (loras.diffusers_name, loras.peft_name, loras.processor_name, loras.bare_name, loras.kohya_name)


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


def state_of(pipeline: Pipeline) -> State:
    return dict(pipeline.unet.state_dict())


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.__name__)
def test_a_lora_of_any_layout_changes_the_weights_by_its_products(
    name: loras.Name, tiny: Pipeline, tmp_path: Path
) -> None:
    before = state_of(tiny)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({n: t.contiguous() for n, t in loras.lora_state(before, name).items()}, path)
    for named in (path, tmp_path):
        after = apply_artefact(tiny, str(named)).unet.state_dict()
        for module, (down, up) in loras.pairs(before).items():
            weight = f"{module}.weight"
            torch.testing.assert_close(after[weight], before[weight] + up @ down)
        rest = set(before) - {f"{module}.weight" for module in loras.pairs(before)}
        assert all(torch.equal(after[n], before[n]) for n in rest)
    assert all(torch.equal(tensor, before[n]) for n, tensor in tiny.unet.state_dict().items())


def test_pefts_folder_is_read_with_the_strength_of_its_configuration(tiny: Pipeline, tmp_path: Path) -> None:
    before = state_of(tiny)
    halves = {n.removeprefix("unet."): t for n, t in loras.lora_state(before, loras.peft_name).items()}
    after = apply_artefact(tiny, str(loras.write_peft(tmp_path / "peft", halves, lora_alpha=6))).unet.state_dict()
    module, (down, up) = next(iter(loras.pairs(before).items()))
    expected = before[f"{module}.weight"] + (6 / loras.RANK) * up @ down
    torch.testing.assert_close(after[f"{module}.weight"], expected)


def test_what_inspect_says_of_a_lora(tiny: Pipeline, tiny_folder: Path, tmp_path: Path) -> None:
    path = loras.write_lora(tmp_path / "erased.safetensors", state_of(tiny))
    found = inspect(resolve_checkpoint(str(path)), resolve_model(str(tiny_folder)), "eraseflow")
    assert found["warnings"] == [] and found["facts"]["layout"] == "lora"
    settings = found["facts"]["settings"]
    assert isinstance(settings, dict) and settings["ranks"] == [loras.RANK]
    other = inspect(resolve_checkpoint(str(path)), resolve_model(str(tiny_folder)), "uce")["warnings"]
    assert any("uce does not write that" in warning for warning in other)


def test_kohyas_names_without_metadata_are_said_to_lack_spms(backbone: ModelRef, unet: State, folder: Path) -> None:
    save_file(spm_state(unet), folder / "a.safetensors")
    artefact = recognise(resolve_checkpoint(str(folder / "a.safetensors")), backbone_files(backbone))
    assert artefact.layout.name == "lora" and "an SPM that lost its metadata" in artefact.notes[0]


def sd3() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return SD3Transformer2DModel(
            sample_size=8, patch_size=1, in_channels=4, num_layers=2, attention_head_dim=4, num_attention_heads=2,
            caption_projection_dim=8, joint_attention_dim=16, pooled_projection_dim=8, out_channels=4, pos_embed_max_size=8,
        )  # fmt: skip


def flux() -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FluxTransformer2DModel(
            in_channels=4, num_layers=1, num_single_layers=1, attention_head_dim=4, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=8, axes_dims_rope=(2, 2, 2),
        )  # fmt: skip


def transformer_lora(transformer: torch.nn.Module, prefix: str = "transformer.") -> State:
    """The names that diffusers' `save_lora_weights` of a transformer pipeline writes."""
    generator = torch.Generator().manual_seed(1)
    state: State = {}
    for name, weight in transformer.state_dict().items():
        if ".attn." in name and name.endswith(".weight") and weight.dim() == 2:
            module = prefix + name.removesuffix(".weight")
            state[f"{module}.lora_A.weight"] = torch.randn(2, weight.shape[1], generator=generator)
            state[f"{module}.lora_B.weight"] = torch.randn(weight.shape[0], 2, generator=generator)
    return state


@pytest.mark.parametrize("make", [sd3, flux])
@pytest.mark.parametrize("prefix", ["transformer.", ""])
def test_a_transformers_lora_is_read_by_the_names_of_a_transformer(
    make: Callable[[], torch.nn.Module], prefix: str
) -> None:
    transformer = make()
    before, lora = transformer.state_dict(), transformer_lora(transformer, prefix)
    assert any(name.startswith(f"{prefix}transformer_blocks.0.attn.add_k_proj.lora_A") for name in lora)
    metadata = {"lora_adapter_metadata": '{"transformer.lora_alpha": 4}'}
    artefact = lora_artefact(in_memory(lora), metadata, BackboneTensors(in_memory(before), {}), "a.safetensors")
    assert len(artefact.unet) == len(lora) // 2
    for name, tensor in artefact.unet.items():
        module = prefix + name.removesuffix(".weight")
        product = lora[f"{module}.lora_B.weight"] @ lora[f"{module}.lora_A.weight"]
        torch.testing.assert_close(tensor.load(), before[name] + 2 * product)


def named(**names: tuple[int, ...]) -> State:
    return {name.replace("__", "."): torch.ones(shape) for name, shape in names.items()}


OTHERS: dict[str, tuple[Callable[[], State], str]] = {
    "a LoRA of a transformer": (lambda: transformer_lora(sd3()), "made for a transformer .*denoiser is a UNet"),
    "PEFT's of a transformer": (
        lambda: transformer_lora(sd3(), "base_model.model."),
        "made for a transformer .*denoiser is a UNet",
    ),
    "a whole transformer": (lambda: dict(sd3().state_dict()), "made for a transformer .*denoiser is a UNet"),
    "Flux by its authors' names": (
        lambda: named(double_blocks__0__img_attn__qkv__weight=(24, 8)),
        "made for a transformer .*denoiser is a UNet",
    ),
    "kohya's of Flux": (
        lambda: named(lora_unet_double_blocks_0_img_attn_qkv__lora_down__weight=(2, 8)),
        "made for a transformer .*denoiser is a UNet",
    ),
    "kohya's of SDXL": (
        lambda: named(lora_te2_text_model_encoder_layers_0_mlp_fc1__lora_down__weight=(2, 8)),
        "second text encoder .*as of SDXL",
    ),
    "a LoRA of SD 2.x": (
        lambda: {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": torch.ones(2, 1024),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": torch.ones(8, 2),
        },
        "made for Stable Diffusion 2.x",
    ),
    "an untrained LoRA": (
        lambda: {
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.weight": torch.ones(2, 16),
            "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_B.weight": torch.zeros(8, 2),
        },
        "the LoRA cannot be used: the LoRA changes nothing",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_file_of_another_family_is_refused_by_its_name(name: str, tiny: Pipeline, tmp_path: Path) -> None:
    make, message = OTHERS[name]
    save_file({n: t.contiguous() for n, t in make().items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        apply_artefact(tiny, str(tmp_path / "a.safetensors"))
    assert caught.value.next_step and caught.value.where


def test_the_backbones_that_a_misfit_points_to_are_those_of_every_family(tiny: Pipeline, tmp_path: Path) -> None:
    save_file(OTHERS["a LoRA of SD 2.x"][0](), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        apply_artefact(tiny, str(tmp_path / "a.safetensors"))
    assert all(layout.title in str(caught.value.next_step) for layout in LAYOUTS.values())


def test_a_lora_of_a_unet_is_refused_for_a_transformer(tiny: Pipeline) -> None:
    lora = loras.lora_state(state_of(tiny))
    with pytest.raises(CheckpointError, match=r"made for a UNet .*denoiser is a transformer"):
        lora_artefact(in_memory(lora), {}, BackboneTensors(in_memory(sd3().state_dict()), {}), "a.safetensors")


def test_a_pipeline_folder_of_a_transformer_is_no_unet(tiny: Pipeline, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    (tmp_path / "transformer").mkdir()
    save_file(dict(sd3().state_dict()), tmp_path / "transformer" / "diffusion_pytorch_model.safetensors")
    for folder in (tmp_path, tmp_path / "transformer"):
        with pytest.raises(CheckpointError, match="made for a transformer"):
            apply_artefact(tiny, str(folder))


def test_several_loras_in_a_folder_are_no_clear_checkpoint(tiny: Pipeline, tmp_path: Path) -> None:
    for name in ("a", "b"):
        loras.write_lora(tmp_path / name / "pytorch_lora_weights.safetensors", state_of(tiny))
    with pytest.raises(CheckpointError, match="not clear which is the checkpoint"):
        apply_artefact(tiny, str(tmp_path))


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    folder = write_sdxl(tmp_path_factory.mktemp("sdxl") / "pipeline")
    return load_pipeline(resolve_model(str(folder)), torch.device("cpu"))


def kohya_sdxl(unet: State) -> State:
    """A LoRA of every linear layer and convolution of SDXL's UNet as kohya's scripts write it, each with an alpha of 1."""
    generator = torch.Generator().manual_seed(2)
    state: State = {}
    for name, ours in ldm_names(unet).items():
        weight = unet[ours]
        if name.endswith(".weight") and weight.dim() > 1:
            flat = name.removeprefix(LDM_PREFIX).removesuffix(".weight").replace(".", "_")
            out, into, *kernel = weight.shape
            state[f"lora_unet_{flat}.lora_down.weight"] = torch.randn(2, into, *kernel, generator=generator)
            state[f"lora_unet_{flat}.lora_up.weight"] = torch.randn(out, 2, *[1] * len(kernel), generator=generator)
            state[f"lora_unet_{flat}.alpha"] = torch.tensor(1.0)
    return state


def fused_by_diffusers(path: Path, pipe: StableDiffusionXLPipeline) -> State:
    """The UNet's weights with the products of the pairs that diffusers reads in a file, by the names that it gives them."""
    state, alphas = pipe.lora_state_dict(path, unet_config=pipe.unet.config)
    pairs = convert_unet_state_dict_to_peft({name.removeprefix("unet."): tensor for name, tensor in state.items()})
    scale = 1 / 2 if alphas else 1.0
    assert not alphas or (set(alphas.values()), len(alphas)) == ({1.0}, len(pairs) // 2)
    fused = dict(pipe.unet.state_dict())
    for name, down in pairs.items():
        module, mark, _ = name.partition(".lora_A.")
        if mark:
            up, weight = pairs[f"{module}.lora_B.weight"], fused[f"{module}.weight"]
            added = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            fused[f"{module}.weight"] = weight + scale * added
    return fused


@pytest.mark.parametrize("name", [loras.diffusers_name, loras.peft_name, None], ids=["diffusers", "PEFT", "kohya"])
def test_a_lora_of_sdxls_unet_acts_as_the_weights_that_diffusers_fuses(
    name: loras.Name | None, sdxl: Pipeline, tmp_path: Path
) -> None:
    before = state_of(sdxl)
    state = kohya_sdxl(before) if name is None else loras.lora_state(before, name)
    path = tmp_path / "pytorch_lora_weights.safetensors"
    said = {"ss_base_model_version": "sdxl_base_v1-0", "modelspec.architecture": "stable-diffusion-xl-v1-base/lora"}
    save_file({n: t.contiguous() for n, t in state.items()}, path, said)
    pipe = StableDiffusionXLPipeline.from_pretrained(sdxl.ref.path)
    pipe.set_progress_bar_config(disable=True)
    expected = fused_by_diffusers(path, pipe)
    changed = {n for n in before if not torch.equal(before[n], expected[n])}
    assert len(changed) == len(state) // (3 if name is None else 2)
    erased = apply_artefact(sdxl, str(path))
    after = erased.unet.state_dict()
    assert {n for n in before if not torch.equal(before[n], after[n])} == changed
    for n in changed:
        torch.testing.assert_close(after[n], expected[n])
    pipe.unet.load_state_dict(expected)
    latents, texts = initial_noise([3], sdxl.latent_shape), ("a ring",)
    theirs = pipe(list(texts), num_inference_steps=2, guidance_scale=5.0, latents=latents, output_type="latent").images
    given = Conditioning(sdxl.encode_text(texts), sdxl.encode_text([""]), 5.0, texts, (3,))

    def pixels(unet: UNet2DConditionModel) -> torch.Tensor:
        solver = DiffusersSolver(choose(own_scheduler(sdxl.ref.path), AS_PIPELINE), 2, (3,), sdxl.latent_shape)
        return (sdxl.decode_latents(sample(noise_model(unet), solver, latents, given).latents) + 1) * 127.5

    ours, bare = pixels(erased.unet), pixels(sdxl.unet)
    assert (ours - (sdxl.decode_latents(theirs) + 1) * 127.5).abs().max() <= 1.0
    assert (ours - bare).abs().max() > 1.0


@pytest.mark.parametrize(
    "name",
    [
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.lora_down.weight",
        "text_encoder_2.text_model.encoder.layers.0.mlp.fc1.lora_A.weight",
    ],
)
def test_a_lora_of_sdxls_text_encoders_is_refused_without_calling_it_another_familys(
    name: str, sdxl: Pipeline, tmp_path: Path
) -> None:
    state = {**loras.lora_state(state_of(sdxl)), name: torch.ones(2, 8)}
    save_file({n: t.contiguous() for n, t in state.items()}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError) as caught:
        apply_artefact(sdxl, str(tmp_path / "a.safetensors"))
    assert f"changes text encoders of SDXL too ({name}), which is not supported" in caught.value.what
    assert "a LoRA of the UNet alone, or fuse this one with diffusers" in str(caught.value.next_step)


def test_a_lora_whose_header_names_another_family_is_refused_on_sdxl(sdxl: Pipeline, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    state = {n: t.contiguous() for n, t in loras.lora_state(state_of(sdxl)).items()}
    for base, family in (("sd_v1", r"Stable Diffusion 1\.x"), ("flux1", "Flux"), ("kolors", "another model")):
        save_file(state, path, {"ss_base_model_version": base})
        with pytest.raises(CheckpointError, match=f"it was trained on {family}, says its header") as caught:
            apply_artefact(sdxl, str(path))
        assert "this backbone's family, SDXL" in str(caught.value.next_step)
