"""Prompts against the backbone's tokenizer, before anything is computed: a text that is cut asks another question."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit.errors import CheckpointError, SpecError
from audit.model_refs import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def load_tokenizer(folder: Path) -> CLIPTokenizer:
    """The CLIP tokenizer saved in `folder`; raises `CheckpointError` when it cannot be loaded. Loads no torch."""
    from transformers import CLIPTokenizer

    try:
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the tokenizer cannot be loaded: {' '.join(str(error).split())[:300]}",
            where=str(folder),
            next_step="download or copy the whole model folder, with its vocabulary",
        ) from None
    return tokenizer


def check_prompts(backbone: ModelRef, prompts: Sequence[str]) -> None:
    """Return when the text encoder can read every prompt whole.

    Raises `SpecError` for one with too many tokens, `CheckpointError` when the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(backbone.path / "tokenizer")
    for prompt in prompts:
        used = len(tokenizer(prompt)["input_ids"])
        if used > tokenizer.model_max_length:
            raise SpecError(
                f"the prompt {prompt[:80]!r} has {used} tokens, and the backbone's text encoder reads "
                f"{tokenizer.model_max_length}",
                where="scenarios",
                next_step="shorten the template or the concept's phrase",
            )
