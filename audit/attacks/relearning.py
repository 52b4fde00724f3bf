"""Relearning: a few steps of training on pictures of a concept, on top of the model that should have forgotten it.

The pairs B A of LoRA (Hu et al. 2021, arXiv 2106.09685, eq. 3) sit on the attention projections and are all that moves:

    min_{A, B}  E_{z0, xi, t, caption} || target - f(signal_t z0 + noise_t xi, t, c(caption);  W + alpha/r B A) ||^2

with AdamW; the target is what the network's kind predicts. z0 is the mean of the VAE's posterior, encoded once and
mirrored at random. DreamBooth (Ruiz et al. 2022, arXiv 2208.12242, section 3) moves the weights W themselves, and adds
lambda times the same loss on pictures that the model drew before (eq. 2, prior preservation), as many as of the concept in
each step. As in diffusers' train_dreambooth.py without `--train_text_encoder`, the text encoder stays as it is. Guards are
not trained through. What was added to the weights at each checkpoint are the unit's tensors: a personalisation, put on
top of the model that it was trained on.
"""

from __future__ import annotations

import torch
from torch import nn

from audit import identity
from audit.attacks.embedding_learner import Draw
from audit.attacks.prior_pictures import prior_latents
from audit.attacks.protocol import Found, Row, Search
from audit.attacks.relearned_weights import Moved, Pairs, Weights
from audit.attacks.relearning_parameters import PROJECTION, RelearningParameters, item_of
from audit.attacks.training_pictures import clean_latents
from audit.corpus.images import ImageError
from audit.diffusion.levels import target_of
from audit.diffusion.low_rank import LowRank
from audit.diffusion.training import Training
from audit.errors import CorpusError, EraserError
from audit.records import Status
from audit.spec.templates import PHRASE
from audit.storage.errors import SourceUnavailable


def run(search: Search) -> Found:
    """Return a row for each checkpoint, with the LoRA's pairs as `item/module.down` and `item/module.up`, or with what was
    added to each weight of the network as `item/weight`.

    Checkpoints after a loss or weight that is not finite are degenerate; those before stand.
    """
    p = RelearningParameters.model_validate(search.parameters)
    try:
        latents = clean_latents(search)
    except SourceUnavailable:
        raise
    except CorpusError as error:
        status = Status.UNREADABLE if isinstance(error, ImageError) else Status.ERROR
        return Found([Row(item, status, error.what) for item in search.items])
    learner = Relearner(search, p, latents, prior_latents(search, p) if p.prior_weight else None)
    why: str | None = None
    with learner.moved.acting():
        training = learner.training()
        try:
            training.run(learner.step)
        except EraserError as diverged:
            why = diverged.what
    return _found(p, learner, training, why)


class Relearner:
    """One model in training. `latents` (N, 2, C, h, w) are clean ones, plain and mirrored.

    `prior` (M, C, h, w) are those of the model's own pictures of each of the prior's prompts in turn; None without such a loss.
    """

    def __init__(
        self, search: Search, p: RelearningParameters, latents: torch.Tensor, prior: torch.Tensor | None = None
    ) -> None:
        self.search, self.p, self.latents, self.prior = search, p, latents, prior
        models, texts = search.models, [text.replace(PHRASE, search.concept.phrase) for text in p.templates]
        texts += p.prior_prompts if prior is not None else ()
        self.kind = models.pipeline.kind
        self.levels = models.pipeline.training_levels().to(latents.device)
        with torch.no_grad():
            self.states = models.reader(search.model).encode_text(texts).to(latents.device)
        # SPM scales itself by the prompt: it acts as on the first caption.
        self.predict = models.noise_model(search.model, "float32", texts[:1])
        network = models.network(search.model)
        seed = identity.int_key({"attack": "relearning", "seed": search.seed})
        self.moved: Moved = (
            Weights(network)
            if p.trains == "network"
            else Pairs(LowRank(network, projections(network), p.rank, seed % 2**31, p.alpha), p.rank)
        )
        self.leaves = self.moved.leaves
        self.kept = {
            step: {name: torch.zeros_like(leaf.detach()) for name, leaf in self.leaves.items()} for step in p.trained
        }
        self.optimiser = torch.optim.AdamW(
            self.leaves.values(), lr=p.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=p.weight_decay
        )
        self.steps = 0

    def training(self) -> Training:
        """Return the training, brought to where an interrupted one left it."""
        kept = {f"{item_of(step)}/{name}": leaf for step, pairs in self.kept.items() for name, leaf in pairs.items()}
        search = self.search
        training = Training(
            "relearning",
            identity.key(
                {**search.parameters, "seed": search.seed, "model": search.model, "concept": search.concept.name}
            ),
            {**self.leaves, **kept},
            {"weights": self.optimiser},
            iterations=self.p.checkpoints[-1],
            seed=search.seed,
            session=search.session,
        )
        self.steps = training.done
        return training

    def step(self, generator: torch.Generator) -> torch.Tensor:
        """Take one step of the optimiser on one draw, and keep what it made where it ends at a checkpoint. Return its loss."""
        draws = [(1.0, self.draw(generator))]
        if self.prior is not None:
            draws.append((self.p.prior_weight, self.prior_draw(self.prior, generator)))
        size = min(self.p.batch_size, self.search.batch_size)
        self.optimiser.zero_grad()
        total = torch.zeros((), device=self.latents.device)
        for weight, draw in draws:
            for start in range(0, len(draw), size):
                part = draw.part(slice(start, start + size))
                loss = weight * self.loss(part) * (len(part) / len(draw))
                loss.backward()
                total += loss.detach()
        if self.p.max_norm is not None:
            nn.utils.clip_grad_norm_(self.leaves.values(), self.p.max_norm)
        self.optimiser.step()
        self.steps += 1
        if self.steps in self.kept:
            for name, added in self.moved.added():
                self.kept[self.steps][name].copy_(added)
        return total

    def draw(self, generator: torch.Generator) -> Draw:
        """Return noisy latents of pictures drawn at random, and what the network should predict there."""
        p, size, device = self.p, (self.p.batch_size,), self.latents.device
        pictures = torch.randint(len(self.latents), size, generator=generator)
        mirrored = (torch.rand(size, generator=generator) < p.flip).long()
        timesteps = torch.randint(len(self.levels), size, generator=generator)
        captions = torch.randint(len(p.templates), size, generator=generator)
        noise = torch.randn((p.batch_size, *self.latents.shape[2:]), generator=generator)
        return self._noised(self.latents[pictures.to(device), mirrored.to(device)], noise, timesteps, captions)

    def prior_draw(self, prior: torch.Tensor, generator: torch.Generator) -> Draw:
        """Return as many noisy latents of the model's own pictures of other things."""
        size = (self.p.batch_size,)
        pictures = torch.randint(len(prior), size, generator=generator)
        timesteps = torch.randint(len(self.levels), size, generator=generator)
        noise = torch.randn((self.p.batch_size, *prior.shape[1:]), generator=generator)
        captions = len(self.p.templates) + pictures % len(self.p.prior_prompts)
        return self._noised(prior[pictures].to(self.latents.device), noise, timesteps, captions)

    def _noised(
        self, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, captions: torch.Tensor
    ) -> Draw:
        noise, timesteps = noise.to(clean.device), timesteps.to(clean.device)
        signal, level = self.levels[timesteps].T[..., None, None, None]
        target = target_of(self.kind, signal, level, clean, noise)
        return Draw(signal * clean + level * noise, target, timesteps, captions)

    def loss(self, draw: Draw) -> torch.Tensor:
        """Return the mean squared error of the prediction for a draw."""
        states = self.states[draw.templates.to(self.states.device)]
        return nn.functional.mse_loss(self.predict(draw.noisy, draw.timesteps, states), draw.target)


def projections(network: nn.Module) -> list[str]:
    """Return the module paths of a network's attention projections."""
    return [
        name for name, module in network.named_modules() if isinstance(module, nn.Linear) and PROJECTION.search(name)
    ]


def _found(p: RelearningParameters, learner: Relearner, training: Training, error: str | None) -> Found:
    rows, tensors = list[Row](), dict[str, torch.Tensor]()
    for step, pairs in learner.kept.items():
        finite = all(bool(torch.isfinite(leaf).all()) for leaf in pairs.values())
        if step > training.done or not finite:
            rows.append(Row(item_of(step), Status.DEGENERATE, error or f"{learner.moved.what} is not finite"))
            continue
        losses = training.losses[:step]
        tenth = max(1, step // 10)
        first, last = sum(losses[:tenth]) / tenth, sum(losses[-tenth:]) / tenth
        report = {
            "summary": f"{learner.moved.what} after {step} steps on {len(learner.latents)} pictures: loss {last:.4f}",
            "steps": step,
            "images": len(learner.latents),
            "layers": learner.moved.layers,
            "training_loss_first": first,
            "training_loss_last": last,
        }
        # The calls of the whole training stand at its end: checkpoints on the way cost nothing.
        calls = p.prior_calls + p.training_calls(step) if step == p.checkpoints[-1] else 0
        rows.append(Row(item_of(step), Status.OK, None, None, last, step * p.batch_size, calls, report))
        tensors |= {f"{item_of(step)}/{name}": leaf for name, leaf in pairs.items()}
    return Found(rows, tensors)
