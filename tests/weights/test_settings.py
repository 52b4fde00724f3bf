"""What the audit would ignore in a backbone's settings is refused by name, at plan time; what people have passes."""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import diffusers
import pytest
from diffusers import DDIMScheduler, UNet2DConditionModel

from audit.diffusion.text import check_tokenizer
from audit.errors import CheckpointError, SpecError
from audit.plan.preflight.prompts import check_phrases
from audit.spec.document import Spec
from audit.weights import settings as backbone_settings
from audit.weights.references import pipeline_family, resolve_model, sampler_settings
from flows.cli import main
from tests.flows.audits import tiny_spec
from tests.plan.resolved import resolved_of

UNET, VAE, TEXT = "unet/config.json", "vae/config.json", "text_encoder/config.json"
SCHEDULER, INDEX = "scheduler/scheduler_config.json", "model_index.json"
TOKENIZER = "tokenizer/tokenizer_config.json"


def edit(path: Path, drop: str | None = None, **changes: Any) -> None:
    settings = {**json.loads(path.read_text()), **changes}
    settings.pop(drop or "", None)
    path.write_text(json.dumps(settings))


def problem(folder: Path) -> str:
    ref = resolve_model(str(folder))
    with pytest.raises(CheckpointError) as caught:
        pipeline_family(ref)
        check_tokenizer(ref)
    assert caught.value.next_step
    assert str(folder) in (caught.value.where or "")
    return caught.value.what


IGNORED: list[tuple[str, dict[str, Any], str]] = [
    (SCHEDULER, {"timestep_spacing": "trailing"}, "timestep_spacing 'trailing', which is not supported"),
    (SCHEDULER, {"timestep_spacing": "linspace"}, "timestep_spacing 'linspace', which is not supported"),
    (SCHEDULER, {"clip_sample": True}, "clip_sample True, which is not supported"),
    (SCHEDULER, {"thresholding": True}, "thresholding True, which is not supported"),
    (SCHEDULER, {"use_karras_sigmas": True}, "use_karras_sigmas True"),
    (SCHEDULER, {"use_exponential_sigmas": True}, "use_exponential_sigmas True"),
    (SCHEDULER, {"use_beta_sigmas": True}, "use_beta_sigmas True"),
    (SCHEDULER, {"use_flow_sigmas": True}, "use_flow_sigmas True"),
    (SCHEDULER, {"final_sigmas_type": "sigma_min"}, "final_sigmas_type 'sigma_min'"),
    (SCHEDULER, {"a_new_idea": 2}, "'a_new_idea' 2, which the audit does not know"),
    (SCHEDULER, {"_class_name": "LCMScheduler"}, "calls PNDMScheduler and scheduler_config.json 'LCMScheduler'"),
    (UNET, {"time_cond_proj_dim": 256}, "time_cond_proj_dim 256, which is not supported"),
    (UNET, {"class_embed_type": "timestep"}, "class_embed_type 'timestep'"),
    (UNET, {"num_class_embeds": 10}, "num_class_embeds 10"),
    (UNET, {"encoder_hid_dim": 64}, "encoder_hid_dim 64"),
    (UNET, {"attention_type": "gated"}, "attention_type 'gated', which is not supported"),
    (VAE, {"shift_factor": 0.1}, "shift_factor 0.1, which is not supported"),
    (VAE, {"latents_mean": [0.0] * 4}, "latents_mean [0.0, 0.0, 0.0, 0.0], which is not supported"),
    (VAE, {"latent_channels": 16}, "latent_channels 16; 4 is needed"),
    (TEXT, {"hidden_act": "gelu"}, "hidden_act 'gelu', which is not supported (only 'quick_gelu' is)"),
    (TEXT, {"model_type": "t5"}, "model_type 't5'; clip_text_model is needed"),
    (TEXT, {"quantization_config": {"bits": 4}}, "quantization_config {'bits': 4}, which is not supported"),
]

UNUSABLE: list[tuple[str, dict[str, Any], str]] = [
    (UNET, {"sample_size": 0}, "sample_size 0; one number (of latents) is needed"),
    (UNET, {"sample_size": -8}, "sample_size -8"),
    (UNET, {"sample_size": True}, "sample_size True"),
    (UNET, {"sample_size": 257}, "sample_size 257; one number (of latents) is needed"),
    (
        UNET,
        {"layers_per_block": 8, "transformer_layers_per_block": [64, 1]},
        "a UNet of 1024 layers, and at most 256 are supported",
    ),
    (
        UNET,
        {"block_out_channels": [8] * 9},
        "block_out_channels [8, 8, 8, 8, 8, 8, 8, 8, 8]; a list of widths is needed",
    ),
    (UNET, {"attention_head_dim": 0}, "attention_head_dim 0; a number above 0, or a list of them is needed"),
    (UNET, {"block_out_channels": None}, "a UNet with block_out_channels None; a list of widths is needed"),
    (UNET, {"layers_per_block": 10**9}, "layers_per_block 1000000000"),
    (UNET, {"_class_name": "UNet3DConditionModel"}, "a UNet of class 'UNet3DConditionModel'"),
    (VAE, {"block_out_channels": None}, "a VAE with block_out_channels None"),
    (VAE, {"scaling_factor": 0}, "scaling_factor 0; a number above 0 is needed"),
    (VAE, {"scaling_factor": "0.18"}, "scaling_factor '0.18'"),
    (VAE, {"scaling_factor": 10**290}, "scaling_factor 1000"),
    (VAE, {"layers_per_block": 64, "block_out_channels": [8] * 5}, "a VAE of 320 layers, and at most 256"),
    (VAE, {"_class_name": "AsymmetricAutoencoderKL"}, "a VAE of class 'AsymmetricAutoencoderKL'"),
    (TEXT, {"vocab_size": "many"}, "vocab_size 'many'"),
    (TEXT, {"num_attention_heads": 3}, "hidden_size 16, which its attention heads do not divide"),
    (SCHEDULER, {"beta_start": "0.00085"}, "beta_start '0.00085'; a number above 0 and below 1 is needed"),
    (SCHEDULER, {"beta_end": 1e300}, "beta_end 1e+300"),
    (SCHEDULER, {"beta_start": 0.02}, "beta_start 0.02 above beta_end 0.012"),
    (SCHEDULER, {"steps_offset": "1"}, "steps_offset '1'; 0 or 1 is needed"),
    (SCHEDULER, {"steps_offset": 500}, "steps_offset 500"),
    (SCHEDULER, {"num_train_timesteps": "1000"}, "num_train_timesteps '1000'"),
    (SCHEDULER, {"set_alpha_to_one": "no"}, "set_alpha_to_one 'no'; true or false is needed"),
    (TOKENIZER, {"model_max_length": 1e30}, "model_max_length 1"),
    (TOKENIZER, {"model_max_length": float("inf")}, "model_max_length inf, which is no number"),
    (TOKENIZER, {"model_max_length": float("nan")}, "model_max_length nan, which is no number"),
    (TOKENIZER, {"model_max_length": "long"}, "model_max_length 'long', which is no number"),
    (TOKENIZER, {"model_max_length": 17}, "model_max_length 17, and the text encoder has 16 positions"),
    (TOKENIZER, {"model_max_length": 2}, "model_max_length 2"),
    (TOKENIZER, {"tokenizer_class": "BertTokenizer"}, "tokenizer_class 'BertTokenizer'; only CLIP's is supported"),
    (UNET, {"freq_shift": None}, "freq_shift None; a number is needed"),
    (UNET, {"flip_sin_to_cos": "yes"}, "flip_sin_to_cos 'yes'; true or false is needed"),
    (TEXT, {"eos_token_id": -1}, "eos_token_id -1; a token's number is needed"),
    (TEXT, {"eos_token_id": True}, "eos_token_id True; a token's number is needed"),
    (TEXT, {"vocab_size": 20}, "token ids up to 53, and the text encoder has embeddings for 20"),
]

CLASSES: list[tuple[str, dict[str, Any], str]] = [
    (INDEX, {"unet": ["diffusers", "OnnxRuntimeModel"]}, "a unet of class ['diffusers', 'OnnxRuntimeModel']"),
    (INDEX, {"vae": ["os", "system"]}, "a vae of class ['os', 'system'], and only AutoencoderKL of diffusers"),
    (INDEX, {"vae": ["diffusers", "ConsistencyDecoderVAE"]}, "a vae of class ['diffusers', 'ConsistencyDecoderVAE']"),
    (INDEX, {"tokenizer": ["transformers", "logging"]}, "a tokenizer of class ['transformers', 'logging']"),
    (INDEX, {"scheduler": ["diffusers", "LCMScheduler"]}, "a scheduler of class ['diffusers', 'LCMScheduler']"),
    (
        INDEX,
        {"scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"]},
        "a scheduler of class ['diffusers', 'FlowMatchEulerDiscreteScheduler']",
    ),
    (INDEX, {"_class_name": "LatentConsistencyModelPipeline"}, "is a 'LatentConsistencyModelPipeline'"),
]


@pytest.mark.parametrize(("file", "changes", "message"), [*IGNORED, *UNUSABLE, *CLASSES])
def test_what_is_not_honoured_is_refused_by_name(
    file: str, changes: dict[str, Any], message: str, tiny_copy: Path
) -> None:
    edit(tiny_copy / file, **changes)
    assert message in problem(tiny_copy)


@pytest.mark.parametrize("file", [UNET, TEXT, SCHEDULER, TOKENIZER, INDEX])
def test_the_command_line_refuses_them_too(
    file: str, tiny_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, changes, message = next(case for case in reversed([*IGNORED, *UNUSABLE, *CLASSES]) if case[0] == file)
    edit(tiny_copy / file, **changes)
    assert main(["plan", str(tiny_spec(tmp_path, tiny_copy)), "--root", str(tmp_path / "runs")]) == 2
    shown = capsys.readouterr().err
    assert message in shown and shown.count("error: ") == 1 and "\n  next:  " in shown


def test_a_part_that_is_not_known_is_refused_and_never_imported(tiny_copy: Path) -> None:
    edit(tiny_copy / INDEX, controlnet=["antigravity", "ControlNet"])
    (tiny_copy / "controlnet").mkdir()
    for path in (tiny_copy / "unet").iterdir():
        (tiny_copy / "controlnet" / path.name).write_bytes(path.read_bytes())
    assert "has a part 'controlnet' (['antigravity', 'ControlNet']), which the audit does not know" in problem(
        tiny_copy
    )
    assert "antigravity" not in sys.modules


def test_a_safety_checker_of_any_class_is_ignored_and_never_imported(tiny_copy: Path) -> None:
    edit(tiny_copy / INDEX, safety_checker=["antigravity", "Checker"], feature_extractor=["antigravity", "Extractor"])
    ref = resolve_model(str(tiny_copy))
    assert pipeline_family(ref) == "sd1"
    assert "antigravity" not in sys.modules


def test_a_default_that_would_clip_is_refused_with_its_reason(tiny_copy: Path) -> None:
    edit(tiny_copy / INDEX, scheduler=["diffusers", "DDIMScheduler"])
    edit(tiny_copy / SCHEDULER, _class_name="DDIMScheduler")
    assert "clip_sample True" in problem(tiny_copy)
    assert "it is the default of DDIMScheduler, and scheduler_config.json says nothing" in problem(tiny_copy)
    edit(tiny_copy / SCHEDULER, clip_sample=False)
    assert pipeline_family(resolve_model(str(tiny_copy))) == "sd1"


def test_the_schedulers_that_people_have_pass(tiny_copy: Path) -> None:
    """As Stable Diffusion v1.4 and v1.5 are published, and as diffusers saves other samplers of their grid."""
    published = {
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "num_train_timesteps": 1000,
        "set_alpha_to_one": False, "skip_prk_steps": True, "steps_offset": 1, "trained_betas": None,
        "clip_sample": False,
    }  # fmt: skip
    path = tiny_copy / SCHEDULER
    path.write_text(json.dumps({"_class_name": "PNDMScheduler", "_diffusers_version": "0.7.0.dev0", **published}))
    assert pipeline_family(resolve_model(str(tiny_copy))) == "sd1"
    for named in backbone_settings.SCHEDULERS:
        parameters = inspect.signature(getattr(diffusers, named).__init__).parameters
        saved = {name: parameter.default for name, parameter in parameters.items() if name != "self"}
        path.write_text(json.dumps({"_class_name": named, **saved, **published, "timestep_spacing": "leading"}))
        edit(tiny_copy / INDEX, scheduler=["diffusers", named])
        assert pipeline_family(resolve_model(str(tiny_copy))) == "sd1"


def test_defaults_are_those_of_the_classes() -> None:
    honoured = {**backbone_settings._COMMON, "clip_sample": False}
    known = {*honoured, *backbone_settings._NEUTRAL_SCHEDULER, *backbone_settings._SOLVER}
    for named, defaults in {**backbone_settings.SCHEDULERS, **backbone_settings.OWN_SCHEDULERS}.items():
        parameters = inspect.signature(getattr(diffusers, named).__init__).parameters
        for name, value in {**honoured, **defaults}.items():
            if name in parameters:
                assert parameters[name].default == value, (named, name)
        assert parameters.keys() - {"self"} <= known, named
    for settings, loader in (
        (backbone_settings._NEUTRAL_UNET, UNet2DConditionModel),
        (backbone_settings._NEUTRAL_VAE, diffusers.AutoencoderKL),
    ):
        parameters = inspect.signature(loader.__init__).parameters
        assert {name: parameters[name].default for name in settings} == settings


def test_left_out_settings_are_the_defaults_of_the_named_class(tiny_copy: Path) -> None:
    edit(tiny_copy / SCHEDULER, drop="set_alpha_to_one")
    assert sampler_settings(resolve_model(str(tiny_copy)))["set_alpha_to_one"] is False  # PNDM's; DDIM's is true
    edit(tiny_copy / INDEX, scheduler=["diffusers", "DDIMScheduler"])
    edit(tiny_copy / SCHEDULER, _class_name="DDIMScheduler", clip_sample=False)
    assert sampler_settings(resolve_model(str(tiny_copy)))["set_alpha_to_one"] is True
    assert DDIMScheduler().config["set_alpha_to_one"] is True


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("tokenizer.json", "[" * 100_000, "the tokenizer's file cannot be used: it is nested deeper than 64 levels"),
        ("tokenizer.json", '{"version": 3}', "the tokenizer cannot be loaded"),
        ("tokenizer_config.json", b"\xff", "the tokenizer's file cannot be used: it is not UTF-8 text"),
        ("special_tokens_map.json", "9" * 5000, "an integer of more than 300 digits"),
    ],
)
def test_a_broken_tokenizer_file_is_one_message(name: str, text: str | bytes, message: str, tiny_copy: Path) -> None:
    (tiny_copy / "tokenizer" / name).write_bytes(text.encode() if isinstance(text, str) else text)
    assert message in problem(tiny_copy)


def test_a_tokenizer_of_one_word_is_refused(tiny_copy: Path) -> None:
    for path in (tiny_copy / "tokenizer").iterdir():
        path.unlink()
    (tiny_copy / "tokenizer" / "vocab.json").write_text(json.dumps({"<|endoftext|>": 0}))
    (tiny_copy / "tokenizer" / "merges.txt").write_text("#version: 0.2\n")
    (tiny_copy / TOKENIZER).write_text(json.dumps({"model_max_length": 16}))
    assert re.search(r"the tokenizer has \d tokens, start and end among them: it knows no word", problem(tiny_copy))


def spec_of(folder: Path, phrase: str, **changes: Any) -> Spec:
    concepts = [{"name": "ring", "phrase": "ring"}, {"name": "second", "phrase": phrase}]
    document = {
        "name": "phrases",
        "backbone": str(folder),
        "concepts": concepts,
        "defences": [{"name": "none"}, {"name": "uce", "eraser": {"method": "uce"}}],
        "scenarios": [{"name": "text", "cases": 1}],
        "detectors": [{"name": "judge", "kind": "clip-zero-shot", "model": "testbed/judge"}],
        "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.3}]},
        **changes,
    }
    return Spec.model_validate(document)


@pytest.mark.parametrize(
    ("phrase", "found"),
    [("123", "part of it is unknown to its vocabulary"), ("ring 9", "part of it is unknown to its vocabulary")],
)
def test_a_phrase_without_tokens_is_refused_before_anything_is_erased(
    phrase: str, found: str, tiny_folder: Path
) -> None:
    ref = resolve_model(str(tiny_folder))
    with pytest.raises(SpecError) as caught:
        check_phrases(resolved_of(spec_of(tiny_folder, phrase), ref), ref)
    assert caught.value.what == f"the text encoder has no tokens for the phrase {phrase!r}: {found}"
    assert caught.value.where == "concepts.1"
    check_phrases(resolved_of(spec_of(tiny_folder, "star"), ref), ref)


@pytest.mark.parametrize(
    ("method", "parameters", "where", "found"),
    [
        ("mace", {"mapping": "a 9"}, "defences.erased.eraser.parameters.mapping", "phrase 'a 9'"),
        ("concept-ablation", {"anchor": "9"}, "defences.erased.eraser.parameters.anchor", "phrase '9'"),
        ("uce", {"guide": "9 a"}, "defences.erased.eraser.parameters.guide", "phrase '9 a'"),
        ("spm", {}, "concepts.1", "spm's file separates its concepts by ','"),
    ],
)
def test_words_that_an_eraser_cannot_use_are_refused_before_anything_is_erased(
    method: str, parameters: dict[str, Any], where: str, found: str, tiny_folder: Path
) -> None:
    defences = [{"name": "erased", "eraser": {"method": method, "parameters": parameters}}]
    phrase = "star,ring" if method == "spm" else "star"
    ref = resolve_model(str(tiny_folder))
    spec = spec_of(tiny_folder, phrase, defences=defences)
    with pytest.raises(SpecError, match=re.escape(found)) as caught:
        check_phrases(resolved_of(spec, ref), ref)
    assert caught.value.where == where and caught.value.next_step


def test_reading_settings_does_not_import_torch(tiny_folder: Path) -> None:
    code = (
        "import sys; from audit.weights.references import pipeline_family, resolve_model; "
        f"pipeline_family(resolve_model({str(tiny_folder)!r})); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
