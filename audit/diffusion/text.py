"""Checks of prompts and of the backbone's tokenizer before anything is computed: a text that is cut asks another question."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import CheckpointError, SpecError
from audit.files import ForeignError, parse_json, read_bounded, reason
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer, T5TokenizerFast


_JSON_FILES = ("tokenizer.json", "vocab.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
_MAX_BYTES = 64_000_000  # CLIP's vocabulary takes 4 MB
_CLASSES = (None, "CLIPTokenizer", "CLIPTokenizerFast")
_FEWEST = 3  # tokens: a word beside start and end


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """Return the CLIP tokenizer saved in `folder`; loads no torch. Raises `CheckpointError` when it cannot be loaded."""
    from transformers import CLIPTokenizer

    _require_json(folder)
    with tokenizer_errors(folder, "loaded"):
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    if type(tokenizer.model_max_length) not in (int, float) or not math.isfinite(tokenizer.model_max_length):
        raise _unfit(folder, f"model_max_length {tokenizer.model_max_length!r}, which is no number")
    return tokenizer


def load_t5_tokenizer(folder: Path) -> T5TokenizerFast:
    """Return the T5 tokenizer saved in `folder`. Raises `CheckpointError` when it cannot be loaded."""
    from transformers import T5TokenizerFast

    with tokenizer_errors(folder, "loaded"):
        tokenizer: T5TokenizerFast = T5TokenizerFast.from_pretrained(folder, local_files_only=True)
    return tokenizer


@contextlib.contextmanager
def tokenizer_errors(folder: Path, what: str = "used") -> Iterator[None]:
    """Turn whatever the parsers of transformers and tokenizers raise inside into a `CheckpointError`, panics of Rust too."""
    try:
        yield
    except BaseException as error:
        raise CheckpointError(
            f"the tokenizer cannot be {what}: {reason(error)}",
            where=str(folder),
            next_step="download or copy the whole model folder, with its vocabulary",
        ) from None


def check_tokenizer(backbone: ModelRef, which: str = "") -> CLIPTokenizer:
    """Return a CLIP tokenizer of the backbone when it writes what its text encoder reads. Raises `CheckpointError` otherwise.

    `which` is the ending of the parts' names, such as `_2`.
    """
    folder = backbone.path / f"tokenizer{which}"
    tokenizer = load_tokenizer(folder)
    text = read_json(backbone.path / f"text_encoder{which}" / "config.json")
    positions, embeddings = text["max_position_embeddings"], text["vocab_size"]
    with tokenizer_errors(folder):
        longest, ids = tokenizer.model_max_length, tokenizer.get_vocab().values()
    if type(longest) is not int or not _FEWEST <= longest <= positions:
        raise _unfit(
            folder,
            f"model_max_length {longest!r}, and the text encoder has {positions} positions (at least 3 are needed)",
        )
    for name in ("bos_token", "eos_token", "pad_token"):
        if getattr(tokenizer, f"{name}_id") is None:
            raise _unfit(folder, f"no {name}")
    if len(set(ids)) < _FEWEST:
        raise _unfit(folder, f"{len(set(ids))} tokens, start and end among them: it knows no word")
    if max(ids) >= embeddings:
        raise _unfit(
            folder, f"token ids up to {max(ids)}, and the text encoder has embeddings for {embeddings} (vocab_size)"
        )
    return tokenizer


def _require_json(folder: Path) -> None:
    """Return when the tokenizer's files are JSON within bounds, by whichever parser they are read next."""
    config: dict[str, object] = {}
    for name in _JSON_FILES:
        if not (folder / name).exists():
            continue
        try:
            document = parse_json(read_bounded(folder / name, _MAX_BYTES))
        except (ForeignError, OSError) as error:
            raise CheckpointError(
                f"the tokenizer's file cannot be used: {getattr(error, 'strerror', None) or error}",
                where=str(folder / name),
                next_step="download or copy the whole model folder, with its vocabulary",
            ) from None
        if name == "tokenizer_config.json" and isinstance(document, dict):
            config = document
    if config.get("tokenizer_class") not in _CLASSES:
        raise _unfit(folder, f"tokenizer_class {str(config['tokenizer_class'])[:80]!r}; only CLIP's is supported")


def _unfit(folder: Path, what: str) -> CheckpointError:
    return CheckpointError(
        f"the tokenizer has {what}",
        where=str(folder),
        next_step="use the tokenizer folder that belongs to this text encoder",
    )


def check_prompts(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> None:
    """Return when the text encoder of this tokenizer can read every prompt whole.

    Raises `SpecError` for one with too many tokens, `CheckpointError` when the tokenizer cannot be used.
    """
    for prompt, (used, longest) in too_long(tokenizer, prompts).items():
        raise SpecError(
            f"the prompt {prompt[:80]!r} has {used} tokens, and the backbone's text encoder reads {longest}",
            where="scenarios",
            next_step="shorten the template or the concept's phrase",
        )


def too_long(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return (tokens it has, tokens the text encoder reads) of every prompt that the text encoder cannot read whole.

    Raises `CheckpointError` when the tokenizer cannot be used.
    """
    longest = int(tokenizer.model_max_length)
    with tokenizer_errors(Path(tokenizer.name_or_path)):
        used = {prompt: len(tokenizer(prompt)["input_ids"]) for prompt in prompts}
    return {prompt: (count, longest) for prompt, count in used.items() if count > longest}
