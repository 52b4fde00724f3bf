"""CLIP score: the fit of a picture to the prompt that it was made from.

Hessel et al. 2021, "CLIPScore" (arXiv:2104.08718), section 3, in the scale that image generation reports: 100 times the
cosine between both embeddings, and 0 where it is negative (the paper's own weight is 2.5 instead of 100).
"""

from __future__ import annotations

from collections.abc import Sequence

from audit.instruments.detectors import folders
from audit.instruments.detectors.base import package_versions
from audit.instruments.detectors.clip_zero_shot import load_clip, picture_embeddings, text_embeddings, unreadable
from audit.instruments.quality.base import Reading, Task, make_instrument
from audit.instruments.quality.method import QualityMethod
from audit.instruments.quality.networks import NetworkParameters, resolve
from audit.records import QualityInstrument
from audit.spec.quality import QualitySpec

VERSION = "1"


class ClipScore:
    """The CLIP score as an instrument: numbers in 0..100. A prompt that the text encoder cannot read in full has no score."""

    def __init__(self, entry: QualitySpec, device: str) -> None:
        self._ref, self._device = resolve(entry, ("clip",)), device
        self._instrument = make_instrument(
            entry,
            version=VERSION,
            package=package_versions("transformers", "torch"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            metrics=("clip-score",),
            parameters={"weight": 100, "prompt": "as it was given to the model"},
        )

    @property
    def instrument(self) -> QualityInstrument:
        """Everything that determines the readings."""
        return self._instrument

    def read(self, tasks: Sequence[Task]) -> list[Reading]:
        """Return one score per task, or the reason why its prompt cannot be read."""
        network, _, tokenizer = load_clip(self._ref, self._device)
        prompts = [task.prompt or "" for task in tasks]
        problems = [unreadable(network, tokenizer, prompt) if prompt.strip() else "is empty" for prompt in prompts]
        readable = [index for index, problem in enumerate(problems) if problem is None]
        readings = [Reading(error=f"the prompt {problem}") for problem in problems]
        if readable:
            pictures = picture_embeddings(self._ref, self._device, [tasks[i].picture for i in readable])
            texts = text_embeddings(self._ref, self._device, [prompts[i] for i in readable])
            cosines = (pictures * texts).sum(-1).double().cpu().tolist()
            for index, cosine in zip(readable, cosines, strict=True):
                readings[index] = Reading(value=100 * max(cosine, 0.0) if cosine == cosine else cosine)
        return readings


METHOD = QualityMethod("clip-score", VERSION, NetworkParameters, ClipScore, "arXiv:2104.08718")
