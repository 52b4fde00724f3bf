"""Block prompts by a list of words, or by a text classifier. The prompt is all that is read: nothing is sampled for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from audit.errors import CheckpointError
from audit.files import reason
from audit.filters.loading import named
from audit.filters.prompt_filter_parameters import METHOD, labels_of
from audit.filters.protocol import Parts, PromptFilter, Ruling
from audit.filters.words import WordFinder
from audit.instruments.detectors import folders
from audit.instruments.detectors.base import once_per_process
from audit.methods.parameters import Values
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class WordFilter(PromptFilter):
    """Blocks a prompt that has a listed word or phrase, as `audit.filters.words` compares them."""

    name, version = METHOD.name, METHOD.version

    def __init__(self, words: Sequence[str]) -> None:
        self._finder = WordFinder(words)

    def rule(self, prompts: Sequence[str]) -> list[Ruling]:
        """Return one ruling per prompt, with the words that were found."""
        found = [self._finder.found(prompt) for prompt in prompts]
        return [
            Ruling(bool(words), {"words_found": len(words)}, {"words": ", ".join(words)} if words else {})
            for words in found
        ]


class ClassifierFilter(PromptFilter):
    """Blocks a prompt whose probability of one label reaches a threshold. A prompt that is too long is cut, and says so."""

    name, version = METHOD.name, METHOD.version

    def __init__(self, model: ModelRef, device: str, label: str, threshold: float) -> None:
        self._model, self._device, self._label, self._threshold = model, device, label, threshold

    def rule(self, prompts: Sequence[str]) -> list[Ruling]:
        """Return one ruling per prompt, with the probability of the label."""
        return [self._one(prompt) for prompt in prompts]  # one by one: padding would move the last digits

    def _one(self, prompt: str) -> Ruling:
        with named(self.name):
            network, tokenizer, longest = _load(self._model, self._device)
        whole = len(tokenizer(prompt, truncation=False, verbose=False)["input_ids"])
        encoded = tokenizer(prompt, truncation=True, max_length=longest, return_tensors="pt").to(self._device)
        with torch.inference_mode():
            logits = network(**encoded).logits[0].double()
        many = len(logits) == 1 or network.config.problem_type == "multi_label_classification"
        shares = logits.sigmoid() if many else logits.softmax(-1)
        share = float(shares[labels_of(self._model).index(self._label)])
        return Ruling(share >= self._threshold, {"probability": share, "tokens_cut": max(whole - longest, 0)})


@once_per_process
def _load(model: ModelRef, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, int]:
    """Load a classifier strictly, with its tokenizer and the number of tokens that it reads."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    network = folders.load_network(AutoModelForSequenceClassification, model, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model.path, local_files_only=True, trust_remote_code=False)
    except BaseException as error:  # files from outside: what they break is anybody's error, panics of Rust too
        raise CheckpointError(
            f"the classifier's tokenizer cannot be loaded: {reason(error)}",
            where=str(model.path),
            next_step="download or copy the whole model folder, with its vocabulary",
        ) from None
    positions = getattr(network.config, "max_position_embeddings", None) or tokenizer.model_max_length
    return network, tokenizer, int(min(tokenizer.model_max_length, positions))


def build(values: Values, parts: Parts) -> PromptFilter:
    """Return a prompt filter."""
    if "words" in values:
        return WordFilter(values["words"])
    return ClassifierFilter(
        parts.model(values["classifier_sha256"]), parts.device, values["label"], values["threshold"]
    )
