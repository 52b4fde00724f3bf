"""Textual inversion: an input embedding, learned until a model denoises pictures of the concept with it in the prompt.

Gal et al. 2022, arXiv 2208.01618, eq. 2, in the form of diffusers' examples/textual_inversion; through an erased model it
is Concept Inversion, Pham et al. 2023, arXiv 2308.01508:

    v* = argmin_v  E_{z0, eps, t, template} || eps - eps_theta(sqrt(abar_t) z0 + sqrt(1 - abar_t) eps, t, c(template(v))) ||^2

Only v moves (AdamW, weight decay on v as in the scripts), from the embedding of a neutral word. z0 is the mean of the
VAE's posterior, encoded once and mirrored at random. The loss is what the model does by itself: guards are not trained
through. Several learning rates are tried as rows of one batch, each on an embedding of its own, with the same draws. The
attacker's best is the rate with the lowest loss on held-out draws of noise and timestep; no audited case is looked at.
Where no rate comes below the initial word's loss, the attack has found nothing: its cases are unassessed, never clear.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from audit import identity
from audit.attacks.embedding_cases import BEST, candidate
from audit.attacks.parameters import MARK, TextualInversionParameters
from audit.attacks.searching import Found, Row, Search
from audit.attacks.training_prompts import Prompts
from audit.backbones import Pipeline
from audit.corpus_errors import SourceUnavailable
from audit.erasers.base import Session
from audit.erasers.training import write_atomically
from audit.errors import CorpusError
from audit.images import ImageError, to_model_input
from audit.records import Status

NAME = "textual-inversion"
VERSION = "1"
ROUNDING = 1e-5  # relative; equal losses of float32 rows differ by less, however they are packed
Predict = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def run(search: Search) -> Found:
    """One row and one embedding (n, D) per learning rate, and the attacker's best of them."""
    p = TextualInversionParameters.model_validate(search.parameters)
    try:
        latents = _latents(search)
    except SourceUnavailable:
        raise
    except ImageError as error:
        return Found([Row(item, Status.UNREADABLE, error.what) for item in search.items])
    except CorpusError as error:
        return Found([Row(item, Status.ERROR, error.what) for item in search.items])
    key: str | None = search.unit.identity["model"]
    texts = [template.replace(MARK, p.initial) for template in p.templates[:1]]
    # SPM scales itself by the prompt; while an embedding is learned it acts as on the neutral word.
    predict: Any = search.models.noise_model(key, "float32", texts)
    prompts = Prompts(search.models.reader(key), p)
    learner = Learner(prompts, predict, latents, p, search.unit.identity["seed"], search.batch_size)
    learner.learn(search.session)
    return learner.found()


def _latents(search: Search) -> torch.Tensor:
    """Clean latents (N, 2, C, h, w) of the unit's pictures, plain and mirrored."""
    pipeline, found = search.models.pipeline, []
    for item in search.unit.identity["images"]:
        pixels = to_model_input(search.read_item(item), pipeline.resolution)
        both = torch.from_numpy(np.stack([pixels, pixels[:, ::-1]])).permute(0, 3, 1, 2)
        found.append(pipeline.encode_images(both))
    return torch.stack(found)


@dataclasses.dataclass(frozen=True)
class Draw:
    """What one iteration learns on: noisy latents, their noise (B, C, h, w), timesteps and templates (B,)."""

    noisy: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    templates: torch.Tensor

    def __len__(self) -> int:
        return len(self.timesteps)

    def part(self, rows: slice) -> Draw:
        """Some of its rows."""
        return Draw(self.noisy[rows], self.noise[rows], self.timesteps[rows], self.templates[rows])


class Learner:
    """Learns one embedding per learning rate, as rows of common UNet calls of at most `batch_size` rows.

    Where one rate's draw has more rows than that, it is split and its gradient accumulated.
    """

    def __init__(
        self,
        prompts: Prompts,
        predict: Predict,
        latents: torch.Tensor,
        p: TextualInversionParameters,
        seed: int,
        batch_size: int,
    ) -> None:
        self.prompts, self.predict, self.latents, self.p, self.seed = prompts, predict, latents, p, seed
        self.batch_size = batch_size
        self.abar = _abar(prompts.pipeline).to(latents.device)
        self.vectors = [prompts.initial.clone().requires_grad_() for _ in p.learning_rates]
        groups = [{"params": [v], "lr": lr} for v, lr in zip(self.vectors, p.learning_rates, strict=True)]
        self.optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.999), eps=1e-8, weight_decay=p.weight_decay)
        self.losses: list[list[float]] = []

    def found(self) -> Found:
        """The rows and embeddings as they are learned by now."""
        vectors = [v.detach() for v in self.vectors]
        before, *scores = self.held_out([self.prompts.initial, *vectors])
        calls = 3 * self.p.iterations * self.p.batch_size + self.p.held_out
        rows, tensors = [], {}
        for rate, vector, score, losses in zip(
            self.p.learning_rates, vectors, scores, zip(*self.losses, strict=True), strict=True
        ):
            good = bool(torch.isfinite(vector).all()) and score - score == 0
            report = {
                "learning_rate": rate,
                "held_out_loss_initial": before if before - before == 0 else None,
                "training_loss_first": _mean(losses[: max(1, len(losses) // 10)]),
                "training_loss_last": _mean(losses[-max(1, len(losses) // 10) :]),
                "norm": float(vector.norm(dim=1).mean()) if good else None,
                "images": len(self.latents),
            }
            status, error = (Status.OK, None) if good else (Status.DEGENERATE, "the embedding is not finite")
            if good:
                tensors[candidate(rate)] = vector.cpu()
            evaluations = self.p.iterations * self.p.batch_size
            made: dict[str, Any] = {"evaluations": evaluations, "unet_calls": calls, "report": report}
            rows.append(Row(candidate(rate), status, error, score=score if good else None, **made))
        best = _best(rows, before, self.p.initial)
        if best.status is Status.OK:
            tensors[BEST] = tensors[best.report["chosen"]].clone()
        return Found([best, *rows], tensors)

    def learn(self, session: Session) -> None:
        """Run the iterations that no earlier process has made, keeping a checkpoint from time to time."""
        stage, path = "textual inversion", session.folder / "embeddings.safetensors" if session.folder else None
        start = self._restore(path.read_bytes()) if path and path.exists() else 0
        session.listener.begin(stage, self.p.iterations, start)
        saved = time.monotonic()
        for iteration in range(start, self.p.iterations):
            self.losses.append(self._iterate(self.draw(iteration)))
            session.listener.update(stage, iteration + 1)
            if path and time.monotonic() - saved >= session.checkpoint_seconds:
                data = self._state()
                write_atomically(path, lambda partial, data=data: partial.write_bytes(data))  # type: ignore[misc]
                saved = time.monotonic()
        session.listener.end(stage)

    def draw(self, iteration: int) -> Draw:
        """The draws of one iteration, from a generator of its own: a resumed search sees what it would have seen."""
        p, generator = self.p, self._generator("train", iteration)
        size = (p.batch_size,)
        pictures = torch.randint(len(self.latents), size, generator=generator)
        mirrored = (torch.rand(size, generator=generator) < p.flip).long()
        timesteps = torch.randint(len(self.abar), size, generator=generator)
        templates = torch.randint(len(p.templates), size, generator=generator)
        noise = torch.randn((p.batch_size, *self.latents.shape[2:]), generator=generator)
        return self._noisy(pictures, mirrored, timesteps, templates, noise)

    @torch.no_grad()
    def held_out(self, vectors: Sequence[torch.Tensor]) -> list[float]:
        """The mean loss of each embedding over the same held-out draws, timesteps spread evenly."""
        p, generator = self.p, self._generator("held-out", 0)
        totals = torch.zeros(len(vectors))
        for start in range(0, p.held_out, p.batch_size):
            numbers = torch.arange(start, min(start + p.batch_size, p.held_out))
            timesteps = ((numbers + 0.5) / p.held_out * len(self.abar)).long()
            noise = torch.randn((len(numbers), *self.latents.shape[2:]), generator=generator)
            plain = torch.zeros_like(numbers)
            draw = self._noisy(numbers % len(self.latents), plain, timesteps, numbers % len(p.templates), noise)
            for rows, part in self._calls(len(vectors), draw):
                totals[rows] += self._loss(torch.stack(list(vectors[rows])), part).cpu() * len(part)
        return (totals / p.held_out).tolist()

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
        abar = self.abar[timesteps][:, None, None, None]
        clean = self.latents[pictures.to(device), mirrored.to(device)]
        return Draw(abar.sqrt() * clean + (1 - abar).sqrt() * noise, noise, timesteps, templates)

    def _iterate(self, draw: Draw) -> list[float]:
        """One step of every embedding; the loss of each before it."""
        self.optimiser.zero_grad()
        losses = torch.zeros(len(self.vectors))
        for rows, part in self._calls(len(self.vectors), draw):
            loss = self._loss(torch.stack(self.vectors[rows]), part) * (len(part) / len(draw))
            loss.sum().backward()
            losses[rows] += loss.detach().cpu()
        self.optimiser.step()
        return losses.tolist()

    def _calls(self, embeddings: int, draw: Draw) -> Iterator[tuple[slice, Draw]]:
        """Which embeddings meet which part of a draw in one UNet call of at most `batch_size` rows."""
        together, size = max(1, self.batch_size // len(draw)), min(self.batch_size, len(draw))
        for first in range(0, embeddings, together):
            for start in range(0, len(draw), size):
                yield slice(first, first + together), draw.part(slice(start, start + size))

    def _loss(self, vectors: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The mean squared error (R,) of each embedding (R, n, D) on one draw."""
        count = len(vectors)
        states = self.prompts.states(vectors, draw.templates)
        noise = self.predict(draw.noisy.repeat(count, 1, 1, 1), draw.timesteps.repeat(count), states)
        error = (noise - draw.noise.repeat(count, 1, 1, 1)).pow(2).flatten(1).mean(1)
        return error.unflatten(0, (count, -1)).mean(1)

    def _generator(self, purpose: str, number: int) -> torch.Generator:
        seed = identity.int_key({"attack": NAME, "seed": self.seed, "purpose": purpose, "number": number})
        return torch.Generator("cpu").manual_seed(seed)

    def _state(self) -> bytes:
        tensors = {"losses": torch.tensor(self.losses, dtype=torch.float64)}
        for number, vector in enumerate(self.vectors):
            kept = self.optimiser.state[vector]
            tensors |= {f"{number}.{name}": kept[name].cpu().clone() for name in ("step", "exp_avg", "exp_avg_sq")}
            tensors[f"{number}.vector"] = vector.detach().cpu().clone()
        return safetensors.torch.save(tensors)

    def _restore(self, data: bytes) -> int:
        """The iterations that a checkpoint says are done; 0 for one that cannot be read."""
        try:
            found = safetensors.torch.load(data)
        except safetensors.SafetensorError:
            return 0
        self.losses = found["losses"].tolist()
        for number, vector in enumerate(self.vectors):
            with torch.no_grad():
                vector.copy_(found[f"{number}.vector"])
            self.optimiser.state[vector] = {
                "step": found[f"{number}.step"],
                **{name: found[f"{number}.{name}"].to(vector.device) for name in ("exp_avg", "exp_avg_sq")},
            }
        return len(self.losses)


def _best(rows: Sequence[Row], before: float, initial: str) -> Row:
    """The attacker's best: the rate with the lowest held-out loss; not ok when none is below the initial word's."""
    good = [row for row in rows if row.status is Status.OK and row.score is not None]
    if not good:
        return Row(BEST, Status.DEGENERATE, "no learning rate gave a finite embedding")
    best = min(good, key=lambda row: row.score or 0.0)
    found = {**best.report, "chosen": best.item}
    loss = best.score or 0.0
    if not loss < before * (1 - ROUNDING):  # also when `before` is not finite: nothing says that the attack acted
        error = (
            f"no learning rate helped: the lowest loss on held-out noise, {loss:.4f} of {best.item}, is no lower than with "
            f"the initial word {initial!r}, {before:.4f}; try other learning_rates, more iterations or more images"
        )
        return Row(BEST, Status.DEGENERATE, error, score=best.score, report=found)
    summary = (
        f"attacker's best of {len(rows)} learning rates: {best.report['learning_rate']:g}, by the loss on held-out noise "
        f"({best.score:.4f}, {before:.4f} with the initial word)"
    )
    return Row(BEST, Status.OK, score=best.score, report={**found, "summary": summary})


def _abar(pipeline: Pipeline) -> torch.Tensor:
    """The signal's share alpha-bar at every training timestep."""
    names = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps")
    config = pipeline.scheduler_config
    return DDIMScheduler(**{name: config[name] for name in names if name in config}).alphas_cumprod.float()


def _mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values)
    return mean if mean - mean == 0 else None
