"""Train two CLIPModels of different seed and shape on rendered scenes: `judge` scores, `energy` is for guards.

Contrastive, with every true pair of the batch as a positive: ground truth is known, so two scenes that the same caption
describes are not each other's negatives. Captions alone teach a vision transformer its first edges very slowly, so that
during training two linear heads also ask every patch and the whole picture what they show; they are thrown away.

Half of every batch has been through the testbed's VAE: what judges are asked about later was decoded from latents, and a
judge that has seen the renderer's own pictures only finds fewer of the generated objects.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from audit.testbed.captions import ALL_CLASSES, BACKGROUNDS, COLOURS, FILLS
from audit.testbed.data import NOTHING, PATCH, Scenes, load_scenes
from audit.testbed.loop import Training, build
from audit.testbed.saving import load_vae
from audit.testbed.statements import random_statement, standard_statements, truth
from audit.testbed.tokenizer import CONTEXT, make_tokenizer

SCENES, BATCH, PEAK = 144_000, 64, 1e-3  # fewer scenes are learnt by heart, 48,000 too
PAIRS = 38  # of a batch show two objects, which are smaller and harder than one
SHAKE = 0.3  # largest standard deviation of the noise on scaled latents: generated outlines are never exact
FADE = 0.4  # largest loss of contrast: generated objects are often paler than rendered ones


@dataclasses.dataclass(frozen=True)
class Shape:
    """Architecture and seed of one judge."""

    seed: int
    steps: int
    vision: int  # hidden size
    layers: int
    heads: int
    text: int


JUDGES = {
    "judge": Shape(seed=21, steps=19_000, vision=112, layers=4, heads=4, text=64),
    "energy": Shape(seed=22, steps=8_000, vision=96, layers=3, heads=3, text=48),
}


def _make(shape: Shape) -> CLIPModel:
    tokenizer = make_tokenizer()
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.text,
        intermediate_size=2 * shape.text,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CONTEXT,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=shape.vision,
        intermediate_size=3 * shape.vision,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        image_size=64,
        patch_size=PATCH,
    )
    config = CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=64)
    return CLIPModel._from_config(config, attn_implementation="eager")  # fused attention trains slower on CPUs


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pictures (B, 3, H, W) with a random mild blur, shift in brightness and noise: judges see decoded latents."""
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    strength = torch.rand((len(images), 1, 1, 1), generator=generator)
    shift = 0.1 * torch.randn((len(images), 3, 1, 1), generator=generator)
    noise = 0.08 * torch.rand((len(images), 1, 1, 1), generator=generator)
    mixed = images + 0.8 * strength * (blurred - images) + shift
    return (mixed + noise * torch.randn(images.shape, generator=generator)).clamp(-1, 1)


def faded(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return pictures (B, 3, H, W), each drawn towards its mean colour by a random share of at most `FADE`."""
    share = FADE * torch.rand((len(images), 1, 1, 1), generator=generator)
    return images + share * (images.mean((2, 3), keepdim=True) - images)


@torch.no_grad()
def decoded(images: torch.Tensor, vae: AutoencoderKL, generator: torch.Generator) -> torch.Tensor:
    """Return pictures (B, 3, H, W), every second one replaced by the decoder's picture of its slightly shaken latent."""
    latents = vae.encode(images[::2].to(vae.device)).latent_dist.mean.float().cpu()
    strength = SHAKE * torch.rand((len(latents), 1, 1, 1), generator=generator) / vae.config.scaling_factor
    latents = latents + strength * torch.randn(latents.shape, generator=generator)
    mixed = images.clone()
    mixed[::2] = vae.decode(latents.to(vae.device)).sample.float().cpu().clamp(-1, 1)
    return mixed


class Lessons(nn.Module):
    """What the renderer knows of a picture, asked of a vision transformer's last hidden states (B, 1 + patches, width)."""

    ABSENT_WEIGHT = 0.3  # most patches show no object

    def __init__(self, width: int, scenes: Scenes) -> None:
        super().__init__()
        self.per_patch = (len(ALL_CLASSES) + 1, len(COLOURS) + 1, len(FILLS) + 1)  # the last of each: no object
        self.whole = (len(ALL_CLASSES), len(ALL_CLASSES) * len(COLOURS), len(BACKGROUNDS))
        self.patch_head = nn.Linear(width, sum(self.per_patch))
        self.whole_head = nn.Linear(width, sum(self.whole))
        objects, shown = torch.from_numpy(scenes.objects), torch.from_numpy(scenes.patches)
        self.patch_answers = [
            torch.where(shown == NOTHING, size - 1, objects[:, :, attribute].gather(1, shown.clamp(min=0)))
            for attribute, size in enumerate(self.per_patch)
        ]
        classes, colours = objects[:, :, 0], objects[:, :, 1]
        self.present = _several_hot(classes, classes, self.whole[0])
        self.coloured = _several_hot(classes, classes * len(COLOURS) + colours, self.whole[1])
        self.backgrounds = torch.from_numpy(scenes.backgrounds)

    def loss(self, hidden: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        """Return the loss, a scalar; `rows` are the scenes that the batch shows."""
        device = hidden.device
        answers = self.patch_head(hidden[:, 1:]).float().flatten(0, 1).split(self.per_patch, 1)
        total = torch.zeros((), device=device)
        for part, truths in zip(answers, self.patch_answers, strict=True):
            weight = torch.ones(part.shape[1], device=device)
            weight[-1] = self.ABSENT_WEIGHT
            total = total + functional.cross_entropy(part, truths[rows].flatten().to(device), weight)
        present, coloured, background = self.whole_head(hidden[:, 0]).float().split(self.whole, 1)
        bits = functional.binary_cross_entropy_with_logits
        return (
            total
            + 6 * bits(present, self.present[rows].to(device))
            + 20 * bits(coloured, self.coloured[rows].to(device))
            + 0.3 * functional.cross_entropy(background, self.backgrounds[rows].to(device))
        )


def _several_hot(classes: torch.Tensor, numbers: torch.Tensor, size: int) -> torch.Tensor:
    """Return a matrix (N, size) of zeros, with ones at the `numbers` (N, 2) of the objects that are there."""
    ones = torch.zeros(len(numbers), size + 1)
    return ones.scatter_(1, torch.where(classes == NOTHING, size, numbers), 1.0)[:, :-1]


def train_judge(name: str, folder: Path, scale: float = 1.0) -> CLIPModel:
    """Train the CLIPModel called `name`; return it in evaluation mode."""
    shape = JUDGES[name]
    scenes, tokenizer, standard = load_scenes(folder, SCENES, everything=True), make_tokenizer(), standard_statements()
    model = build(lambda: _make(shape), shape.seed)
    crowded = torch.from_numpy((scenes.objects[:, :, 0] != NOTHING).all(1))
    lessons = build(lambda: Lessons(shape.vision, scenes), shape.seed + 100)
    modules = {"clip": model, "lessons": lessons}
    training = Training(name, folder, modules, steps=int(shape.steps * scale), peak=PEAK, seed=shape.seed)
    vae = load_vae(folder).to(training.device)

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch that `generator` draws."""
        rows = _draw(crowded, PAIRS, generator)
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        statements = [*(random_statement(scenes, int(row), rng) for row in rows), *standard]
        targets = torch.from_numpy(truth(scenes, rows.numpy(), statements)).to(training.device)
        tokens = tokenizer([s.text for s in statements], padding=True, return_tensors="pt").to(training.device)
        shown = faded(decoded(scenes.batch(rows), vae, generator), generator)
        images = augment(shown, generator).to(training.device)
        outputs = model(**tokens, pixel_values=images)
        logits, hidden = outputs.logits_per_image.float(), outputs.vision_model_output.last_hidden_state
        return _multi_positive(logits, targets) + _multi_positive(logits.T, targets.T) + lessons.loss(hidden, rows)

    training.run(loss_of)
    return model


def _draw(crowded: torch.Tensor, pairs: int, generator: torch.Generator) -> torch.Tensor:
    """Draw the numbers (BATCH,) of scenes, `pairs` of them from the scenes that are `crowded` (N,)."""
    with_two, others = crowded.nonzero()[:, 0], (~crowded).nonzero()[:, 0]
    first = with_two[torch.randint(len(with_two), (pairs,), generator=generator)]
    return torch.cat([first, others[torch.randint(len(others), (BATCH - pairs,), generator=generator)]])


def _multi_positive(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy against the uniform distribution over each row's true columns; rows without one do not count."""
    weights = targets.float()
    used = weights.sum(1) > 0
    weights = weights[used] / weights[used].sum(1, keepdim=True)
    return -(weights * torch.log_softmax(logits[used], 1)).sum(1).mean()
