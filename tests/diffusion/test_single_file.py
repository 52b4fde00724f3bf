"""A pipeline in its authors' single file is the pipeline of its folder, tensor by tensor; anything else is refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.loaders.single_file_utils import convert_flux_transformer_checkpoint_to_diffusers
from safetensors.torch import save_file

from audit.checkpoints import apply_artefact, backbone_files
from audit.diffusion.denoisers import PackedTransformer
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, check_weights, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.diffusion.strict_loading import diffusers_layout
from audit.errors import CheckpointError
from audit.plan.backbone_shape import shape_of
from audit.storage.journal import Journal
from audit.weights import sharing
from audit.weights.references import ModelRef, component_files, pipeline_family, resolve_model, shared_model
from tests.diffusion.test_full_size import FLUX_DEV
from tests.original_layouts import State, flux, joint, read, unet, vae, whole, write_single_file
from tests.tiny import write_pipeline
from tests.tiny_families import write_flux, write_sd2, write_sd3, write_sdxl

FAMILIES: dict[str, Callable[[Path], Path]] = {
    "sd1": write_pipeline,
    "sd2": write_sd2,
    "sdxl": write_sdxl,
    "sd3": lambda folder: write_sd3(folder, projected=False),
    "flux": write_flux,
}
CLASSES = {
    "sd1": diffusers.StableDiffusionPipeline,
    "sdxl": diffusers.StableDiffusionXLPipeline,
    "sd3": diffusers.StableDiffusion3Pipeline,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("single")
    return {family: write(root / family) for family, write in FAMILIES.items()}


def settings_of(folder: Path, to: Path) -> Path:
    """A copy of a folder without its weights."""
    return Path(shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.safetensors")))


@pytest.fixture
def sd1(folders: dict[str, Path], tmp_path: Path) -> tuple[State, Path]:
    """The tensors of a Stable Diffusion 1 file, and a config folder for them."""
    return whole(folders["sd1"], "sd1"), settings_of(folders["sd1"], tmp_path / "settings")


def saved(state: State, file: Path) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


def loaded(reference: str) -> Pipeline:
    ref = resolve_model(reference)
    check_weights(ref)
    return load_pipeline(ref, torch.device("cpu"))


def parts(pipeline: Pipeline) -> State:
    modules = {"unet": pipeline.unet, "vae": pipeline.vae, "text": pipeline.text_encoder}
    if pipeline.second is not None:
        modules["second"] = pipeline.second.encoder
    if pipeline.t5 is not None and pipeline.t5.encoder is not None:
        modules["t5"] = pipeline.t5.encoder
    return {
        f"{part}.{name}": tensor for part, module in modules.items() for name, tensor in module.state_dict().items()
    }


def picture(pipeline: Pipeline) -> torch.Tensor:
    """One picture, with weights in memory of their own: kernels round by where a tensor begins, in a mapped file anywhere."""
    for module in (
        pipeline.unet,
        pipeline.vae,
        pipeline.text_encoder,
        *(clip.encoder for clip in pipeline.encoders.clips),
    ):
        for parameter in module.parameters():
            parameter.data = parameter.data.clone()
    states, null = pipeline.encode_text(["a ring"]), pipeline.encode_text([""])
    conditioning = Conditioning(states, null, 1.0 if pipeline.distilled else 5.0, ("a ring",), (3,))
    noise = initial_noise([3], (pipeline.latent_shape[0], 8, 8))
    done = sample(noise_model(pipeline.unet, 5.0), pipeline.schedule(4, (8, 8)), noise, conditioning)
    return pipeline.decode_latents(done.latents)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_file_is_the_pipeline_of_its_folder(family: str, folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders[family]
    file = write_single_file(folder, family, tmp_path / "model.safetensors")
    single = loaded(f"{file}#config={settings_of(folder, tmp_path / 'settings')}")
    split = loaded(str(folder))
    ours, theirs = parts(single), parts(split)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(picture(single), picture(split))
    assert pipeline_family(single.ref) == family
    assert shape_of(single.ref) == shape_of(split.ref)
    inspected, known = backbone_files(single.ref), backbone_files(split.ref)
    for ours_, theirs_ in ((inspected.unet, known.unet), (inspected.text, known.text)):
        assert ours_.keys() == theirs_.keys()
        assert all(torch.equal(ours_[name].load(), theirs_[name].load()) for name in theirs_)
        assert all(ours_[name].shape == theirs_[name].shape for name in theirs_)


@pytest.mark.parametrize("family", CLASSES)
def test_the_files_of_these_tests_are_what_diffusers_reads(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    file = write_single_file(folders[family], family, tmp_path / "model.safetensors")
    config = settings_of(folders[family], tmp_path / "settings")
    pipe = CLASSES[family].from_single_file(str(file), config=str(config), local_files_only=True)
    split = parts(loaded(str(folders[family])))
    network = pipe.transformer if family == "sd3" else pipe.unet
    modules = {"unet": network, "vae": pipe.vae, "text": pipe.text_encoder}
    if family != "sd1":
        modules["second"] = pipe.text_encoder_2
    for part, module in modules.items():
        theirs = {f"{part}.{name}": tensor for name, tensor in module.state_dict().items()}
        assert theirs.keys() == {name for name in split if name.startswith(f"{part}.")}
        assert all(torch.equal(tensor, split[name]) for name, tensor in theirs.items()), part


def test_flux_at_full_size_has_the_names_and_shapes_that_diffusers_converts() -> None:
    state = dict(diffusers_layout(PackedTransformer, FLUX_DEV).state_dict())
    converted = convert_flux_transformer_checkpoint_to_diffusers(flux(state))
    assert {name: tensor.shape for name, tensor in converted.items()} == {n: t.shape for n, t in state.items()}


def test_what_the_file_lacks_comes_from_the_folder(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = folders["sd3"]
    for name, prefix in (("bare", ""), ("prefixed", "model.diffusion_model.")):
        file = saved(joint(read(folder, "transformer"), prefix), tmp_path / f"{name}.safetensors")
        ref = resolve_model(f"{file}#config={folder}")
        assert {Path(part).parts[0] for part in ref.files} == {
            file.name, "vae", "text_encoder", "text_encoder_2", "text_encoder_3",
        }  # fmt: skip
        assert torch.equal(picture(loaded(f"{file}#config={folder}")), picture(loaded(str(folder))))
    with pytest.raises(
        CheckpointError, match=r"neither the file bare.safetensors nor the config folder has weights of"
    ):
        resolve_model(f"{tmp_path / 'bare.safetensors'}#config={settings_of(folder, tmp_path / 'settings')}")


def test_identity_follows_the_contents_of_file_and_folder(sd1: tuple[State, Path], tmp_path: Path) -> None:
    state, config = sd1
    first = resolve_model(f"{saved(state, tmp_path / 'a.safetensors')}#config={config}")
    moved = shutil.copytree(config, tmp_path / "elsewhere")
    again = resolve_model(f"{saved(state, tmp_path / 'b.safetensors')}#config={moved}")
    assert again.sha256 == first.sha256
    assert (
        component_files(first, "unet")
        == component_files(first, "vae")
        == {"a.safetensors": first.files["a.safetensors"]}
    )
    state["model.diffusion_model.out.2.bias"] = state["model.diffusion_model.out.2.bias"] + 1
    other = resolve_model(f"{saved(state, tmp_path / 'c.safetensors')}#config={config}")
    (moved / "scheduler" / "scheduler_config.json").write_text(
        (config / "scheduler" / "scheduler_config.json").read_text().replace('"beta_end": 0.012', '"beta_end": 0.013')
    )
    assert len({first.sha256, other.sha256, resolve_model(f"{tmp_path / 'a.safetensors'}#config={moved}").sha256}) == 3


LEFT: dict[str, tuple[Callable[[State], State], str]] = {
    "a missing tensor": (
        lambda s: {n: t for n, t in s.items() if n != "model.diffusion_model.out.2.bias"},
        r"unet cannot be loaded: its weights have 1 missing keys, first conv_out.bias",
    ),
    "a tensor too many": (
        lambda s: {**s, "model.diffusion_model.input_blocks.1.9.weight": torch.ones(2)},
        r"unet cannot be loaded: its weights have 1 unexpected keys, first input_blocks.1.9.weight",
    ),
    "another shape": (
        lambda s: {**s, "first_stage_model.quant_conv.bias": torch.ones(3)},
        r"vae cannot be loaded: its weights have 1 mismatched keys, first quant_conv.bias",
    ),
    "half a text encoder": (
        lambda s: {n: t for n, t in s.items() if "transformer.text_model.encoder.layers.1." not in n},
        r"text_encoder cannot be loaded: its weights have 16 missing keys",
    ),
    "no number": (
        lambda s: {**s, "first_stage_model.quant_conv.bias": torch.full((8,), torch.nan)},
        r"vae cannot be loaded: 1 of its tensors hold numbers that are not finite",
    ),
    "a part of something else": (
        lambda s: {**s, "control_model.zero_conv.weight": torch.ones(2)},
        r"1 of the file's \d+ tensors belong to no part of the pipeline \(e.g. control_model.zero_conv.weight\)",
    ),
    "an averaged copy": (
        lambda s: {**s, "model_ema.diffusion_modelout2bias": torch.ones(4)},
        r"holds its UNet twice, as trained and averaged",
    ),
    "two VAEs": (
        lambda s: {**s, "vae.encoder.conv_in.bias": torch.ones(4)},
        r"holds two of its vae \(first_stage_model. and vae....\)",
    ),
    "no UNet": (
        lambda s: {n: t for n, t in s.items() if not n.startswith("model.")},
        "holds no UNet or transformer in the layout of",
    ),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_is_not_exactly_the_pipeline_is_refused(case: str, sd1: tuple[State, Path], tmp_path: Path) -> None:
    change, message = LEFT[case]
    file = saved(change(sd1[0]), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        loaded(f"{file}#config={sd1[1]}")


def test_the_families_of_file_and_folder_must_agree(folders: dict[str, Path], tmp_path: Path) -> None:
    file = write_single_file(folders["sd1"], "sd1", tmp_path / "sd1.safetensors")
    with pytest.raises(
        CheckpointError, match=r"the file is of Stable Diffusion 1.x or 2.x, and the config folder of SDXL"
    ):
        resolve_model(f"{file}#config={folders['sdxl']}")
    with pytest.raises(CheckpointError, match="reads text of width 16, and the config folder's of width 24"):
        resolve_model(f"{file}#config={write_pipeline(tmp_path / 'wide', cross_attention_dim=24)}")
    flux_file = write_single_file(folders["flux"], "flux", tmp_path / "flux.safetensors")
    with pytest.raises(CheckpointError, match=r"the file is of Flux, and the config folder of Stable Diffusion 3.x"):
        resolve_model(f"{flux_file}#config={folders['sd3']}")


def test_pickles_and_references_without_a_config_say_what_to_do(sd1: tuple[State, Path], tmp_path: Path) -> None:
    pickle = tmp_path / "model.ckpt"
    torch.save({"state_dict": sd1[0]}, pickle)
    with pytest.raises(CheckpointError, match="pickle") as refused:
        resolve_model(f"{pickle}#config={sd1[1]}")
    assert "safetensors" in str(refused.value.next_step)
    file = saved(sd1[0], tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="does not tell the settings") as bare:
        resolve_model(str(file))
    assert "FILE.safetensors#config=FOLDER" in str(bare.value.next_step)
    for reference, message in (
        (f"{file}#config=", "there is no such config folder"),
        (f"{file}#config=org/name@main", "there is no such config folder"),
        (f"{file}#config=org/name@{'0' * 40}", "not in the local Hugging Face cache"),
        (f"{tmp_path / 'none.safetensors'}#config={sd1[1]}", "there is no such file"),
        (f"{file}#config={tmp_path}", "neither model_index.json nor config.json"),
    ):
        with pytest.raises(CheckpointError, match=message):
            resolve_model(reference)


def test_another_machine_fetches_file_and_settings(
    sd1: tuple[State, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sharing, "_copies", {})
    reference = f"{saved(sd1[0], tmp_path / 'model.safetensors')}#config={sd1[1]}"
    here = resolve_model(reference)
    journal = Journal(str(tmp_path / "runs"))
    sharing.share(journal, "run", [(shared_model(here), here.path)])
    assert sharing.adopt(journal, "run") == []
    (tmp_path / "model.safetensors").unlink()
    shutil.rmtree(sd1[1])
    assert sharing.adopt(journal, "run") == [reference]
    there = resolve_model(reference)
    assert there.sha256 == here.sha256
    check_weights(there)


def test_an_erased_transformer_in_its_authors_layout_is_a_checkpoint(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = loaded(str(folders["sd3"]))
    state = read(folders["sd3"], "transformer")
    changed = {n: t + 0.05 if ".attn.add_k_proj." in n or ".attn.add_v_proj." in n else t for n, t in state.items()}
    for name, extra in (("only", State()), ("whole", vae(read(folders["sd3"], "vae")))):
        erased = apply_artefact(pipeline, str(saved({**joint(changed), **extra}, tmp_path / f"{name}.safetensors")))
        assert (erased.artefact.layout.name, erased.footprint.key_set) == ("original-transformer", "KV")
        assert all(torch.equal(tensor, changed[n]) for n, tensor in erased.unet.state_dict().items())


def test_an_erased_sdxl_unet_in_its_authors_layout_is_a_checkpoint(folders: dict[str, Path], tmp_path: Path) -> None:
    pipeline = loaded(str(folders["sdxl"]))
    changed = {n: t + 0.05 if ".attn2." in n else t for n, t in read(folders["sdxl"], "unet").items()}
    erased = apply_artefact(pipeline, str(saved(unet(changed), tmp_path / "unet.safetensors")))
    assert (erased.artefact.layout.name, erased.footprint.key_set) == ("ldm-full", "XATTN")
    assert all(torch.equal(tensor, changed[n]) for n, tensor in erased.unet.state_dict().items())


def test_a_file_in_half_precision_is_read(sd1: tuple[State, Path], tmp_path: Path) -> None:
    state = {n: t.half() if t.is_floating_point() else t for n, t in sd1[0].items()}
    file = saved(state, tmp_path / "fp16.safetensors")
    assert loaded(f"{file}#config={sd1[1]}").unet.dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_a_file_in_float8_is_read_as_its_numbers_unless_scales_are_beside_them(
    sd1: tuple[State, Path], tmp_path: Path, dtype: torch.dtype
) -> None:
    eight = {n: t.to(dtype) if t.is_floating_point() else t for n, t in sd1[0].items()}
    plain = {n: t.float() if t.is_floating_point() else t for n, t in eight.items()}
    found, expected = (
        loaded(f"{saved(state, tmp_path / name)}#config={sd1[1]}")
        for name, state in (("fp8.safetensors", eight), ("fp32.safetensors", plain))
    )
    for part in ("unet", "vae", "text_encoder"):
        numbers = getattr(expected, part).state_dict()
        assert all(torch.equal(t, numbers[n]) for n, t in getattr(found, part).state_dict().items())
    weight = "model.diffusion_model.out.2"
    scaled = {**eight, f"{weight}.scale_weight": torch.ones(())}
    with pytest.raises(CheckpointError, match=rf"quantised, with scales beside its weights \({weight}.scale_weight\)"):
        loaded(f"{saved(scaled, tmp_path / 'scaled.safetensors')}#config={sd1[1]}")


def test_the_testbed_may_lend_its_settings(tmp_path: Path) -> None:
    testbed: ModelRef = resolve_model("testbed")
    file = write_single_file(testbed.path, "sd1", tmp_path / "testbed.safetensors")
    single, split = loaded(f"{file}#config=testbed"), loaded("testbed")
    assert torch.equal(single.unet.state_dict()["conv_in.weight"], split.unet.state_dict()["conv_in.weight"])
