"""The learning loop of textual inversion: embeddings of one or several concepts as rows of common UNet calls.

Every concept and learning rate has an embedding of its own, and every iteration draws its noise from a generator of its
own. What is learned together, how rows are packed and where a process broke off change nothing but the rounding.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence

import safetensors
import safetensors.torch
import torch

from audit import identity
from audit.attacks.parameters import TextualInversionParameters
from audit.attacks.training_prompts import Prompts
from audit.diffusion.levels import target_of
from audit.diffusion.sampling import NoiseModel
from audit.progress import Checkpoint, Session

log = logging.getLogger(__name__)

NAME = "textual-inversion"
_KEPT = ("vector", "step", "exp_avg", "exp_avg_sq")  # of each embedding, in a checkpoint


@dataclasses.dataclass(frozen=True)
class Draw:
    """The random draw of one iteration: noisy latents, what the network should predict there, timesteps and templates (B,)."""

    noisy: torch.Tensor
    target: torch.Tensor
    timesteps: torch.Tensor
    templates: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def part(self, rows: slice) -> Draw:
        """Return some of the rows."""
        return Draw(self.noisy[rows], self.target[rows], self.timesteps[rows], self.templates[rows])


class Learner:
    """The embeddings of one concept, one per learning rate, with their optimiser and losses.

    `latents` (N, 2, C, h, w) are clean ones, plain and mirrored. UNet calls have at most `batch_size` rows; where one
    rate's draw has more, it is split and its gradient accumulated.
    """

    def __init__(
        self,
        prompts: Prompts,
        predict: NoiseModel,
        latents: torch.Tensor,
        p: TextualInversionParameters,
        seed: int,
        batch_size: int,
    ) -> None:
        self.prompts, self.predict, self.latents, self.p, self.seed = prompts, predict, latents, p, seed
        self.batch_size = batch_size
        self.levels = prompts.pipeline.training_levels().to(latents.device)
        self.vectors = [prompts.initial.clone().requires_grad_() for _ in p.learning_rates]
        groups = [{"params": [v], "lr": lr} for v, lr in zip(self.vectors, p.learning_rates, strict=True)]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=p.weight_decay)
        self.losses: list[list[float]] = []  # of each iteration made, one per rate

    def draw(self, iteration: int) -> Draw:
        """Return the draw of one iteration, from a generator of its own, so that a resumed search sees the same draws.

        Timesteps and templates are the same for every concept with these parameters and this seed.
        """
        p, generator = self.p, self._generator("train", iteration)
        size = (p.batch_size,)
        pictures = torch.randint(len(self.latents), size, generator=generator)
        mirrored = (torch.rand(size, generator=generator) < p.flip).long()
        timesteps = torch.randint(len(self.levels), size, generator=generator)
        templates = torch.randint(len(p.templates), size, generator=generator)
        noise = torch.randn((p.batch_size, *self.latents.shape[2:]), generator=generator)
        return self._noisy(pictures, mirrored, timesteps, templates, noise)

    @torch.no_grad()
    def held_out(self, vectors: Sequence[torch.Tensor]) -> list[float]:
        """Return the mean loss of each embedding over the same held-out draws, timesteps spread evenly."""
        p, generator = self.p, self._generator("held-out", 0)
        totals = torch.zeros(len(vectors))
        for start in range(0, p.held_out, p.batch_size):
            numbers = torch.arange(start, min(start + p.batch_size, p.held_out))
            timesteps = ((numbers + 0.5) / p.held_out * len(self.levels)).long()
            noise = torch.randn((len(numbers), *self.latents.shape[2:]), generator=generator)
            plain = torch.zeros_like(numbers)
            draw = self._noisy(numbers % len(self.latents), plain, timesteps, numbers % len(p.templates), noise)
            for chosen, rows in _calls(len(vectors), len(draw), self.batch_size):
                part, count = draw.part(rows), len(vectors[chosen])
                totals[chosen] += self.loss(vectors[chosen], [part] * count).cpu() * len(part)
        return (totals / p.held_out).tolist()

    def loss(self, vectors: Sequence[torch.Tensor], draws: Sequence[Draw]) -> torch.Tensor:
        """Return the mean squared error (R,) of each embedding (n, D) on its draw; draws share timesteps and templates."""
        first, count = draws[0], len(vectors)
        states = self.prompts.states(torch.stack(list(vectors)), first.templates)
        noise = self.predict(torch.cat([draw.noisy for draw in draws]), first.timesteps.repeat(count), states)
        error = (noise - torch.cat([draw.target for draw in draws])).pow(2).flatten(1).mean(1)
        return error.unflatten(0, (count, -1)).mean(1)

    def state(self) -> bytes:
        """Return a checkpoint, as safetensors."""
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for number, vector in enumerate(self.vectors):
            kept = {**self.optimiser.state[vector], "vector": vector.detach()}
            tensors |= {f"{number}.{name}": kept[name].cpu().clone() for name in _KEPT}
        return safetensors.torch.save(tensors)

    def restore(self, data: bytes) -> None:
        """Continue from a checkpoint. Raises ValueError, and changes nothing, when it is not one of such a learner."""
        try:
            tensors = safetensors.torch.load(data)
            losses = tensors["losses"].tolist()
            kept = [{name: tensors[f"{n}.{name}"] for name in _KEPT} for n in range(len(self.vectors))]
        except (safetensors.SafetensorError, KeyError) as error:
            raise ValueError(f"it is damaged: {error}") from error
        if any(one["vector"].shape != v.shape for one, v in zip(kept, self.vectors, strict=True)):
            raise ValueError("its embeddings have another shape")
        self.losses = losses
        for one, vector in zip(kept, self.vectors, strict=True):
            with torch.no_grad():
                vector.copy_(one["vector"])
            moments = {name: one[name].to(vector.device) for name in ("exp_avg", "exp_avg_sq")}
            self.optimiser.state[vector] = {"step": one["step"], **moments}

    def _noisy(
        self,
        pictures: torch.Tensor,
        mirrored: torch.Tensor,
        timesteps: torch.Tensor,
        templates: torch.Tensor,
        noise: torch.Tensor,
    ) -> Draw:
        device = self.latents.device
        timesteps, noise = timesteps.to(device), noise.to(device)
        signal, level = self.levels[timesteps].T[..., None, None, None]
        clean = self.latents[pictures.to(device), mirrored.to(device)]
        target = target_of(self.prompts.pipeline.kind, signal, level, clean, noise)
        return Draw(signal * clean + level * noise, target, timesteps, templates)

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        seed = identity.int_key({"attack": NAME, "seed": self.seed, "purpose": purpose, "number": number})
        return torch.Generator("cpu").manual_seed(seed)


def learn(learners: Sequence[Learner], sessions: Sequence[Session]) -> None:
    """Run the iterations that no earlier process has made, keeping each learner's checkpoint from time to time and at
    the end. The learners share model, prompts, parameters and seed; the first session's listener hears how it goes.

    Where a UNet call does not fit into the device's memory, calls have half as many rows from then on.
    """
    listener = sessions[0].listener
    kept = [Checkpoint(session, "embeddings.safetensors", "this embedding") for session in sessions]
    for learner, checkpoint in zip(learners, kept, strict=True):
        checkpoint.restored(lambda path, learner=learner: learner.restore(path.read_bytes()))  # type: ignore[misc]
    total, start = learners[0].p.iterations, min(len(learner.losses) for learner in learners)
    stage = "textual inversion" + (f" of {len(learners)} concepts" if len(learners) > 1 else "")
    listener.begin(stage, total, start)
    for iteration in range(start, total):
        _fitting([learner for learner in learners if len(learner.losses) == iteration], iteration)
        listener.update(stage, iteration + 1)
        if iteration + 1 == total or kept[0].due():
            for learner, checkpoint in zip(learners, kept, strict=True):
                data = learner.state()
                checkpoint.save(lambda path, data=data: path.write_bytes(data))  # type: ignore[misc]
    listener.end(stage)


def _fitting(learners: Sequence[Learner], iteration: int) -> None:
    """Take one step of every embedding, in calls that fit into memory; nothing has moved when one did not."""
    while True:
        try:
            return _iterate(learners, iteration)
        except torch.OutOfMemoryError:
            most = learners[0].batch_size // 2
            if not most:
                raise
            log.warning("a UNet call of textual inversion does not fit into memory: %d rows from now on", most)
        for learner in learners:  # outside of the handler, which keeps the graph alive
            learner.batch_size = most
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _iterate(learners: Sequence[Learner], iteration: int) -> None:
    """Take one step of every embedding of every learner."""
    draws = [learner.draw(iteration) for learner in learners]
    for learner in learners:
        learner.optimiser.zero_grad()
    vectors = [vector for learner in learners for vector in learner.vectors]
    own = [draw for learner, draw in zip(learners, draws, strict=True) for _ in learner.vectors]
    losses, first, size = torch.zeros(len(vectors)), learners[0], len(draws[0])
    for chosen, rows in _calls(len(vectors), size, first.batch_size):
        parts = [draw.part(rows) for draw in own[chosen]]
        loss = first.loss(vectors[chosen], parts) * (len(parts[0]) / size)
        loss.sum().backward()
        losses[chosen] += loss.detach().cpu()
    for learner, own_losses in zip(learners, losses.split(len(first.vectors)), strict=True):
        learner.optimiser.step()
        learner.losses.append(own_losses.tolist())


def _calls(embeddings: int, draws: int, most: int) -> Iterator[tuple[slice, slice]]:
    """Yield which embeddings meet which rows of their draws in one UNet call of at most `most` rows."""
    together, size = max(1, most // draws), min(most, draws)
    for first in range(0, embeddings, together):
        for start in range(0, draws, size):
            yield slice(first, first + together), slice(start, start + size)
