"""Models with random weights that filters load: a safety checker and a text classifier, in folders as they are published."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    CLIPConfig,
    CLIPImageProcessor,
)

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "photo", "of", "ring", "star", "blue", "red")


def write_safety_checker(folder: Path, threshold: float = 0.0, special: float = 1.0) -> Path:
    """A checker whose concepts all have the threshold `threshold`, and its special-care ones `special`."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 32, "patch_size": 16}, text_config=sizes, projection_dim=8
    )
    checker = StableDiffusionSafetyChecker(config)
    for name, parameter in checker.named_parameters():
        if name.endswith("embeds") or parameter.dim() > 1:
            torch.nn.init.normal_(parameter)
        if name == "concept_embeds_weights":
            parameter.data = torch.full((17,), threshold)
        if name == "special_care_embeds_weights":
            parameter.data = torch.full((3,), special)
    checker.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def write_text_classifier(folder: Path) -> Path:
    """A sequence classifier with the labels `safe` and `unsafe`, which reads twelve tokens."""
    folder.mkdir(parents=True)
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(WORDS) + "\n")
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=12, id2label={0: "safe", 1: "unsafe"}, label2id={"safe": 0, "unsafe": 1},
        initializer_range=1.0,
    )  # fmt: skip
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab_file=str(vocabulary)).save_pretrained(folder)
    return folder
