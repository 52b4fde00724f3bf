"""Pictures of every class from the testbed, plain or erased, and how many of them each judge finds the class in."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import safetensors.torch
import torch

from audit import identity
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.erasers.produce import applied
from audit.files import write_atomically
from audit.instruments import detectors
from audit.instruments.detectors.base import Detector
from audit.spec.sections import Concept, DetectorSpec
from audit.testbed.captions import ALL_CLASSES, CLASSES, class_prompt

HERE = Path(__file__).parent
GUIDANCE, STEPS = 3.0, 25  # more guidance exaggerates shapes: from 5 on, hexagons grow spikes and diamonds vanish
JUDGES = ("classifier", "judge")  # never `energy`: a guard may optimise against it
THRESHOLD, BATCH = 0.5, 50
COUNTS = "counts.json"  # in the build folder
Counts = dict[str, dict[str, int]]  # class -> judge -> hits
Pixels = npt.NDArray[np.uint8]


def build_detectors(device: str) -> list[Detector]:
    """The two judges and the classifier as an audit would load them, as far as their weights are there."""
    concepts = [Concept(name=name, phrase=name) for name in ALL_CLASSES]
    background = tuple(f"a photo of an empty {name} background" for name in ("white", "gray", "black"))
    specs = [
        DetectorSpec(name="judge", kind="clip-zero-shot", model="testbed/judge", background=background),
        DetectorSpec(name="energy", kind="clip-zero-shot", model="testbed/energy", background=background),
        DetectorSpec(name="classifier", kind="classifier", model="testbed/classifier"),
    ]
    return [detectors.build(spec, concepts, device) for spec in specs if (HERE / "weights" / spec.name).is_dir()]


def class_scores(detector: Detector, images: list[Pixels]) -> npt.NDArray[np.float64]:
    """Scores (N, classes) in the order of `ALL_CLASSES`; raises when an image could not be measured."""
    rows = []
    for measured in detector.measure(images):
        if measured.scores is None:
            raise RuntimeError(f"{detector.instrument.detector}: {measured.error}")
        found = {score.label: score.score for score in measured.scores}
        rows.append([found[name] for name in ALL_CLASSES])
    return np.array(rows)


def generate(pipeline: Pipeline, prompt: str, seeds: list[int]) -> list[Pixels]:
    """Pictures (64, 64, 3) of one prompt, one per seed, sampled in bfloat16."""
    texts = (prompt,) * len(seeds)
    states, null = pipeline.encode_text(texts), pipeline.encode_text([""] * len(seeds))
    conditioning = Conditioning(states, null, GUIDANCE, texts)
    noise = initial_noise(seeds, pipeline.latent_shape).to(pipeline.device)
    with torch.autocast(pipeline.device.type, torch.bfloat16):
        made = sample(noise_model(pipeline.unet), pipeline.schedule(STEPS), noise, conditioning)
    images = (pipeline.decode_latents(made.latents) / 2 + 0.5) * 255
    if not torch.isfinite(images).all():
        raise RuntimeError(f"a picture of {prompt!r} is not finite: nothing found in it would be no evidence")
    return list(images.permute(0, 2, 3, 1).round().to(torch.uint8).cpu().numpy())


@dataclasses.dataclass(frozen=True)
class Artefact:
    """One erased model of `erased/`."""

    method: str
    concept: str
    path: Path


def pictures(pipeline: Pipeline, cls: str, seeds: int) -> list[Pixels]:
    """`seeds` pictures of the plain prompt for a class."""
    starts = range(0, seeds, BATCH)
    made = (generate(pipeline, class_prompt(cls), list(range(at, min(at + BATCH, seeds)))) for at in starts)
    return [picture for batch in made for picture in batch]


def count(judges: Sequence[Detector], made: list[Pixels], cls: str) -> dict[str, int]:
    """Hits by judge in pictures of a class."""
    row = ALL_CLASSES.index(cls)
    return {j.instrument.detector: int((class_scores(j, made)[:, row] >= THRESHOLD).sum()) for j in judges}


class Counter:
    """Counts of every model, kept in one file by the digests of weights and judges.

    The pictures are kept beside it, by the digest of the weights: other judges then look at them without a new sampling.
    """

    def __init__(self, pipeline: Pipeline, judges: Sequence[Detector], seeds: int, path: Path) -> None:
        self.pipeline, self.judges, self.seeds, self.path = pipeline, judges, seeds, path
        self.kept: dict[str, Counts] = json.loads(path.read_text()) if path.exists() else {}

    def counts(self, artefact: Artefact | None) -> Counts:
        """Hits by class and judge of one erased model, or of the backbone."""
        weights = identity.file_sha256(artefact.path) if artefact else None
        instruments = [judge.instrument.weights_sha256 for judge in self.judges]
        key = identity.key([self.pipeline.ref.sha256, weights, instruments, self.seeds, GUIDANCE, STEPS, THRESHOLD])
        found = self.kept.setdefault(key, {})
        label = artefact.path.parent.name if artefact else "backbone"
        for cls in CLASSES:
            if cls not in found:
                found[cls] = self._measure(artefact, weights, cls)
                print(f"{label} {cls}: {found[cls]} of {self.seeds}", file=sys.stderr, flush=True)
                text = json.dumps(self.kept)
                write_atomically(self.path, lambda partial, text=text: partial.write_text(text))  # type: ignore[misc]
        return found

    def _measure(self, artefact: Artefact | None, weights: str | None, cls: str) -> dict[str, int]:
        described = [self.pipeline.ref.sha256, weights, cls, self.seeds, GUIDANCE, STEPS, class_prompt(cls)]
        kept = self.path.parent / f"pictures-{identity.key(described)[:16]}.npy"
        if not kept.exists():
            made = np.stack(self._pictures(artefact, cls))
            write_atomically(kept, lambda partial: _save(partial, made))
        return count(self.judges, list(np.load(kept)), cls)

    def _pictures(self, artefact: Artefact | None, cls: str) -> list[Pixels]:
        if artefact is None:
            return pictures(self.pipeline, cls, self.seeds)
        tensors = {name: tensor.float() for name, tensor in safetensors.torch.load_file(artefact.path).items()}
        layout = "receler" if artefact.method == "receler" else "unet-partial"
        with applied(self.pipeline, layout, tensors):
            return pictures(self.pipeline, cls, self.seeds)


def _save(path: Path, array: npt.NDArray[np.uint8]) -> None:
    with path.open("wb") as stream:  # given a path, numpy would add a suffix of its own
        np.save(stream, array)
