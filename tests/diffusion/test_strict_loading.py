"""A backbone's parts have exactly the weights of their files: anything else is refused by name, before any compute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file, save_file

from audit.diffusion.pipeline import check_weights, load_pipeline
from audit.errors import CheckpointError
from audit.weights.references import resolve_model

Tensors = dict[str, torch.Tensor]
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def change(folder: Path, part: str, edit: Callable[[Tensors], Tensors]) -> None:
    path = folder / FILES[part]
    save_file({name: tensor.contiguous() for name, tensor in edit(load_file(path)).items()}, path)


def load(folder: Path) -> object:
    return load_pipeline(resolve_model(str(folder)), torch.device("cpu"))


def without(words: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if words not in name}


def renamed(prefix: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {prefix + name: tensor for name, tensor in tensors.items()}


def replaced(words: str, edit: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: edit(tensor) if words in name else tensor for name, tensor in tensors.items()}


def with_nan(tensor: torch.Tensor) -> torch.Tensor:
    broken = tensor.clone()
    broken.view(-1)[0] = float("nan")
    return broken


EXTRA: Callable[[Tensors], Tensors] = lambda tensors: {**tensors, "extra.weight": torch.ones(2)}  # noqa: E731


@pytest.mark.parametrize(
    ("part", "edit", "message"),
    [
        ("text_encoder", without("layers.1."), "16 missing keys, first encoder.layers.1."),
        ("text_encoder", renamed("other."), "missing keys, first "),
        ("text_encoder", EXTRA, "1 unexpected keys, first extra.weight"),
        (
            "text_encoder",
            replaced("final_layer_norm.bias", lambda t: t[:3]),
            "1 mismatched keys, first final_layer_norm.",
        ),
        ("text_encoder", replaced("final_layer_norm.bias", with_nan), "not finite, first "),
        ("unet", without("conv_in.bias"), "1 missing keys, first conv_in.bias"),
        ("unet", without("mid_block.attentions.0.transformer_blocks.0.attn2."), "missing keys, first mid_block."),
        ("unet", EXTRA, "1 unexpected keys, first extra.weight"),
        ("unet", replaced("conv_out.weight", lambda t: t[:2]), "1 mismatched keys, first conv_out.weight"),
        ("unet", replaced("conv_out.bias", with_nan), "1 of its tensors hold numbers that are not finite"),
        ("unet", replaced("conv_out.bias", lambda t: t.to(torch.float8_e8m0fnu)), "stored as F8_E8M0"),
        ("unet", replaced("conv_out.bias", lambda t: t.to(torch.int64)), "1 keys without weights, first conv_out.bias"),
        ("vae", without("decoder.conv_out"), "2 missing keys, first decoder.conv_out.bias"),
        ("vae", renamed("vae."), "missing keys, first decoder."),
    ],
)
def test_weights_that_are_not_the_networks_own_are_refused(
    part: str, edit: Callable[[Tensors], Tensors], message: str, tiny_copy: Path
) -> None:
    change(tiny_copy, part, edit)
    with pytest.raises(CheckpointError) as caught:
        load(tiny_copy)
    assert caught.value.what.startswith(f"the backbone's {part} cannot be loaded: ")
    assert message in caught.value.what
    assert caught.value.where == str(tiny_copy / part) and caught.value.next_step


@pytest.mark.parametrize(
    ("part", "edit", "message"),
    [
        ("text_encoder", without("layers.1."), "16 missing keys, first encoder.layers.1."),
        ("text_encoder", EXTRA, "1 unexpected keys, first extra.weight"),
        ("unet", without("mid_block.attentions.0.transformer_blocks.0.attn2."), "missing keys, first mid_block."),
        ("vae", without("decoder.conv_out"), "2 missing keys, first decoder.conv_out.bias"),
        ("unet", replaced("conv_out.weight", lambda t: t[:2]), "1 mismatched keys, first conv_out.weight"),
    ],
)
def test_a_run_is_not_planned_with_them(
    part: str, edit: Callable[[Tensors], Tensors], message: str, tiny_copy: Path
) -> None:
    change(tiny_copy, part, edit)
    with pytest.raises(CheckpointError) as caught:
        check_weights(resolve_model(str(tiny_copy)))
    assert caught.value.what.startswith(f"the backbone's {part} cannot be loaded: ") and message in caught.value.what


def test_a_part_in_float8_is_read_as_its_numbers_unless_scales_are_beside_them(tiny_copy: Path) -> None:
    change(tiny_copy, "unet", replaced("conv_out.bias", lambda t: torch.full_like(t, 0.3).to(torch.float8_e4m3fn)))
    pipeline = load_pipeline(resolve_model(str(tiny_copy)), torch.device("cpu"))
    assert pipeline.unet.state_dict()["conv_out.bias"].unique().tolist() == [
        0.3125
    ]  # three bits behind the leading one
    change(tiny_copy, "unet", lambda tensors: {**tensors, "conv_out.weight_scale": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"quantised, with scales beside its weights \(conv_out.weight_scale\)"):
        load(tiny_copy)


def test_a_vae_in_the_unets_place_is_refused_by_name(tiny_copy: Path) -> None:
    (tiny_copy / FILES["unet"]).write_bytes((tiny_copy / FILES["vae"]).read_bytes())
    with pytest.raises(CheckpointError, match=r"backbone's unet cannot be loaded: its weights have \d+ missing keys"):
        load(tiny_copy)


def test_a_tensor_in_two_shards_is_refused(tiny_copy: Path) -> None:
    whole = tiny_copy / FILES["unet"]
    tensors = load_file(whole)
    whole.unlink()
    names = ["a.safetensors", "b.safetensors"]
    save_file(tensors, whole.with_name(names[0]))
    save_file({"conv_in.bias": tensors["conv_in.bias"] + 1}, whole.with_name(names[1]))
    listed = ", ".join(f'"{i}": "{name}"' for i, name in enumerate(names))
    whole.with_name(whole.name + ".index.json").write_text(f'{{"weight_map": {{{listed}}}}}')
    with pytest.raises(CheckpointError, match=r"two of its files hold the tensor conv_in\.bias"):
        load(tiny_copy)


def test_a_setting_that_diffusers_would_ignore_is_refused(tiny_copy: Path) -> None:
    config = tiny_copy / "unet" / "config.json"
    config.write_text(config.read_text().replace("{", '{"a_new_idea": true,', 1))
    with pytest.raises(CheckpointError, match="sets a_new_idea to True, which UNet2DConditionModel would ignore"):
        load(tiny_copy)


def test_settings_that_make_no_network_are_one_message(tiny_copy: Path) -> None:
    config = tiny_copy / "unet" / "config.json"
    config.write_text(config.read_text().replace('"CrossAttnDownBlock2D"', '"NoSuchBlock2D"'))
    with pytest.raises(
        CheckpointError, match="the backbone's unet cannot be loaded: its configuration makes no network"
    ):
        load(tiny_copy)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("unet", {"norm_eps": "0.00001"}, "its configuration sets norm_eps to 0.00001, where 1e-05 would be usual"),
        ("unet", {"norm_eps": 10**290}, "its configuration sets norm_eps to 1000"),
        ("vae", {"force_upcast": "no"}, "its configuration sets force_upcast to no, where True would be usual"),
        (
            "text_encoder",
            {"max_position_embeddings": 999_999},
            "its configuration describes a network of 160",
        ),
    ],
)
def test_settings_of_another_kind_or_size_are_refused_before_the_first_picture(
    part: str, changes: dict[str, object], message: str, tiny_copy: Path
) -> None:
    config = tiny_copy / part / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(CheckpointError) as caught:
        load(tiny_copy)
    assert message in caught.value.what


def old_names(tensors: Tensors) -> Tensors:
    """A VAE's tensors as Stable Diffusion v1.4 was first published."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in tensors.items():
        for new, before in old.items():
            name = name.replace(f"mid_block.attentions.0.{new}.", f"mid_block.attentions.0.{before}.")
        renamed[name] = tensor
    assert renamed.keys() != tensors.keys()
    return renamed


def old_text(tensors: Tensors) -> Tensors:
    """A text encoder's tensors as transformers 4 and before wrote them."""
    bare = {f"text_model.{name.removeprefix('text_model.')}": tensor for name, tensor in tensors.items()}
    return {**bare, "text_model.embeddings.position_ids": torch.arange(16)[None]}


def halves(tensors: Tensors) -> Tensors:
    return {name: tensor.half() for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "edits",
    [{}, {"vae": old_names}, {"text_encoder": old_text}, {"unet": halves, "vae": halves, "text_encoder": halves}],
    ids=["as saved", "the VAE's first names", "names of transformers 4", "halves"],
)
def test_what_loads_is_what_diffusers_loads_bit_by_bit(
    edits: dict[str, Callable[[Tensors], Tensors]], tiny_copy: Path
) -> None:
    for part, edit in edits.items():
        change(tiny_copy, part, edit)
    check_weights(resolve_model(str(tiny_copy)))
    ours = load_pipeline(resolve_model(str(tiny_copy)), torch.device("cpu"))
    theirs = StableDiffusionPipeline.from_pretrained(tiny_copy, safety_checker=None, dtype=torch.float32)
    for part in FILES:
        mine, given = getattr(ours, part), getattr(theirs, part)
        expected = {**given.state_dict(), **dict(given.named_buffers())}
        found = {**mine.state_dict(), **dict(mine.named_buffers())}
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], expected[name]) for name in expected)
        assert {tensor.dtype for tensor in mine.state_dict().values()} == {torch.float32}
        assert not mine.training
    ids = theirs.tokenizer("a ring", padding="max_length", return_tensors="pt").input_ids
    assert torch.equal(ours.encode_text(["a ring"]), theirs.text_encoder(ids).last_hidden_state)


@pytest.mark.parametrize(("variant", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_a_variant_in_shards_is_read_as_diffusers_writes_it(
    tiny_folder: Path, tmp_path: Path, variant: str, dtype: torch.dtype
) -> None:
    whole = StableDiffusionPipeline.from_pretrained(tiny_folder, safety_checker=None, dtype=dtype)
    whole.save_pretrained(tmp_path / "half", variant=variant, max_shard_size="50KB")
    assert (tmp_path / "half" / "unet" / f"diffusion_pytorch_model.safetensors.index.{variant}.json").is_file()
    ref = resolve_model(str(tmp_path / "half"))
    assert ref.variant == variant and len(ref.files) > 3
    check_weights(ref)
    ours = load_pipeline(ref, torch.device("cpu"))
    for part in FILES:
        expected = getattr(whole, part).state_dict()
        assert all(
            torch.equal(tensor, expected[name].float()) for name, tensor in getattr(ours, part).state_dict().items()
        )


def test_an_endless_storage_type_is_named_briefly(tiny_copy: Path) -> None:
    path = tiny_copy / FILES["unet"]
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header[next(name for name in header if name != "__metadata__")]["dtype"] = "x" * 30_000
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    with pytest.raises(CheckpointError) as caught:
        load(tiny_copy)
    assert "is stored as xxx" in str(caught.value) and len(str(caught.value)) < 1_500
