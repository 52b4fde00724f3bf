"""Model folders of real classes at tiny size with random weights, as detectors load them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    CLIPConfig,
    CLIPModel,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    ResNetConfig,
    ResNetForImageClassification,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil

WORDS = ("a", "photo", "picture", "of", "ring", "circle", "square", "disc", "empty", "white", "black", "background")
CLASSES = ("ring", "circle", "square")
SIDE = 32


def write_vocabulary(folder: Path) -> int:
    """A CLIP vocabulary of whole words with the merges that build them; returns its size."""
    tokens, merges = ["<|startoftext|>", "<|endoftext|>"], []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merges.append(f"{pieces[0]} {pieces[1]}")
            tokens += pieces
            pieces = [pieces[0] + pieces[1], *pieces[2:]]
        tokens += pieces
    # Merging must start at a word's left end in every word, so each prefix is a token of its own.
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(dict.fromkeys(merges)) + "\n", encoding="utf-8")
    return len(vocabulary)


def write_clip(folder: Path, seed: int = 0) -> Path:
    """A CLIPModel folder with tokenizer and image processor."""
    folder.mkdir(parents=True)
    size = write_vocabulary(folder)
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(folder)
    shape = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={
            **shape,
            "vocab_size": size,
            "max_position_embeddings": 16,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        },
        vision_config={**shape, "image_size": SIDE, "patch_size": 8},
        projection_dim=8,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for parameter in model.parameters():  # the default initialisation is so small that all pictures score alike
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return folder


def write_classifier(folder: Path, *, multi_label: bool = True, seed: int = 0) -> Path:
    """A ResNet classifier folder over `CLASSES` with its image processor."""
    config = ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        num_labels=len(CLASSES),
        id2label=dict(enumerate(CLASSES)),
        label2id={name: index for index, name in enumerate(CLASSES)},
        problem_type="multi_label_classification" if multi_label else "single_label_classification",
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ResNetForImageClassification(config)
    model.save_pretrained(folder)
    CLIPImageProcessorPil(size={"height": SIDE, "width": SIDE}, do_center_crop=False).save_pretrained(folder)
    return folder


def write_grounding_dino(folder: Path, seed: int = 0, words: Sequence[str] = WORDS) -> Path:
    """A GroundingDinoForObjectDetection folder: Swin backbone, text BERT, tokenizer of `words` and image processor.

    The vocabulary numbers [CLS], [SEP], '.' and '?' as bert-base-uncased does, which is built into the network.
    """
    folder.mkdir(parents=True)
    vocabulary = [f"[unused{index}]" for index in range(1030)]
    vocabulary[0], vocabulary[100], vocabulary[101], vocabulary[102], vocabulary[103] = (
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]",
    )  # fmt: skip
    vocabulary[1012], vocabulary[1029] = ".", "?"
    vocabulary += [*words, "##s"]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 128}).save_pretrained(folder)
    text = {"vocab_size": len(vocabulary), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    swin = {"model_type": "swin", "image_size": 96, "embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 1, 1]}
    config = GroundingDinoConfig(
        backbone_config={**swin, "window_size": 4, "out_indices": [2, 3, 4]},
        text_config={"model_type": "bert", **text, "intermediate_size": 32, "max_position_embeddings": 64},
        d_model=32,  # the network normalises in 32 groups
        encoder_layers=1,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        num_queries=20,
        max_text_len=16,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GroundingDinoForObjectDetection(config)
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "position" not in name:
                torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    return folder
