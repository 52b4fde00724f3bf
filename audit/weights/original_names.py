"""Names of a pipeline's tensors in the files of the models' authors -> those of diffusers and transformers.

The original layouts: CompVis's latent-diffusion (Stable Diffusion 1.x, 2.x, XL), Stability's joint transformer (3.x), Black
Forest Labs' Flux, OpenCLIP's text encoders. Some tensors lie fused there, or with their halves the other way round. What
lies where was read in diffusers' converters (`loaders/single_file_utils.py`), which the tests compare with.
A name that no rule knows keeps its spelling, so that a strict loader refuses it. Nothing here imports torch.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Form: TypeAlias = Literal["plain", "swapped", "transposed", "linear", "identity"]


@dataclasses.dataclass(frozen=True)
class Piece:
    """What a tensor of a network is in a file: one tensor there or some of its rows, in this form.

    `swapped`: its halves (along the first axis) are the other way round. `linear`: a 1x1 convolution. `identity`: the file has
    no such tensor, and it is the identity of the source's width.
    """

    source: str
    form: Form = "plain"
    rows: tuple[int, int] | None = None

    def shape(self, stored: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a source of shape `stored` gives."""
        taken = stored if self.rows is None else (self.rows[1] - self.rows[0], *stored[1:])
        match self.form:
            case "transposed":
                return taken[::-1]
            case "linear":
                return taken[:2]
            case "identity":
                return taken[-1:] * 2
            case _:
                return taken


Pieces: TypeAlias = dict[str, Piece]
_RESNET = {
    "in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2", "out_layers.3": "conv2", "skip_connection": "conv_shortcut",
}  # fmt: skip
_UNET_TOP = {
    "time_embed.0": "time_embedding.linear_1", "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1", "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in", "out.0": "conv_norm_out", "out.2": "conv_out",
}  # fmt: skip
_VAE_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
_OPEN_CLIP = {
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
}  # fmt: skip
_OPEN_CLIP_TOP = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
}
_TIME_TEXT = "time_text_embed"
_SD3_TOP = {
    "x_embedder.proj": "pos_embed.proj", "context_embedder": "context_embedder", "final_layer.linear": "proj_out",
    "t_embedder.mlp.0": f"{_TIME_TEXT}.timestep_embedder.linear_1",
    "t_embedder.mlp.2": f"{_TIME_TEXT}.timestep_embedder.linear_2",
    "y_embedder.mlp.0": f"{_TIME_TEXT}.text_embedder.linear_1",
    "y_embedder.mlp.2": f"{_TIME_TEXT}.text_embedder.linear_2",
}  # fmt: skip
_SD3_SIDES = {
    "x_block": {
        "attn.proj": "attn.to_out.0", "attn.ln_q": "attn.norm_q", "attn.ln_k": "attn.norm_k",
        "attn2.proj": "attn2.to_out.0", "attn2.ln_q": "attn2.norm_q", "attn2.ln_k": "attn2.norm_k",
        "adaLN_modulation.1": "norm1.linear", "mlp.fc1": "ff.net.0.proj", "mlp.fc2": "ff.net.2",
    },
    "context_block": {
        "attn.proj": "attn.to_add_out", "attn.ln_q": "attn.norm_added_q", "attn.ln_k": "attn.norm_added_k",
        "adaLN_modulation.1": "norm1_context.linear", "mlp.fc1": "ff_context.net.0.proj", "mlp.fc2": "ff_context.net.2",
    },
}  # fmt: skip
_FLUX_TOP = {
    "img_in": "x_embedder", "txt_in": "context_embedder", "final_layer.linear": "proj_out",
    **{
        f"{ours}.{layer}_layer": f"{_TIME_TEXT}.{theirs}_embedder.linear_{number}"
        for ours, theirs in (("time_in", "timestep"), ("vector_in", "text"), ("guidance_in", "guidance"))
        for layer, number in (("in", 1), ("out", 2))
    },
}  # fmt: skip
_FLUX_DOUBLE = {
    "img_mod.lin": "norm1.linear", "txt_mod.lin": "norm1_context.linear",
    "img_attn.proj": "attn.to_out.0", "txt_attn.proj": "attn.to_add_out",
    "img_mlp.0": "ff.net.0.proj", "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj", "txt_mlp.2": "ff_context.net.2",
}  # fmt: skip
_FLUX_NORMS = {
    "img_attn.norm.query_norm.scale": "attn.norm_q.weight", "img_attn.norm.key_norm.scale": "attn.norm_k.weight",
    "txt_attn.norm.query_norm.scale": "attn.norm_added_q.weight",
    "txt_attn.norm.key_norm.scale": "attn.norm_added_k.weight",
}  # fmt: skip
_FLUX_SINGLE = {"modulation.lin": "norm.linear", "linear2": "proj_out"}
_FLUX_SINGLE_NORMS = {"norm.query_norm.scale": "attn.norm_q.weight", "norm.key_norm.scale": "attn.norm_k.weight"}
_IMAGE, _TEXT = ("attn.to_q", "attn.to_k", "attn.to_v"), ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj")
_SECOND = ("attn2.to_q", "attn2.to_k", "attn2.to_v")
_SWAPPED = "final_layer.adaLN_modulation.1"


def unet_name(name: str, layers: int) -> str:
    """Return diffusers' name of a UNet's tensor by its name in latent-diffusion's `openaimodel.py`, without a prefix.

    Input and output blocks are counted there through all levels; each has `layers` residual layers going down, one more
    going up, and then one down- or upsampler.
    """
    head, _, kind = name.rpartition(".")
    if head in _UNET_TOP:
        return f"{_UNET_TOP[head]}.{kind}"
    if (middle := re.fullmatch(r"middle_block\.([012])\.(.+)", name)) is not None:
        number = int(middle[1])
        if number == 1:
            return f"mid_block.attentions.0.{middle[2]}"
        return f"mid_block.resnets.{number // 2}.{_layer(middle[2], _RESNET)}"
    block = re.fullmatch(r"(in|out)put_blocks\.(\d+)\.([012])\.(.+)", name)
    if block is None:
        return name
    down = block[1] == "in"
    level, index = divmod(int(block[2]) - down, layers + 1)
    side, rest = f"{'down' if down else 'up'}_blocks.{level}", block[4]
    if rest.startswith("op." if down else "conv."):
        return f"{side}.{'down' if down else 'up'}samplers.0.conv.{rest.partition('.')[2]}"
    if block[3] == "0":
        return f"{side}.resnets.{index}.{_layer(rest, _RESNET)}"
    return f"{side}.attentions.{index}.{rest}" if block[3] == "1" else name


def flat_unet_name(name: str, layers: int) -> str:
    """Return diffusers' path of a UNet's module by its path in latent-diffusion's code, both with underscores for dots."""
    top = {path.replace(".", "_"): ours for path, ours in _UNET_TOP.items()}
    if name in top:
        return top[name].replace(".", "_")
    inside = re.fullmatch(r"((?:in|out)put_blocks_\d+|middle_block)_([012])_(.+)", name)
    if inside is None:
        return name
    block, rest = inside[1].replace("blocks_", "blocks."), inside[3]
    rest = next((path for path in _RESNET if path.replace(".", "_") == rest), rest)
    return unet_name(f"{block}.{inside[2]}.{rest}.weight", layers).removesuffix(".weight").replace(".", "_")


def _layer(name: str, names: Mapping[str, str]) -> str:
    """Return `name` with its beginning, all but the last word, replaced where `names` knows it."""
    head, dot, kind = name.rpartition(".")
    return f"{names.get(head, head)}{dot}{kind}"


def unet(shapes: Shapes, layers: int = 2) -> Pieces:
    """Return the pieces of a UNet with `layers` residual layers in each level."""
    return {unet_name(name, layers): Piece(name) for name in shapes}


def vae(shapes: Shapes) -> Pieces:
    """Return the pieces of a VAE, whose decoder counts its levels from the picture's side."""
    levels = 1 + max((int(up[1]) for name in shapes if (up := re.match(r"decoder\.up\.(\d+)\.", name))), default=0)
    pieces = {}
    for name, shape in shapes.items():
        target = _vae_name(name, levels)
        linear = ".attentions.0.to_" in target and len(shape) > 2
        pieces[target] = Piece(name, "linear" if linear else "plain")
    return pieces


def _vae_name(name: str, levels: int) -> str:
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return name
    if (middle := re.fullmatch(r"mid\.block_([12])\.(.+)", rest)) is not None:
        return f"{side}.mid_block.resnets.{int(middle[1]) - 1}.{middle[2]}"
    if (attention := re.fullmatch(r"mid\.attn_1\.(.+)", rest)) is not None:
        return f"{side}.mid_block.attentions.0.{_layer(attention[1], _VAE_ATTENTION)}"
    if (block := re.fullmatch(r"(down|up)\.(\d+)\.(.+)", rest)) is not None:
        level = int(block[2]) if block[1] == "down" else levels - 1 - int(block[2])
        inside = re.sub(r"^block\.", "resnets.", block[3]).replace(".nin_shortcut.", ".conv_shortcut.")
        inside = re.sub(r"^(down|up)sample\.", r"\1samplers.0.", inside)
        return f"{side}.{block[1]}_blocks.{level}.{inside}"
    return f"{side}.{re.sub(r'^norm_out', 'conv_norm_out', rest)}"


def hugging_face(shapes: Shapes) -> Pieces:
    """Return the pieces of a text encoder that is stored by the names of transformers."""
    return {name: Piece(name) for name in shapes}


def unprojected_clip(shapes: Shapes) -> Pieces:
    """Return the pieces of Stable Diffusion 3's first text encoder, whose pooled state is taken without a projection."""
    pieces = {name: piece for name, piece in hugging_face(shapes).items() if name != "text_projection.weight"}
    positions = "text_model.embeddings.position_embedding.weight"
    return {**pieces, "text_projection.weight": Piece(positions, "identity")} if positions in shapes else pieces


def open_clip(shapes: Shapes) -> Pieces:
    """Return the pieces of an OpenCLIP text encoder, with its projection if it has one."""
    pieces: Pieces = {}
    for name, shape in shapes.items():
        block = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name)
        if block is None:
            projection = name == "text_projection"
            target = "text_projection.weight" if projection else _OPEN_CLIP_TOP.get(name, name)
            pieces[target] = Piece(name, "transposed" if projection else "plain")
            continue
        layer = f"text_model.encoder.layers.{block[1]}"
        if block[2] in ("attn.in_proj_weight", "attn.in_proj_bias"):
            kind = block[2].rpartition("_")[2]
            parts = [f"{layer}.self_attn.{one}_proj.{kind}" for one in "qkv"]
            pieces |= _split(name, shape, parts)
        else:
            pieces[f"{layer}.{_layer(block[2], _OPEN_CLIP)}"] = Piece(name)
    return pieces


def joint(shapes: Shapes) -> Pieces:
    """Return the pieces of Stable Diffusion 3's transformer."""
    blocks = [int(block[1]) for name in shapes if (block := re.match(r"joint_blocks\.(\d+)\.", name))]
    last, pieces = max(blocks, default=0), Pieces()
    for name, shape in shapes.items():
        head, _, kind = name.rpartition(".")
        block = re.fullmatch(r"joint_blocks\.(\d+)\.(x_block|context_block)\.(.+)", head)
        if name == "pos_embed":
            pieces["pos_embed.pos_embed"] = Piece(name)
        elif head == _SWAPPED:
            pieces[f"norm_out.linear.{kind}"] = Piece(name, "swapped")
        elif block is None:
            pieces[_layer(name, _SD3_TOP)] = Piece(name)
        elif block[3] in ("attn.qkv", "attn2.qkv"):
            parts = _SECOND if block[3] == "attn2.qkv" else _IMAGE if block[2] == "x_block" else _TEXT
            pieces |= _split(name, shape, [f"transformer_blocks.{block[1]}.{part}.{kind}" for part in parts])
        else:
            # The last block's text goes no further: its modulation is that of a final layer.
            final = (int(block[1]), block[2], block[3]) == (last, "context_block", "adaLN_modulation.1")
            target = f"transformer_blocks.{block[1]}.{_SD3_SIDES[block[2]].get(block[3], block[3])}.{kind}"
            pieces[target] = Piece(name, "swapped" if final else "plain")
    return pieces


def flux(shapes: Shapes) -> Pieces:
    """Return the pieces of Flux's transformer."""
    pieces: Pieces = {}
    for name, shape in shapes.items():
        head, _, kind = name.rpartition(".")
        block = re.fullmatch(r"(double|single)_blocks\.(\d+)\.(.+)", name)
        if head == _SWAPPED:
            pieces[f"norm_out.linear.{kind}"] = Piece(name, "swapped")
        elif block is None:
            pieces[_layer(name, _FLUX_TOP)] = Piece(name)
        elif block[1] == "double":
            pieces |= _double(name, shape, f"transformer_blocks.{block[2]}", block[3])
        else:
            width = shapes.get(f"single_blocks.{block[2]}.linear1.weight", (0,))[-1:]
            pieces |= _single(name, shape, f"single_transformer_blocks.{block[2]}", block[3], sum(width))
    return pieces


def _double(name: str, shape: tuple[int, ...], block: str, rest: str) -> Pieces:
    head, _, kind = rest.rpartition(".")
    if head in ("img_attn.qkv", "txt_attn.qkv"):
        parts = _IMAGE if head == "img_attn.qkv" else _TEXT
        return _split(name, shape, [f"{block}.{part}.{kind}" for part in parts])
    return {f"{block}.{_FLUX_NORMS.get(rest) or _layer(rest, _FLUX_DOUBLE)}": Piece(name)}


def _single(name: str, shape: tuple[int, ...], block: str, rest: str, width: int) -> Pieces:
    head, _, kind = rest.rpartition(".")
    if head == "linear1" and shape:  # queries, keys, values and the feed-forward's first layer
        ends = [width * number for number in range(4)] + [shape[0]]
        parts = [f"{block}.{part}.{kind}" for part in (*_IMAGE, "proj_mlp")]
        return {part: Piece(name, rows=(ends[n], ends[n + 1])) for n, part in enumerate(parts)}
    return {f"{block}.{_FLUX_SINGLE_NORMS.get(rest) or _layer(rest, _FLUX_SINGLE)}": Piece(name)}


def _split(name: str, shape: tuple[int, ...], parts: Sequence[str]) -> Pieces:
    """Return `parts` as equal shares of the rows of one tensor."""
    if not shape:
        return {name: Piece(name)}
    share = shape[0] // len(parts)
    ends = [share * number for number in range(len(parts))] + [shape[0]]
    return {part: Piece(name, rows=(ends[n], ends[n + 1])) for n, part in enumerate(parts)}


Namer: TypeAlias = Callable[[Shapes], Pieces]
