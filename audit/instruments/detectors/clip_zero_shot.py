"""CLIP zero-shot: the fit of a picture to the prompts of one concept, compared with that to all other prompts on offer.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision" (arXiv:2103.00020),
section 3.1.4: prompt templates are ensembled by averaging their normalised text embeddings. `openai/clip-vit-*` and the
testbed's judge load by the same class.

A softmax only compares: its value depends on everything in the prompt set, so the whole set is part of the instrument.
Every declared concept and neighbour is a label, `parameters.extra_classes` adds further ones, and `background` holds
the prompts of 'nothing of these'. `parameters.scoring` chooses what one label is compared with:

softmax   (default) with every other label and the background. Scores add up to 1: two objects in one picture share it.
pairwise  with the background prompts alone. Two objects can both score high, which suits scenes with several objects;
          but an object that merely resembles the concept also beats an empty background, so neighbours score higher.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from audit.diffusion.text import load_tokenizer
from audit.errors import DetectorError
from audit.files import reason
from audit.instruments.detectors import folders
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_parameters,
    make_instrument,
    once_per_process,
    package_versions,
)
from audit.instruments.detectors.method import DetectorMethod
from audit.instruments.detectors.phrases import choice, mistake, phrases, require_place
from audit.names import folded
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel, PreTrainedTokenizerBase
    from transformers.image_processing_base import ImageProcessingMixin

NAME = "clip-zero-shot"
VERSION = "1"
BACKGROUND = "background"  # the label of all background prompts together
_SCORINGS = ("softmax", "pairwise")


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """The prompts that pictures are compared with. Each label's are averaged; each background prompt stands alone."""

    labels: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]  # one tuple per label
    background: tuple[str, ...]


class Parameters(BaseModel):
    """Parameters of a zero-shot detector."""

    scoring: Literal["softmax", "pairwise"] = "softmax"
    "A label is compared with all other prompts (`softmax`), or with the background prompts alone (`pairwise`)."
    extra_classes: tuple[str, ...] = ()
    "Phrases that become further labels."
    synonyms: bool = False
    "Prompt a concept's synonyms as well."


class ClipZeroShot(BaseDetector):
    """A zero-shot detector. Scores are probabilities in 0..1 under the prompt set, one per label and one for the background."""

    def __init__(self, spec: DetectorSpec, concepts: Sequence[Concept], device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields))
        self._ref = folders.resolve(spec)
        self._device = device
        self._set = _prompt_set(spec, concepts)
        self._scoring = choice(spec, "scoring", _SCORINGS)
        if self._scoring == "pairwise" and not self._set.background:
            raise mistake(
                spec, "background", "pairwise scoring compares with the background, which has no prompts", "add some"
            )
        background = (BACKGROUND,) if self._set.background else ()
        if len(self._set.labels) + len(background) < 2:
            raise mistake(
                spec,
                "background",
                "one label alone always scores 1: a zero-shot detector needs something to compare with",
                "add background prompts, neighbours of the concept, or parameters.extra_classes",
            )
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=(*self._set.labels, *background),
            score_floor=0.0,
            parameters={
                "scoring": self._scoring,
                "prompts": dict(zip(self._set.labels, self._set.prompts, strict=True)),
                "background": self._set.background,
            },
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        _embeddings(self._ref, self._device, self._set)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        import torch

        network, _, _ = load_clip(self._ref, self._device)
        texts = _embeddings(self._ref, self._device, self._set)
        with torch.inference_mode():
            pictures = picture_embeddings(self._ref, self._device, images)
            logits = (network.logit_scale.exp() * pictures @ texts.T).cpu().double()
        probabilities = label_probabilities(logits, len(self._set.labels), self._scoring)
        return [
            tuple(LabelScore(label, score) for label, score in zip(self._instrument.labels, row, strict=True))
            for row in probabilities.tolist()
        ]


def label_probabilities(logits: torch.Tensor, labels: int, scoring: str) -> torch.Tensor:
    """Return the probabilities of the labels, then of the background if there is one: images x (labels + 0 or 1).

    `logits` holds one column per label followed by one per background prompt. The background's probability is the sum
    over its prompts; under pairwise scoring it is what the best label leaves over.
    """
    import torch

    concepts, background = logits[:, :labels], logits[:, labels:]
    if scoring == "pairwise":
        present = torch.sigmoid(concepts - background.logsumexp(-1, keepdim=True))
        return torch.cat([present, 1 - present.amax(-1, keepdim=True)], -1)
    shares = logits.softmax(-1)
    if not background.shape[-1]:
        return shares
    return torch.cat([shares[:, :labels], shares[:, labels:].sum(-1, keepdim=True)], -1)


def _prompt_set(spec: DetectorSpec, concepts: Sequence[Concept]) -> PromptSet:
    synonyms = spec.parameters.get("synonyms", False)
    if not isinstance(synonyms, bool):
        raise mistake(spec, "parameters.synonyms", "synonyms must be true or false", "write true or false")
    named = phrases(spec, concepts, synonyms=synonyms)
    if BACKGROUND in named:
        raise mistake(spec, "background", f"{BACKGROUND!r} is the name of the empty class", "rename that concept")
    for template in spec.templates:
        require_place(spec, "templates", template, "a photo of a {phrase}")
    prompts = {
        label: tuple(template.replace("{phrase}", phrase) for phrase in group for template in spec.templates)
        for label, group in named.items()
    }
    owners: dict[str, str] = {}
    for label, texts in (*prompts.items(), *((f"background prompt {text!r}", (text,)) for text in spec.background)):
        for text in texts:
            other = owners.setdefault(folded(text), label)
            if other != label:
                raise mistake(
                    spec,
                    "templates",
                    f"{label} and {other} share the prompt {text!r}, so no picture can tell them apart",
                    "give each concept its own phrase, and no synonym that is another's phrase",
                )
    # Sorted, because another order in the spec asks the network the same question.
    labels = sorted(prompts)
    return PromptSet(tuple(labels), tuple(prompts[label] for label in labels), tuple(sorted(set(spec.background))))


def picture_embeddings(ref: ModelRef, device: str, images: Sequence[Pixels]) -> torch.Tensor:
    """Return unit image embeddings (pictures, D) of the CLIP at `ref`."""
    import torch

    network, processor, _ = load_clip(ref, device)
    with torch.inference_mode():
        values = folders.pixel_values(processor, images, device)
        embeddings: torch.Tensor = _normalised(
            network.visual_projection(network.vision_model(pixel_values=values).pooler_output)
        )
        return embeddings


def text_embeddings(ref: ModelRef, device: str, texts: Sequence[str]) -> torch.Tensor:
    """Return unit text embeddings (texts, D) of the CLIP at `ref`; see `unreadable` for texts that it would cut short."""
    import torch

    network, _, tokenizer = load_clip(ref, device)
    with torch.inference_mode():
        encoded = tokenizer(list(texts), padding=True, return_tensors="pt")
        pooled = network.text_model(
            input_ids=encoded.input_ids.to(device), attention_mask=encoded.attention_mask.to(device)
        ).pooler_output
        embeddings: torch.Tensor = _normalised(network.text_projection(pooled))
        return embeddings


@once_per_process
def load_clip(ref: ModelRef, device: str) -> tuple[CLIPModel, ImageProcessingMixin, PreTrainedTokenizerBase]:
    """Load a CLIPModel with its image processor and its tokenizer."""
    from transformers import CLIPModel

    network = folders.load_network(CLIPModel, ref, device)
    tokenizer = load_tokenizer(ref.path)
    known, highest = network.config.text_config.vocab_size, max(tokenizer.get_vocab().values(), default=0)
    if highest >= known:
        raise folders.unusable(ref, f"its tokenizer has token ids up to {highest}, and its text encoder knows {known}")
    return network, folders.load_image_processor(ref), tokenizer


@once_per_process
def _embeddings(ref: ModelRef, device: str, prompts: PromptSet) -> torch.Tensor:
    """Return unit text embeddings, one row per label and then one per background prompt."""
    import torch

    try:
        rows = [_embed(ref, device, texts) for texts in (*prompts.prompts, *((text,) for text in prompts.background))]
    except BaseException as error:  # settings and vocabulary come from outside, and what they break is anybody's error
        raise folders.unusable(ref, f"its text encoder reads no prompt: {reason(error)}") from error
    return torch.stack(rows)


def _embed(ref: ModelRef, device: str, texts: Sequence[str]) -> torch.Tensor:
    """Return the unit mean of the unit embeddings of `texts`."""
    import torch

    network, _, tokenizer = load_clip(ref, device)
    _check_tokens(ref, network, tokenizer, texts)
    with torch.inference_mode():
        mean: torch.Tensor = _normalised(text_embeddings(ref, device, texts).mean(0))
        return mean


def unreadable(network: CLIPModel, tokenizer: PreTrainedTokenizerBase, text: str) -> str | None:
    """Return the reason why the text encoder cannot read `text` in full; None when it can.

    A CLIP tokenizer writes the end-of-text token for what it does not know, and the encoder stops reading there.
    """
    longest = network.config.text_config.max_position_embeddings
    ids = tokenizer(text).input_ids
    if len(ids) > longest:
        return f"has {len(ids)} tokens, and it reads {longest}"
    if tokenizer.unk_token_id in ids[1:-1]:
        return "contains a word outside its vocabulary"
    return None


def _check_tokens(ref: ModelRef, network: CLIPModel, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> None:
    """Raise `DetectorError` for a prompt that the text encoder cannot read in full."""
    for text in texts:
        problem = unreadable(network, tokenizer, text)
        if problem is not None:
            raise DetectorError(
                f"the detector's text encoder cannot read the prompt {text!r}: it {problem}",
                where=str(ref.path),
                next_step="use words that this model was trained on, or another model",
            )


def _normalised(vectors: torch.Tensor) -> torch.Tensor:
    return vectors / vectors.norm(dim=-1, keepdim=True)


METHOD = DetectorMethod(NAME, VERSION, Parameters, ClipZeroShot, "arXiv:2103.00020")
