"""GroundingDINO: boxes of whatever a caption names, for any folder of `GroundingDinoForObjectDetection`.

Liu et al. 2023, "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object Detection"
(arXiv:2303.05499). `IDEA-Research/grounding-dino-tiny` (SwinT-OGC) is the judge of Receler's public CIFAR-10 protocol:
the caption is the bare class name, alone in its forward pass; box and text threshold are 0.5; a picture is positive when
one box is left; shorter side 800, longer side at most 1333, ImageNet's mean and deviation (the folder's own settings).

Every box's score is its highest token probability, as the method's authors have it, and boxes are stored raw from
`score_floor` upwards: the box threshold is applied in SQL (at or above, where the authors' comparison is strict). The
text threshold only says which words of the caption a box is given, so the protocol's count does not depend on it.
`require_phrase` asks for more: a box whose phrase is empty, because nothing but punctuation and special tokens passed
the text threshold, is dropped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel

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
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec, words_of
from audit.weights.references import ModelRef, resolve_model

if TYPE_CHECKING:
    import torch
    from transformers import GroundingDinoForObjectDetection, PreTrainedTokenizerBase
    from transformers.image_processing_base import ImageProcessingMixin

NAME = "grounding-dino"
VERSION = "1"
SCORE_FLOOR = 0.1  # of the 900 queries of a picture nearly all lie below it
TEXT_THRESHOLD = 0.5
FORWARD = 4  # pictures per forward pass: at 800 x 1333 pixels each takes gigabytes of activations
# [CLS] [SEP] . ? of bert-base-uncased, by which the network cuts captions into phrases
_SPECIAL = (101, 102, 1012, 1029)


class Parameters(BaseModel):
    """Parameters of GroundingDINO as a detector."""

    extra_classes: tuple[str, ...] = ()
    "Phrases that become further labels."
    score_floor: float = SCORE_FLOOR
    "Least score of a box that is stored, between 0 and 1."
    require_phrase: bool = False
    "Drop boxes in which no word of the caption passes `text_threshold`."
    text_threshold: float = TEXT_THRESHOLD
    "Probability that a word has to exceed, between 0 and 1; for `require_phrase` alone."


class GroundingDino(BaseDetector):
    """GroundingDINO as a detector.

    Scores are boxes: label, probability in `score_floor`..1 and (x, y, width, height) in pixels of the picture.
    Labels are the concepts' and neighbours' names, and `extra_classes`; each is asked for by its own caption.
    """

    def __init__(self, spec: DetectorSpec, concepts: Sequence[Concept], device: str = "cpu") -> None:
        check_parameters(
            spec,
            tuple(Parameters.model_fields),
            unused=("templates", "background"),
        )
        self._ref = _resolve(spec)
        self._device = device
        self._captions = _captions(spec, concepts)
        self._floor = _probability(spec, "score_floor", SCORE_FLOOR)
        self._text = _probability(spec, "text_threshold", TEXT_THRESHOLD)
        required = spec.parameters.get("require_phrase", False)
        if not isinstance(required, bool):
            raise _mistake(spec, "parameters.require_phrase", "require_phrase must be true or false", "write true")
        if "text_threshold" in spec.parameters and not required:
            raise _mistake(
                spec,
                "parameters.text_threshold",
                "a text threshold decides nothing while every box counts",
                "remove it, or set require_phrase: true",
            )
        self._required = required
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=tuple(self._captions),
            score_floor=self._floor,
            parameters={"captions": self._captions, "require_phrase": required, "text_threshold": self._text},
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        _tokens(self._ref, self._device, tuple(self._captions.values()))

    def _scores(self, images: Sequence[Pixels]) -> list[Scores]:
        """Return boxes. Pictures of one size go together: padding to the largest would reach the network and its scores."""
        results: list[Scores] = [()] * len(images)
        sizes: dict[tuple[int, ...], list[int]] = {}
        for index, image in enumerate(images):
            sizes.setdefault(image.shape[:2], []).append(index)
        for places in sizes.values():
            for start in range(0, len(places), FORWARD):
                chosen = places[start : start + FORWARD]
                for index, scores in zip(chosen, self._forward([images[i] for i in chosen]), strict=True):
                    results[index] = scores
        return results

    def _forward(self, images: Sequence[Pixels]) -> list[Scores]:
        """Return boxes of pictures of equal size, with one forward pass per caption."""
        import torch
        from PIL import Image

        network, processor, _ = _network(self._ref, self._device)
        inputs = processor([Image.fromarray(image) for image in images], return_tensors="pt").to(self._device)
        captions = _tokens(self._ref, self._device, tuple(self._captions.values()))
        scores: list[list[LabelScore]] = [[] for _ in images]
        for label, tokens in zip(self._captions, captions, strict=True):
            text = {name: values.expand(len(images), -1) for name, values in tokens.items()}
            with torch.inference_mode():
                output = network(pixel_values=inputs["pixel_values"], pixel_mask=inputs["pixel_mask"], **text)
            words = ~torch.isin(tokens["input_ids"][0], torch.tensor(_SPECIAL, device=self._device))
            for index, image in enumerate(images):
                boxes = kept_boxes(
                    output.logits[index],
                    output.pred_boxes[index],
                    words,
                    floor=self._floor,
                    text_threshold=self._text if self._required else None,
                )
                height, width = image.shape[:2]
                scores[index] += [LabelScore(label, score, _pixels(box, width, height)) for score, box in boxes]
        return [tuple(own) for own in scores]


def kept_boxes(
    logits: torch.Tensor,
    boxes: torch.Tensor,
    words: torch.Tensor,
    *,
    floor: float,
    text_threshold: float | None,
) -> list[tuple[float, tuple[float, ...]]]:
    """Return (score, box) of the queries with a score of at least `floor`, best first.

    `logits` (queries, text positions) are those of the network, minus infinity where the caption has no token; `boxes`
    (queries, 4) are centre x, centre y, width and height as shares of the picture; `words` (tokens,) says which tokens
    of the caption are words. A score is the highest probability of any token. With `text_threshold` only boxes stay
    that give some word more than it. Raises `DetectorError` for numbers that are not finite: NaN fails every
    comparison, so it would read as 'no boxes'.
    """
    import torch

    length = len(words)
    if not (torch.isfinite(logits[:, :length]).all() and torch.isfinite(boxes).all()):
        raise DetectorError("the network's output is not finite")
    tokens = logits[:, :length].double().sigmoid()
    scores = tokens.amax(-1)
    keep = scores >= floor
    if text_threshold is not None:
        named = tokens[:, words]
        keep &= (named > text_threshold).any(-1)
    order = scores[keep].argsort(descending=True, stable=True)
    pairs = zip(scores[keep][order].tolist(), boxes[keep][order].double().tolist(), strict=True)
    return [(score, tuple(box)) for score, box in pairs]


def _pixels(box: Sequence[float], width: int, height: int) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return ((x - w / 2) * width, (y - h / 2) * height, w * width, h * height)


def _resolve(spec: DetectorSpec) -> ModelRef:
    next_step = "set 'model' to a folder of IDEA-Research/grounding-dino-tiny, or to org/name@<40-hex commit>"
    if spec.model is None:
        raise _mistake(spec, "model", "names no model", next_step)
    ref = resolve_model(spec.model, testbed_name="classifier")
    kind = folders.model_type(ref)
    if kind != NAME:
        raise _mistake(spec, "model", f"is no GroundingDINO folder (model_type {kind!r})", next_step)
    return ref


def _captions(spec: DetectorSpec, concepts: Sequence[Concept]) -> Mapping[str, str]:
    """Return label -> caption, by label: lower case with one full stop at the end, as the authors of the method write it."""
    extra = spec.parameters.get("extra_classes", ())
    if not isinstance(extra, list | tuple) or not all(isinstance(name, str) and name.strip() for name in extra):
        raise _mistake(spec, "parameters.extra_classes", "must be a list of phrases", "write [dog, cat]")
    phrases = {concept.name: concept.phrase for concept in concepts}
    for concept in concepts:
        for name in concept.neighbours:
            phrases.setdefault(name, concept.phrase_of(name))
    for name in extra:
        phrases.setdefault(name, words_of(name))
    captions = {label: f"{phrases[label].strip().lower().rstrip('.')}." for label in sorted(phrases)}
    for label, caption in captions.items():
        if any(mark in caption[:-1] for mark in ".?"):
            raise _mistake(
                spec, "labels", f"the caption {caption!r} of {label!r} would be cut into two phrases", "use one phrase"
            )
    return captions


def _probability(spec: DetectorSpec, name: str, default: float) -> float:
    value = spec.parameters.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise _mistake(spec, f"parameters.{name}", f"{name} must lie between 0 and 1", f"write {name}: {default}")
    return float(value)


def _mistake(spec: DetectorSpec, field: str, what: str, next_step: str) -> DetectorError:
    return DetectorError(f"detector {spec.name!r}: {what}", where=f"detectors.{spec.name}.{field}", next_step=next_step)


@once_per_process
def _network(
    ref: ModelRef, device: str
) -> tuple[GroundingDinoForObjectDetection, ImageProcessingMixin, PreTrainedTokenizerBase]:
    """Load the network, its image processor and its tokenizer."""
    from transformers import AutoTokenizer, GroundingDinoForObjectDetection

    network = folders.load_network(GroundingDinoForObjectDetection, ref, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(ref.path, local_files_only=True, trust_remote_code=False)
    except BaseException as error:
        raise _unreadable(ref, reason(error)) from error
    if tuple(tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]", ".", "?"])) != _SPECIAL:
        raise _unreadable(ref, "it numbers [CLS], [SEP], '.' and '?' otherwise than the network expects")
    return network, folders.load_image_processor(ref), tokenizer


@once_per_process
def _tokens(ref: ModelRef, device: str, captions: tuple[str, ...]) -> tuple[dict[str, torch.Tensor], ...]:
    """Return input ids, token types and attention mask (1, tokens) of each caption. Raises `DetectorError` for one that the
    network cannot read in full."""
    network, _, tokenizer = _network(ref, device)
    encoded = []
    for caption in captions:
        tokens = tokenizer(caption, return_tensors="pt", return_token_type_ids=True)
        ids = tokens["input_ids"][0].tolist()
        if len(ids) > network.config.max_text_len:
            problem = f"has {len(ids)} tokens, and it reads {network.config.max_text_len}"
        elif tokenizer.unk_token_id in ids:
            problem = "contains a character outside its vocabulary"
        else:
            names = ("input_ids", "token_type_ids", "attention_mask")
            encoded.append({name: tokens[name].to(device) for name in names})
            continue
        raise DetectorError(
            f"the detector's text encoder cannot read the caption {caption!r}: it {problem}",
            where=str(ref.path),
            next_step="shorten the phrase or write it in words that this model knows",
        )
    return tuple(encoded)


def _unreadable(ref: ModelRef, why: str) -> DetectorError:
    return DetectorError(
        f"the detector's tokenizer cannot be used: {why}",
        where=str(ref.path),
        next_step="download or copy the whole model folder, with its vocabulary",
    )


METHOD = DetectorMethod(NAME, VERSION, Parameters, GroundingDino, "arXiv:2303.05499")
