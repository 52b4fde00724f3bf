"""Model folders of judges that read text, of real classes at tiny size with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    BlipConfig,
    BlipForQuestionAnswering,
    GemmaTokenizer,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.tokenization_siglip2 import Siglip2Tokenizer

from tests.instruments.detectors.folders import SIDE

WORDS = (
    "is", "there", "a", "the", "in", "picture", "photo", "of", "ring", "circle", "square", "red", "answer", "en", "yes", "no",
)  # fmt: skip
SHAPE = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SQUARE = {"height": SIDE, "width": SIDE}


def varied(model: PreTrainedModel, std: float = 0.3) -> None:
    """Give every matrix larger numbers: by the default initialisation all pictures score alike."""
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "position" not in name:
            torch.nn.init.normal_(parameter, std=std)


def pieces(specials: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A vocabulary of whole words, with and without the space before them, and the merges that build them."""
    tokens, merges = [*specials, "\n", "?", "."], []
    for word in (f"{mark}{word}" for word in WORDS for mark in ("", "▁")):
        merges += [(word[:end], word[end]) for end in range(1, len(word))]
        tokens += [*word, *(word[:end] for end in range(1, len(word) + 1))]
    return {token: place for place, token in enumerate(dict.fromkeys(tokens))}, list(dict.fromkeys(merges))


def write_siglip(folder: Path, seed: int = 0) -> Path:
    """A SiglipModel folder with a tokenizer of SigLIP 2's class and its image processor."""
    vocabulary, merges = pieces(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    tokenizer = Siglip2Tokenizer(vocabulary, merges, padding_side="right", model_input_names=["input_ids"])
    tokenizer.save_pretrained(folder)
    SiglipImageProcessorPil(size=SQUARE).save_pretrained(folder)
    config = SiglipConfig(
        text_config={**SHAPE, "vocab_size": len(vocabulary), "max_position_embeddings": 64, "projection_size": 16},
        vision_config={**SHAPE, "image_size": SIDE, "patch_size": 8},
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SiglipModel(config)
        varied(model)
        model.logit_scale.data.fill_(1.5)
        model.logit_bias.data.fill_(-0.5)
    model.save_pretrained(folder)
    return folder


def write_blip(folder: Path, seed: int = 0) -> Path:
    """A BlipForQuestionAnswering folder with a BERT tokenizer and its image processor."""
    folder.mkdir(parents=True)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ".", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    BlipImageProcessorPil(size=SQUARE).save_pretrained(folder)
    config = BlipConfig(
        text_config={
            **SHAPE, "vocab_size": len(vocabulary), "encoder_hidden_size": 16, "max_position_embeddings": 32,
            "bos_token_id": 2, "sep_token_id": 3, "eos_token_id": 3, "pad_token_id": 0,
        },
        vision_config={**SHAPE, "image_size": SIDE, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BlipForQuestionAnswering(config)
        varied(model)
    model.save_pretrained(folder)
    return folder


def write_paligemma(folder: Path, seed: int = 0) -> Path:
    """A PaliGemmaForConditionalGeneration folder with a Gemma tokenizer and its image processor."""
    vocabulary, merges = pieces(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    tokenizer = GemmaTokenizer(vocabulary, merges)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    patches = (SIDE // 8) ** 2
    processor = SiglipImageProcessorPil(size=SQUARE)
    processor.image_seq_length = patches
    processor.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = len(tokenizer) + 2000  # room for PaliGemma's 1,152 places and segments
    config = PaliGemmaConfig(
        text_config={
            "model_type": "gemma", **SHAPE, "vocab_size": size, "num_key_value_heads": 1, "head_dim": 8,
            "max_position_embeddings": 128, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2,
        },
        vision_config={
            "model_type": "siglip_vision_model", **SHAPE, "image_size": SIDE, "patch_size": 8, "vision_use_head": False,
            "projection_dim": 16,
        },
        image_token_index=image,
        projection_dim=16,
        hidden_size=16,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = PaliGemmaForConditionalGeneration(config)
        varied(model)
    model.save_pretrained(folder)
    return folder
