"""The two families of question answering networks: what they read, and the answer with the probability of its first token."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from audit.diffusion.text import tokenizer_errors
from audit.errors import DetectorError
from audit.instruments.detectors import folders
from audit.instruments.detectors.base import Pixels, once_per_process
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.image_processing_base import ImageProcessingMixin

ANSWERS = ("yes", "no")
NEW_TOKENS = 8  # an answer of more words than that is no yes or no


@dataclasses.dataclass(frozen=True)
class Answered:
    """One answer: its text, and the probability of 'yes' as its first token among 'yes' and 'no'."""

    text: str
    yes: float


@dataclasses.dataclass(frozen=True)
class _Loaded:
    network: PreTrainedModel
    processor: ImageProcessingMixin
    tokenizer: PreTrainedTokenizerBase
    joint: Callable[..., Mapping[str, torch.Tensor]] | None  # PaliGemma's own processor of picture and text
    first: tuple[int, int]  # first token of 'yes' and of 'no'


def answers(kind: str, ref: ModelRef, device: str, images: Sequence[Pixels], prompt: str) -> list[Answered]:
    """Return the greedy answers of the network at `ref` to one prompt, one for each picture.

    Raises `DetectorError` for outputs that are not finite.
    """
    import torch

    loaded = _loaded(kind, ref, device)
    inputs = _inputs(ref, loaded, device, images, prompt)
    with torch.inference_mode():
        output = loaded.network.generate(
            **inputs,
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    first = output.logits[0][:, list(loaded.first)].cpu().double()
    if not torch.isfinite(first).all():
        raise DetectorError("the network's output is not finite")
    written = output.sequences[:, 0 if kind == "blip" else inputs["input_ids"].shape[1] :]
    with tokenizer_errors(ref.path):
        texts = loaded.tokenizer.batch_decode(written, skip_special_tokens=True)
    shares = first.softmax(-1)[:, 0].tolist()
    return [Answered(text.strip(), share) for text, share in zip(texts, shares, strict=True)]


def check_prompts(kind: str, ref: ModelRef, device: str, prompts: Sequence[str]) -> None:
    """Load the network. Raises `DetectorError` for a prompt that it cannot read in full."""
    loaded = _loaded(kind, ref, device)
    longest = loaded.network.config.text_config.max_position_embeddings
    if kind != "blip":
        longest -= int(getattr(loaded.processor, "image_seq_length", 0)) + NEW_TOKENS + 2
    for prompt in prompts:
        with tokenizer_errors(ref.path):
            ids = loaded.tokenizer(prompt).input_ids
        problem = f"has {len(ids)} tokens, and it reads {longest}" if len(ids) > longest else None
        if loaded.tokenizer.unk_token_id is not None and loaded.tokenizer.unk_token_id in ids:
            problem = "contains a word outside its vocabulary"
        if problem is not None:
            raise DetectorError(
                f"the detector's network cannot read the question {prompt!r}: it {problem}",
                where=str(ref.path),
                next_step="use words that this model was trained on, or another model",
            )


def _inputs(
    ref: ModelRef, loaded: _Loaded, device: str, images: Sequence[Pixels], prompt: str
) -> dict[str, torch.Tensor]:
    import numpy as np
    import torch
    from PIL import Image

    if loaded.joint is None:
        with tokenizer_errors(ref.path):
            encoded = loaded.tokenizer([prompt] * len(images), return_tensors="pt", return_token_type_ids=False)
        text = {name: values.to(device) for name, values in encoded.items()}
        return {"pixel_values": folders.pixel_values(loaded.processor, images, device), **text}
    pictures = [[Image.fromarray(image)] for image in images]
    # Lists, for the processor turns tensors into arrays in a way that numpy 2 warns of.
    given = loaded.joint(images=pictures, text=[f"<image>{prompt}"] * len(images))
    names = ("input_ids", "attention_mask", "pixel_values", "token_type_ids")
    return {name: torch.from_numpy(np.stack([np.asarray(one) for one in given[name]])).to(device) for name in names}


@once_per_process
def _loaded(kind: str, ref: ModelRef, device: str) -> _Loaded:
    from transformers import (
        AutoTokenizer,
        BlipForQuestionAnswering,
        PaliGemmaForConditionalGeneration,
        PaliGemmaProcessor,
    )

    family = BlipForQuestionAnswering if kind == "blip" else PaliGemmaForConditionalGeneration
    network = folders.load_network(family, ref, device)
    processor = folders.load_image_processor(ref)
    with tokenizer_errors(ref.path, "loaded"):
        tokenizer = AutoTokenizer.from_pretrained(ref.path, local_files_only=True, trust_remote_code=False)
        joint = None if kind == "blip" else PaliGemmaProcessor(processor, tokenizer)
    with tokenizer_errors(ref.path):
        yes, no = (tokenizer(word, add_special_tokens=False).input_ids[:1] for word in ANSWERS)
    known = network.config.text_config.vocab_size
    if not yes or not no or yes == no or tokenizer.unk_token_id in (*yes, *no) or max(*yes, *no) >= known:
        raise DetectorError(
            "the detector's tokenizer cannot tell the answers 'yes' and 'no' apart by their first token",
            where=str(ref.path),
            next_step="use the tokenizer that belongs to this network",
        )
    return _Loaded(network, processor, tokenizer, joint, (yes[0], no[0]))
