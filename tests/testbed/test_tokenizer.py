"""The tokenizer: one token per word of the grammar, also after a round trip through CLIP's files."""

from __future__ import annotations

from pathlib import Path

from transformers import CLIPTokenizer

from audit.testbed.captions import WORDS
from audit.testbed.scenes import sample_scene
from audit.testbed.tokenizer import CONTEXT, make_tokenizer


def test_every_word_is_one_token(tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    ids = [tokenizer(word)["input_ids"] for word in WORDS]
    assert {len(row) for row in ids} == {3}
    assert len({row[1] for row in ids}) == len(WORDS)
    assert tokenizer.model_max_length == CONTEXT


def test_captions_keep_their_words_and_fit() -> None:
    tokenizer = make_tokenizer()
    for index in range(100):
        caption = sample_scene("train", index).caption
        ids = tokenizer(caption)["input_ids"]
        assert len(ids) == len(caption.split()) + 2 <= CONTEXT
        assert tokenizer.decode(ids, skip_special_tokens=True).strip() == caption
