"""Learned embeddings on disk, as diffusers reads and writes them: {token: tensor (D,) or (n, D)} in one file."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors
import safetensors.torch
import torch

from audit.errors import SpecError
from audit.model_refs import ModelRef
from audit.prompt_lengths import load_tokenizer
from audit.weight_files import read_json

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclasses.dataclass(frozen=True)
class Embedding:
    """One learned token by its own name: `vectors` (n, D) in float32."""

    token: str
    vectors: torch.Tensor


def read_embedding(path: Path) -> Embedding:
    """The embedding of a safetensors file or of a pickled `learned_embeds.bin`, which is read without running code.

    AUTOMATIC1111's layout, with `string_to_param` and `name`, is read too. Raises `SpecError` for what is neither, for
    more than one token, and for vectors that are not finite.
    """
    found = _content(path)
    if len(found) != 1:
        raise _unusable(path, f"holds {len(found)} tensors ({', '.join(map(str, list(found)[:5]))}), not one token's")
    ((token, vectors),) = found.items()
    if not isinstance(vectors, torch.Tensor) or not vectors.is_floating_point() or vectors.dim() not in (1, 2):
        raise _unusable(path, f"holds no vectors under {token!r}")
    vectors = vectors.detach().float().reshape(-1, vectors.shape[-1])
    if not len(vectors) or not torch.isfinite(vectors).all():
        raise _unusable(path, "holds NaN, infinity, or no vector at all")
    return Embedding(str(token), vectors)


def check_embedding(path: Path, backbone: ModelRef) -> Embedding:
    """The embedding of a file, when this backbone's text encoder can read it. Raises `SpecError` otherwise."""
    embedding = read_embedding(path)
    width = int(read_json(backbone.path / "text_encoder" / "config.json")["hidden_size"])
    if embedding.vectors.shape[1] != width:
        raise _unusable(
            path,
            f"holds vectors of width {embedding.vectors.shape[1]}, and the text encoder of {backbone.name} reads {width}",
            "name an embedding that was learned on this family of models",
        )
    if _known(embedding.token, load_tokenizer(backbone.path / "tokenizer")):
        raise _unusable(
            path,
            f"calls its token {embedding.token!r}, which is a word of this model's vocabulary: prompts would be ambiguous",
            "store it under another name, such as <concept>",
        )
    return embedding


def _known(token: str, tokenizer: CLIPTokenizer) -> bool:
    """Whether a tokenizer has a token by its own name or reads it as one; CLIP keeps the word `drop` as `drop</w>`."""
    if token in tokenizer.get_vocab():
        return True
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def write_embedding(path: Path, token: str, vectors: torch.Tensor) -> None:
    """Write vectors (n, D) as safetensors that diffusers' `load_textual_inversion` reads."""
    safetensors.torch.save_file({token: vectors.float().contiguous()}, path)


def _content(path: Path) -> Mapping[Any, Any]:
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        found = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror or error}", "name an existing file") from None
    except (safetensors.SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError):
        raise _unusable(path, "is neither safetensors nor a pickle of tensors alone") from None
    if isinstance(found, Mapping) and isinstance(found.get("string_to_param"), Mapping):
        return {found.get("name") or "<embedding>": value for value in found["string_to_param"].values()}
    if not isinstance(found, Mapping):
        raise _unusable(path, f"holds a {type(found).__name__}, not a token with its vectors")
    return found


def _unusable(path: Path, why: str, next_step: str | None = None) -> SpecError:
    return SpecError(
        f"the embedding file {why}",
        where=str(path),
        next_step=next_step or "name a learned_embeds.safetensors or learned_embeds.bin of textual inversion",
    )
