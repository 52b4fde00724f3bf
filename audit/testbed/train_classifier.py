"""Train the multi-label image classifier: convolutional, so that its errors are not the judges' errors."""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification

from audit.testbed.captions import ALL_CLASSES
from audit.testbed.data import NOTHING, load_scenes
from audit.testbed.loop import Training, build
from audit.testbed.train_judges import augment

SCENES, STEPS, BATCH, SEED, PEAK = 12_000, 1_750, 96, 31, 2e-3


def _make() -> ResNetForImageClassification:
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=32,
            hidden_sizes=[32, 64, 96, 128],
            depths=[1, 1, 1, 1],
            layer_type="basic",
            num_labels=len(ALL_CLASSES),
            id2label=dict(enumerate(ALL_CLASSES)),
            label2id={name: i for i, name in enumerate(ALL_CLASSES)},
            problem_type="multi_label_classification",
        )
    )


def train_classifier(folder: Path, scale: float = 1.0) -> ResNetForImageClassification:
    """Train the classifier, one sigmoid per class; return it in evaluation mode."""
    scenes = load_scenes(folder, SCENES, everything=True)
    model = build(_make, SEED)
    training = Training("classifier", folder, {"resnet": model}, steps=int(STEPS * scale), peak=PEAK, seed=SEED)
    labels = torch.zeros(len(scenes), len(ALL_CLASSES) + 1)
    kinds = torch.from_numpy(scenes.objects[:, :, 0])
    labels.scatter_(1, torch.where(kinds == NOTHING, len(ALL_CLASSES), kinds), 1.0)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch that `generator` draws."""
        rows = torch.randint(len(scenes), (BATCH,), generator=generator)
        images = augment(scenes.batch(rows), generator).to(training.device)
        logits = model(pixel_values=images).logits.float()
        return functional.binary_cross_entropy_with_logits(logits, labels[rows, :-1].to(training.device))

    training.run(loss_of)
    return model
