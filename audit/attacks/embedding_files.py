"""Learned embeddings on disk, as diffusers reads and writes them: {token: tensor (D,) or (n, D)} in one file."""

from __future__ import annotations

import dataclasses
import io
import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors.torch
import torch

from audit import files
from audit.attacks.parameters import MAX_BYTES
from audit.checkpoints.archives import DamagedArchive, check_archive
from audit.checkpoints.stored import dense, described, is_weights
from audit.diffusion.text import load_tokenizer
from audit.errors import SpecError
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

_NAME = 100
_LARGEST = 1e4  # CLIP's own token embeddings stay below 1, and learned ones below some tens
_LFS = b"version https://git-lfs"


@dataclasses.dataclass(frozen=True)
class Embedding:
    """One learned token by its own name: `vectors` (n, D) in float32."""

    token: str
    vectors: torch.Tensor


def read_embedding(path: Path) -> Embedding:
    """Read the embedding of a safetensors file or of a pickle of tensors, told apart by content; no code of the file is run.

    AUTOMATIC1111's layout, with `string_to_param` and `name`, is read too. Raises `SpecError` for what is neither, for
    more than one token, and for vectors that no training gives.
    """
    content = _content(path)
    if len(content) != 1:
        names = ", ".join(name for name in list(content)[:5] if isinstance(name, str))
        raise _unusable(path, f"holds {len(content)} tensors ({names[:_NAME]}), not one token's")
    ((token, vectors),) = content.items()
    if not isinstance(token, str):
        raise _unusable(path, f"names its token by a {type(token).__name__}, not by text")
    if not token.strip() or len(token) > _NAME or not token.isprintable():
        raise _unusable(path, f"names its token by {len(token)} characters that cannot stand in a prompt")
    return Embedding(token, _vectors(path, token, vectors))


def _vectors(path: Path, token: str, tensor: object) -> torch.Tensor:
    if not isinstance(tensor, torch.Tensor):
        raise _unusable(path, f"holds no vectors under {token!r}, but a {type(tensor).__name__}")
    kind = described(tensor)
    if not is_weights(kind):
        raise _unusable(path, f"holds no vectors under {token!r}: the tensor is {kind}")
    if tensor.dim() not in (1, 2) or not tensor.numel():
        raise _unusable(path, f"holds no vectors under {token!r}: the tensor has the shape {tuple(tensor.shape)}")
    vectors = dense(tensor).float().reshape(-1, tensor.shape[-1])
    if not torch.isfinite(vectors).all():
        raise _unusable(path, "holds NaN or infinity")
    largest = float(vectors.abs().max())
    if largest > _LARGEST:
        raise _unusable(path, f"holds the value {largest:.3g}, and no learned embedding goes beyond {_LARGEST:g}")
    if not vectors.any(1).all():
        raise _unusable(path, "holds a vector that is all zero: nothing was learned, or the file is damaged")
    return vectors


def check_embedding(path: Path, backbone: ModelRef, tokenizer: CLIPTokenizer | None = None) -> Embedding:
    """Return the embedding of a file when this backbone's text encoder can read it. Raises `SpecError` otherwise.

    `tokenizer` is the backbone's, loaded from its folder when it is not given.
    """
    embedding = read_embedding(path)
    width = sum(_widths(backbone))
    if embedding.vectors.shape[1] != width:
        raise _unusable(
            path,
            f"holds vectors of width {embedding.vectors.shape[1]}, and the text encoder of {backbone.name} reads {width}",
            "name an embedding that was learned on this family of models",
        )
    if tokenizer is None:
        tokenizer = load_tokenizer(backbone.path / "tokenizer")
    if _known(embedding.token, tokenizer):
        raise _unusable(
            path,
            f"calls its token {embedding.token!r}, which is a word of this model's vocabulary: prompts would be ambiguous",
            "store it under another name, such as <concept>",
        )
    return embedding


def _widths(backbone: ModelRef) -> list[int]:
    """Return the widths of the backbone's CLIP text encoders, whose input embeddings a vector holds side by side."""
    configs = [backbone.path / part / "config.json" for part in ("text_encoder", "text_encoder_2")]
    read = [read_json(path) for path in configs if path.is_file()]
    return [int(config["hidden_size"]) for config in read if "hidden_size" in config]


def _known(token: str, tokenizer: CLIPTokenizer) -> bool:
    """Return whether a tokenizer has a token by its name or reads it as one; CLIP keeps the word `drop` as `drop</w>`."""
    if token in tokenizer.get_vocab():
        return True
    ids = tokenizer(token, add_special_tokens=False)["input_ids"]
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def write_embedding(path: Path, token: str, vectors: torch.Tensor) -> None:
    """Write vectors (n, D) as safetensors that diffusers' `load_textual_inversion` reads."""
    safetensors.torch.save_file({token: vectors.float().contiguous()}, path)


def _content(path: Path) -> Mapping[object, object]:
    try:
        data = files.read_bounded(path, MAX_BYTES)
    except files.ForeignError as error:
        raise _unusable(path, f"cannot be used: {error}") from None
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror or error}", "name an existing file") from None
    if data.startswith(_LFS):
        raise _unusable(path, "is a Git LFS pointer, not the embedding", "run 'git lfs pull' in that folder")
    content = _safetensors(path, data) if data[8:9] == b"{" else _pickle(path, data)
    if not isinstance(content, Mapping):
        raise _unusable(path, f"holds a {type(content).__name__}, not a token with its vectors")
    params = content.get("string_to_param")
    if isinstance(params, torch.nn.ParameterDict):
        params = vars(params).get("_parameters")
    if isinstance(params, Mapping):
        name = content.get("name")
        if name is not None and not isinstance(name, str):
            raise _unusable(path, f"names its token by a {type(name).__name__}, not by text")
        if len(params) != 1:
            raise _unusable(path, f"holds {len(params)} tensors, not one token's")
        return {name or "<embedding>": next(iter(params.values()))}
    return content


def _safetensors(path: Path, data: bytes) -> Mapping[str, torch.Tensor]:
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # Rust's errors, and Python's for a dtype that torch lacks
        raise _unusable(path, f"is no whole safetensors file ({_first(error)})") from None


def _pickle(path: Path, data: bytes) -> object:
    try:
        stream = io.BytesIO(data)
        check_archive(stream, len(data))
        with warnings.catch_warnings(), torch.serialization.safe_globals([torch.nn.ParameterDict]):
            warnings.simplefilter("ignore")  # about old formats and rare kinds of tensors, which are judged by us
            return torch.load(stream, map_location="cpu", weights_only=True)
    except DamagedArchive as error:
        raise _unusable(path, f"is not read: {error}") from None
    except pickle.UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        said = f" (it asks for {asked[1]}; nothing of it was run)" if asked else ""
        raise _unusable(path, f"is neither safetensors nor a pickle of tensors alone{said}") from None
    except Exception as error:  # damaged pickles make PyTorch and Python raise nearly anything
        raise _unusable(path, f"is neither safetensors nor a whole pickle of tensors ({_first(error)})") from None


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _unusable(path: Path, why: str, next_step: str | None = None) -> SpecError:
    return SpecError(
        f"the embedding file {why}",
        where=str(path),
        next_step=next_step or "name a learned_embeds.safetensors or learned_embeds.bin of textual inversion",
    )
