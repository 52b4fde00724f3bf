"""Write a diffusers folder's weights as the models' authors do: the way back, by rules of its own, of what the product reads.

That the files are of those layouts is checked against diffusers' converters, not against the product.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

State = dict[str, torch.Tensor]
LDM_PREFIX = "model.diffusion_model."
_RESNET = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0", "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip
_TOP = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip


def ldm_names(unet_names: Collection[str]) -> dict[str, str]:
    """Latent-diffusion's name -> diffusers name of a UNet's tensors, with the prefix `model.diffusion_model.`."""
    layers = 1 + max(int(n.split(".")[3]) for n in unet_names if n.startswith("down_blocks.") and ".resnets." in n)
    with_attention = {n.split(".")[1] for n in unet_names if n.startswith("up_blocks.") and ".attentions." in n}
    return {LDM_PREFIX + _ldm_name(name, layers, with_attention): name for name in unet_names}


def _ldm_name(name: str, layers: int, with_attention: Collection[str]) -> str:
    for module, ldm in _TOP.items():
        if name.startswith(module + "."):
            return ldm + name[len(module) :]
    if name.startswith("mid_block."):
        _, kind, index, rest = name.split(".", 3)
        position = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{position}.{_inner(kind, rest)}"
    side, level, kind, index, rest = name.split(".", 4)
    if side == "down_blocks":
        first = 1 + int(level) * (layers + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + layers}.0.op.{rest.removeprefix('conv.')}"
        return f"input_blocks.{first + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"
    first = int(level) * (layers + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{1 + (level in with_attention)}.{rest}"
    return f"output_blocks.{first + int(index)}.{int(kind == 'attentions')}.{_inner(kind, rest)}"


def _inner(kind: str, rest: str) -> str:
    if kind != "resnets":
        return rest
    module, _, part = rest.partition(".")
    return f"{_RESNET[module]}.{part}"


def unet(state: State) -> State:
    """Latent-diffusion's UNet."""
    return {ldm: state[name] for ldm, name in ldm_names(state).items()}


def vae(state: State, prefix: str = "first_stage_model.") -> State:
    """Latent-diffusion's VAE: attention as 1x1 convolutions, the decoder's levels counted from the picture."""
    top = 1 + max(int(name.split(".")[2]) for name in state if name.startswith("decoder.up_blocks."))
    attention = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
    written: State = {}
    for name, tensor in state.items():
        new = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{top - 1 - int(found[1])}", name)
        new = new.replace("down_blocks.", "down.").replace("conv_norm_out", "norm_out")
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", new)
        new = new.replace("resnets.", "block.").replace("conv_shortcut", "nin_shortcut")
        new = re.sub(r"(down|up)samplers\.0", r"\1sample", new)
        if ".mid_block.attentions.0." in new:
            side, _, rest = new.partition(".mid_block.attentions.0.")
            layer, _, kind = rest.rpartition(".")
            new = f"{side}.mid.attn_1.{attention[layer]}.{kind}"
            tensor = tensor[:, :, None, None] if tensor.ndim == 2 else tensor
        written[prefix + new] = tensor
    return written


def clip(state: State, prefix: str) -> State:
    """A text encoder by transformers' names, with the constant that older versions stored."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    named = {
        prefix + (name if name.startswith("text_projection") else f"text_model.{name}"): tensor
        for name, tensor in plain.items()
    }
    return {**named, f"{prefix}text_model.embeddings.position_ids": torch.arange(16)[None]}


def open_clip(state: State, prefix: str, *, unused_layer: bool = False) -> State:
    """A text encoder by OpenCLIP's names; with the last layer and projection that Stable Diffusion 2 does not use."""
    plain = {name.removeprefix("text_model."): tensor for name, tensor in state.items()}
    layers = 1 + max(int(name.split(".")[2]) for name in plain if name.startswith("encoder.layers."))
    written: State = {
        "positional_embedding": plain["embeddings.position_embedding.weight"],
        "token_embedding.weight": plain["embeddings.token_embedding.weight"],
        "ln_final.weight": plain["final_layer_norm.weight"],
        "ln_final.bias": plain["final_layer_norm.bias"],
        "logit_scale": torch.tensor(4.6),
    }
    for layer in range(layers):
        old, new = f"encoder.layers.{layer}.", f"transformer.resblocks.{layer}."
        for kind in ("weight", "bias"):
            written[f"{new}attn.in_proj_{kind}"] = torch.cat([plain[f"{old}self_attn.{q}_proj.{kind}"] for q in "qkv"])
            written[f"{new}attn.out_proj.{kind}"] = plain[f"{old}self_attn.out_proj.{kind}"]
            written[f"{new}ln_1.{kind}"] = plain[f"{old}layer_norm1.{kind}"]
            written[f"{new}ln_2.{kind}"] = plain[f"{old}layer_norm2.{kind}"]
            written[f"{new}mlp.c_fc.{kind}"] = plain[f"{old}mlp.fc1.{kind}"]
            written[f"{new}mlp.c_proj.{kind}"] = plain[f"{old}mlp.fc2.{kind}"]
    if unused_layer:
        last = {n: t for n, t in written.items() if n.startswith(f"transformer.resblocks.{layers - 1}.")}
        written |= {n.replace(f".{layers - 1}.", f".{layers}.", 1): t + 1 for n, t in last.items()}
        written["text_projection"] = torch.ones(plain["final_layer_norm.weight"].shape[0], 12)
    else:
        written["text_projection"] = plain["text_projection.weight"].T.contiguous()
    return {prefix + name: tensor for name, tensor in written.items()}


def _swapped(tensor: torch.Tensor) -> torch.Tensor:
    first, second = tensor.chunk(2)
    return torch.cat([second, first])


def joint(state: State, prefix: str = LDM_PREFIX) -> State:
    """Stability's transformer of Stable Diffusion 3."""
    old = dict(state)
    written: State = {"pos_embed": old.pop("pos_embed.pos_embed")}
    last = max(int(name.split(".")[1]) for name in old if name.startswith("transformer_blocks."))

    def take(new: str, name: str, swap: bool = False) -> None:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in old:
                tensor = old.pop(f"{name}.{kind}")
                written[f"{new}.{kind}"] = _swapped(tensor) if swap else tensor

    def fuse(new: str, names: list[str]) -> None:
        for kind in ("weight", "bias"):
            written[f"{new}.{kind}"] = torch.cat([old.pop(f"{name}.{kind}") for name in names])

    take("x_embedder.proj", "pos_embed.proj")
    take("context_embedder", "context_embedder")
    for number, layer in ((0, 1), (2, 2)):
        take(f"t_embedder.mlp.{number}", f"time_text_embed.timestep_embedder.linear_{layer}")
        take(f"y_embedder.mlp.{number}", f"time_text_embed.text_embedder.linear_{layer}")
    take("final_layer.linear", "proj_out")
    take("final_layer.adaLN_modulation.1", "norm_out.linear", swap=True)
    for i in range(last + 1):
        block, image, text = f"transformer_blocks.{i}", f"joint_blocks.{i}.x_block", f"joint_blocks.{i}.context_block"
        fuse(f"{image}.attn.qkv", [f"{block}.attn.to_{q}" for q in "qkv"])
        fuse(f"{text}.attn.qkv", [f"{block}.attn.add_{q}_proj" for q in "qkv"])
        if f"{block}.attn2.to_q.weight" in old:
            fuse(f"{image}.attn2.qkv", [f"{block}.attn2.to_{q}" for q in "qkv"])
        for attention in ("attn", "attn2"):
            take(f"{image}.{attention}.proj", f"{block}.{attention}.to_out.0")
            take(f"{image}.{attention}.ln_q", f"{block}.{attention}.norm_q")
            take(f"{image}.{attention}.ln_k", f"{block}.{attention}.norm_k")
        take(f"{text}.attn.proj", f"{block}.attn.to_add_out")
        take(f"{text}.attn.ln_q", f"{block}.attn.norm_added_q")
        take(f"{text}.attn.ln_k", f"{block}.attn.norm_added_k")
        take(f"{image}.adaLN_modulation.1", f"{block}.norm1.linear")
        take(f"{text}.adaLN_modulation.1", f"{block}.norm1_context.linear", swap=i == last)
        for side, ours in ((image, "ff"), (text, "ff_context")):
            take(f"{side}.mlp.fc1", f"{block}.{ours}.net.0.proj")
            take(f"{side}.mlp.fc2", f"{block}.{ours}.net.2")
    assert not old, sorted(old)
    return {prefix + name: tensor for name, tensor in written.items()}


def flux(state: State, prefix: str = "") -> State:
    """Black Forest Labs' transformer."""
    old = dict(state)
    written: State = {}

    def take(new: str, name: str, swap: bool = False) -> None:
        for kind in ("weight", "bias"):
            if f"{name}.{kind}" in old:
                tensor = old.pop(f"{name}.{kind}")
                written[f"{new}.{kind}"] = _swapped(tensor) if swap else tensor

    def fuse(new: str, names: list[str]) -> None:
        for kind in ("weight", "bias"):
            written[f"{new}.{kind}"] = torch.cat([old.pop(f"{name}.{kind}") for name in names])

    for ours, theirs in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance")):
        take(f"{ours}.in_layer", f"time_text_embed.{theirs}_embedder.linear_1")
        take(f"{ours}.out_layer", f"time_text_embed.{theirs}_embedder.linear_2")
    take("img_in", "x_embedder")
    take("txt_in", "context_embedder")
    take("final_layer.linear", "proj_out")
    take("final_layer.adaLN_modulation.1", "norm_out.linear", swap=True)
    for name in sorted({".".join(name.split(".")[:2]) for name in old}):
        number = name.split(".")[1]
        if name.startswith("single_"):
            block = f"single_blocks.{number}"
            fuse(f"{block}.linear1", [f"{name}.attn.to_{q}" for q in "qkv"] + [f"{name}.proj_mlp"])
            take(f"{block}.linear2", f"{name}.proj_out")
            take(f"{block}.modulation.lin", f"{name}.norm.linear")
            written[f"{block}.norm.query_norm.scale"] = old.pop(f"{name}.attn.norm_q.weight")
            written[f"{block}.norm.key_norm.scale"] = old.pop(f"{name}.attn.norm_k.weight")
            continue
        block = f"double_blocks.{number}"
        for side, queries, out, norm, ff, added in (
            ("img", [f"attn.to_{q}" for q in "qkv"], "attn.to_out.0", "norm1", "ff", ""),
            ("txt", [f"attn.add_{q}_proj" for q in "qkv"], "attn.to_add_out", "norm1_context", "ff_context", "added_"),
        ):
            fuse(f"{block}.{side}_attn.qkv", [f"{name}.{query}" for query in queries])
            take(f"{block}.{side}_attn.proj", f"{name}.{out}")
            take(f"{block}.{side}_mod.lin", f"{name}.{norm}.linear")
            take(f"{block}.{side}_mlp.0", f"{name}.{ff}.net.0.proj")
            take(f"{block}.{side}_mlp.2", f"{name}.{ff}.net.2")
            for ours, q in (("query", "q"), ("key", "k")):
                key = f"{name}.attn.norm_{added}{q}.weight"
                written[f"{block}.{side}_attn.norm.{ours}_norm.scale"] = old.pop(key)
    assert not old, sorted(old)
    return {prefix + name: tensor for name, tensor in written.items()}


def read(folder: Path, part: str) -> State:
    """All tensors of one part of a diffusers folder."""
    state: State = {}
    for file in sorted((folder / part).glob("*.safetensors")):
        state |= load_file(file)
    return state


def whole(folder: Path, family: str) -> State:
    """A whole pipeline as its authors put it into one file."""
    shared = {**vae(read(folder, "vae")), "betas": torch.ones(3), "alphas_cumprod": torch.ones(3)}
    if family == "sd1":
        shared |= unet(read(folder, "unet"))
        return shared | clip(read(folder, "text_encoder"), "cond_stage_model.transformer.")
    if family == "sd2":
        shared |= unet(read(folder, "unet"))
        return shared | open_clip(read(folder, "text_encoder"), "cond_stage_model.model.", unused_layer=True)
    if family == "sdxl":
        shared |= unet(read(folder, "unet")) | {"denoiser.sigmas": torch.ones(3)}
        shared |= clip(read(folder, "text_encoder"), "conditioner.embedders.0.transformer.")
        return shared | open_clip(read(folder, "text_encoder_2"), "conditioner.embedders.1.model.")
    transformer = read(folder, "transformer")
    if family == "flux":
        shared = vae(read(folder, "vae"), "vae.") | flux(transformer, LDM_PREFIX)
        shared |= clip(read(folder, "text_encoder"), "text_encoders.clip_l.transformer.")
        t5 = read(folder, "text_encoder_2")
    else:
        shared |= joint(transformer)
        first = {n: t for n, t in read(folder, "text_encoder").items() if not n.startswith("text_projection")}
        shared |= clip(first, "text_encoders.clip_l.transformer.")
        shared |= clip(read(folder, "text_encoder_2"), "text_encoders.clip_g.transformer.")
        t5 = read(folder, "text_encoder_3")
    return shared | {f"text_encoders.t5xxl.transformer.{name}": tensor for name, tensor in t5.items()}


def write_single_file(folder: Path, family: str, file: Path) -> Path:
    """A whole pipeline's single file from its folder."""
    save_file({name: tensor.contiguous() for name, tensor in whole(folder, family).items()}, file)
    return file
