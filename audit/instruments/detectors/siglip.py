"""SigLIP zero-shot: for each phrase by itself, the probability that it fits the picture.

Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training" (arXiv:2303.15343): the network was trained to tell fitting
from other texts one pair at a time, so a score is sigmoid(scale * cosine + bias) with the network's own scale and bias and
does not depend on which other phrases are asked. Folders of `SiglipModel` load, which SigLIP 2 (arXiv:2502.14786) at a fixed
resolution is too.

Texts are read as in training: in lower case, for the first SigLIP without punctuation, padded to the encoder's full length.
Several templates are averaged as unit embeddings.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel

from audit.diffusion.text import tokenizer_errors
from audit.errors import DetectorError
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
from audit.instruments.detectors.phrases import folder_of, mistake, phrases, require_place
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase, SiglipModel
    from transformers.image_processing_base import ImageProcessingMixin

NAME = "siglip"
VERSION = "1"
_EXAMPLE = "a folder of google/siglip-base-patch16-224 or one like it, or to org/name@<40-hex commit>"
_SENTENCEPIECE = "SiglipTokenizer"  # strips punctuation in Python, which its tokenizer.json does not say
_SPACE = re.compile(r"\s+")

Prompts = tuple[tuple[str, ...], ...]  # one tuple per label


class Parameters(BaseModel):
    """Parameters of SigLIP as a detector."""

    extra_classes: tuple[str, ...] = ()
    "Phrases that become further labels."


class Siglip(BaseDetector):
    """SigLIP as a detector. Scores are probabilities in 0..1, one per label, each independent of the others."""

    def __init__(self, spec: DetectorSpec, concepts: Sequence[Concept], device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields), unused=("background",))
        self._ref = folder_of(spec, ("siglip",), _EXAMPLE)
        self._device = device
        strip = _tokenizer_class(spec, self._ref) == _SENTENCEPIECE
        for template in spec.templates:
            require_place(spec, "templates", template, "a photo of a {phrase}")
        named = phrases(spec, concepts)
        prompts = {
            label: tuple(
                canonical_text(template.replace("{phrase}", phrase), strip)
                for phrase in named[label]
                for template in spec.templates
            )
            for label in sorted(named)
        }
        self._prompts: Prompts = tuple(prompts.values())
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch", "tokenizers"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=tuple(prompts),
            score_floor=0.0,
            parameters={"prompts": prompts},
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        _embeddings(self._ref, self._device, self._prompts)

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        import torch

        network, processor, _ = _network(self._ref, self._device)
        texts = _embeddings(self._ref, self._device, self._prompts)
        with torch.inference_mode():
            values = folders.pixel_values(processor, images, self._device)
            pictures = torch.nn.functional.normalize(network.vision_model(pixel_values=values).pooler_output, dim=-1)
            logits = network.logit_scale.exp() * pictures @ texts.T + network.logit_bias
        labels = self._instrument.labels
        return [
            tuple(LabelScore(label, score) for label, score in zip(labels, row, strict=True))
            for row in logits.cpu().double().sigmoid().tolist()
        ]

    def self_test(self) -> None:
        """Raise `DetectorError` unless the scores are those of the network's own joint pass over picture and texts."""
        import torch

        super().self_test()
        if any(len(texts) > 1 for texts in self._prompts):
            return  # averaged embeddings have no counterpart in the joint pass
        network, processor, _ = _network(self._ref, self._device)
        picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
        with torch.inference_mode():
            inputs = _encoded(self._ref, [texts[0] for texts in self._prompts], self._device)
            values = folders.pixel_values(processor, [picture], self._device)
            joint = network(pixel_values=values, **inputs).logits_per_image[0].sigmoid().tolist()
        own = [score.score for score in self.measure([picture])[0].scores or ()]
        if len(own) != len(joint) or max(abs(a - b) for a, b in zip(own, joint, strict=True)) > 1e-3:
            raise DetectorError(
                f"detector {self._instrument.detector!r} does not score as its own network does",
                where=str(self._ref.path),
                next_step="run 'erasure-audit doctor' and check the model folder",
            )


def canonical_text(text: str, strip_punctuation: bool) -> str:
    """Return a text as SigLIP was trained to read it: lower case, single spaces, and for the first one no punctuation."""
    text = text.lower()
    if strip_punctuation:
        text = text.translate(str.maketrans("", "", string.punctuation))
    return _SPACE.sub(" ", text).strip()


def _tokenizer_class(spec: DetectorSpec, ref: ModelRef) -> str:
    """Return the class that the folder names for its tokenizer. Raises `DetectorError` when it lacks tokenizer.json."""
    if not (ref.path / "tokenizer.json").is_file():
        raise mistake(
            spec,
            "model",
            "the folder has no tokenizer.json, and its sentencepiece model alone cannot be read",
            "download or copy the whole model folder, with tokenizer.json",
        )
    settings = ref.path / "tokenizer_config.json"
    return str(read_json(settings).get("tokenizer_class", "")) if settings.is_file() else ""


@once_per_process
def _network(ref: ModelRef, device: str) -> tuple[SiglipModel, ImageProcessingMixin, PreTrainedTokenizerBase]:
    """Load the network, its image processor and its tokenizer."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast, SiglipModel

    network = folders.load_network(SiglipModel, ref, device)
    settings: Mapping[str, object] = {}
    if (ref.path / "tokenizer_config.json").is_file():
        settings = read_json(ref.path / "tokenizer_config.json")
    loader = PreTrainedTokenizerFast if settings.get("tokenizer_class") == _SENTENCEPIECE else AutoTokenizer
    with tokenizer_errors(ref.path, "loaded"):
        tokenizer = loader.from_pretrained(ref.path, local_files_only=True, trust_remote_code=False)
    return network, folders.load_image_processor(ref), tokenizer


@once_per_process
def _embeddings(ref: ModelRef, device: str, prompts: Prompts) -> torch.Tensor:
    """Return the unit mean of the unit embeddings of each label's prompts, labels x D."""
    import torch

    network, _, _ = _network(ref, device)
    rows = []
    for texts in prompts:
        inputs = _encoded(ref, texts, device)
        with torch.inference_mode():
            units = torch.nn.functional.normalize(network.text_model(**inputs).pooler_output, dim=-1)
            rows.append(torch.nn.functional.normalize(units.mean(0), dim=-1))
    return torch.stack(rows)


def _encoded(ref: ModelRef, texts: Sequence[str], device: str) -> dict[str, torch.Tensor]:
    """Return the text encoder's input. Raises `DetectorError` for a text that it cannot read in full."""
    network, _, tokenizer = _network(ref, device)
    longest = network.config.text_config.max_position_embeddings
    for text in texts:
        with tokenizer_errors(ref.path):
            ids = tokenizer(text).input_ids
        if len(ids) > longest:
            problem = f"has {len(ids)} tokens, and it reads {longest}"
        elif tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
            problem = "contains a word outside its vocabulary"
        else:
            continue
        raise DetectorError(
            f"the detector's text encoder cannot read the prompt {text!r}: it {problem}",
            where=str(ref.path),
            next_step="use words that this model was trained on, or another model",
        )
    with tokenizer_errors(ref.path):
        encoded = tokenizer(list(texts), padding="max_length", max_length=longest, return_tensors="pt")
    return {name: values.to(device) for name, values in encoded.items() if name != "token_type_ids"}


METHOD = DetectorMethod(NAME, VERSION, Parameters, Siglip, "arXiv:2303.15343")
