"""The testbed's CLIP tokenizer: every word of the grammar is one token, in CLIP's own vocab.json and merges.txt."""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path

from transformers import CLIPTokenizer

from audit.testbed.captions import WORDS

CONTEXT = 32  # tokens the text encoders read


def make_tokenizer() -> CLIPTokenizer:
    """Return the tokenizer; unknown words fall apart into letters, which no training caption contains."""
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    merges = word_merges(WORDS)
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {token: i for i, token in enumerate([*dict.fromkeys(tokens), "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        vocab, merge = Path(folder) / "vocab.json", Path(folder) / "merges.txt"
        vocab.write_text(json.dumps(vocabulary))
        merge.write_text("\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
        return CLIPTokenizer(str(vocab), str(merge), model_max_length=CONTEXT)


def word_merges(words: tuple[str, ...]) -> list[tuple[str, str]]:
    """Learn byte-pair merges, most frequent pair first, until every word is one token.

    Running the learning to its end guarantees that applying the merges in their order reassembles every word.
    """
    pieces = [[*word[:-1], f"{word[-1]}</w>"] for word in words]
    merges: list[tuple[str, str]] = []
    while True:
        counts: dict[tuple[str, str], int] = {}
        for piece in pieces:
            for pair in itertools.pairwise(piece):
                counts[pair] = counts.get(pair, 0) + 1
        if not counts:
            return merges
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(best)
        pieces = [_merge(piece, best) for piece in pieces]


def _merge(piece: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    i = 0
    while i < len(piece):
        if tuple(piece[i : i + 2]) == pair:
            merged.append("".join(pair))
            i += 2
        else:
            merged.append(piece[i])
            i += 1
    return merged
