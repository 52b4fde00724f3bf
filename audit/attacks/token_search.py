"""Search for the tokens of a prompt through a denoising network: gradient steps on their embeddings, projected to tokens.

The search keeps continuous embeddings e (K, D) of the searched tokens in a prompt. A step projects each to the token whose
input embedding is nearest by cosine, takes the gradient of the loss there, and moves e by it (Wen et al. 2023, PEZ, arXiv
2302.03668):

    q = E[argmax_v cos(e, E[v])]        g = d/dq || target - m(x_t, t, c(q)) ||^2 (mean)        e <- step(e, g)

m is what the network predicts (`levels.Kind`). A method says which noise level each step takes, what the target is there and
what the step is. With several CLIPs an embedding holds those of all of them side by side, so that one token is found for
all; T5 reads the prompt without the searched tokens.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import safetensors.torch
import torch

from audit.attacks.prompt_search import Best, PromptSearch
from audit.attacks.token_prompt import TokenPrompt
from audit.diffusion.sampling import NoiseModel

_OPTIMISER = "optimiser."  # begins the names of its tensors in a dump


@dataclasses.dataclass(frozen=True)
class Noised:
    """Clean latents (1, C, h, w) of a picture at a noise level: `latents` are the noisy ones, `timestep` (1,) is the level's.

    `signal` and `level` are the factors of the clean latents and of the noise.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    latents: torch.Tensor
    timestep: torch.Tensor
    signal: torch.Tensor
    level: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Draw:
    """Noisy latents (1, C, h, w), the timestep (1,), and what the network should predict there."""

    noisy: torch.Tensor
    timestep: torch.Tensor
    target: torch.Tensor


class TokenSearch(PromptSearch):
    """A search through a network. `latents` (1, C, h, w) are the clean picture that is noised, and `held_out` draws of noise
    and timestep choose the best tokens.
    """

    measure: ClassVar[str] = "held-out loss"

    def __init__(
        self,
        prompt: TokenPrompt,
        predict: NoiseModel,
        latents: torch.Tensor,
        seed: int,
        *,
        total: int,
        check_every: int,
        held_out: int,
    ) -> None:
        super().__init__(prompt, seed, total, check_every)
        self.predict, self.latents, self.held = predict, latents, held_out
        self.levels = prompt.pipeline.training_levels().to(latents.device)
        self.embeddings = prompt.table[prompt.random(self.generator("start", 0))].clone()
        self.optimiser = self.made_optimiser(self.embeddings)

    @abstractmethod
    def made_optimiser(self, embeddings: torch.Tensor) -> torch.optim.Optimizer:
        """Return what takes the steps of the embeddings (K, D)."""

    @abstractmethod
    def timestep(self, step: int, generator: torch.Generator) -> int:
        """Return the timestep of a step's draw, perhaps drawn from the draw's generator."""

    @abstractmethod
    def target(self, noised: Noised) -> torch.Tensor:
        """Return what the network should predict (1, C, h, w) for a noisy picture."""

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return what the optimiser is given for the gradient (K, D) at the projected tokens: the gradient itself."""
        return gradient

    def present(self) -> list[int]:
        """Return the tokens that are nearest now."""
        return self.prompt.nearest(self.embeddings)

    def draw(self, step: int) -> Draw:
        """Return the draw of one step."""
        generator = self.generator("train", step)
        return self._draw(self.timestep(step, generator), generator)

    @torch.no_grad()
    def _draw(self, timestep: int, generator: torch.Generator) -> Draw:
        noise = torch.randn(self.latents.shape, generator=generator).to(self.latents.device)
        signal, level = self.levels[timestep]
        noisy, time = signal * self.latents + level * noise, torch.tensor([timestep], device=noise.device)
        return Draw(noisy, time, self.target(Noised(self.latents, noise, noisy, time, signal, level)))

    @functools.cached_property
    def _held_out(self) -> Sequence[Draw]:
        """Return the held-out draws, timesteps spread evenly."""
        spread = [int((number + 0.5) / self.held * len(self.levels)) for number in range(self.held)]
        return [self._draw(timestep, self.generator("held-out", number)) for number, timestep in enumerate(spread)]

    def loss(self, draw: Draw, states: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error of the prediction under these states."""
        return (draw.target - self.predict(draw.noisy, draw.timestep, states)).pow(2).mean()

    def step(self) -> None:
        """Take one step from the tokens that are nearest now."""
        tokens = self.present()
        vectors = self.prompt.table[tokens].clone().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(self.draw(self.done), self.prompt.states(tokens, vectors))
            (gradient,) = torch.autograd.grad(loss, vectors)
        self.embeddings.grad = self.direction(gradient)
        self.optimiser.step()
        self.done += 1

    @torch.no_grad()
    def loss_of(self, text: str) -> float:
        """Return the mean loss of a prompt, read as text, over the same held-out draws."""
        states = self.prompt.pipeline.encode_text([text]).to(self.latents.device)
        return sum(float(self.loss(draw, states)) for draw in self._held_out) / self.held

    def dump(self) -> bytes:
        """Return the state as safetensors bytes."""
        state = self.optimiser.state_dict()["state"].get(0, {})
        tensors = {_OPTIMISER + name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        tensors |= {
            "embeddings": self.embeddings,
            "tokens": torch.tensor(self.best.tokens, dtype=torch.long),
            "numbers": torch.tensor([self.done, self.best.loss, self.first], dtype=torch.float64),
        }
        return safetensors.torch.save({name: value.cpu().contiguous() for name, value in tensors.items()})

    def restore(self, data: bytes) -> None:
        """Continue from what `dump` wrote. Raises KeyError, ValueError or safetensors' own error for anything else."""
        parts = safetensors.torch.load(data)
        embeddings, (done, loss, first) = parts["embeddings"], parts["numbers"].tolist()
        if embeddings.shape != self.embeddings.shape:
            raise ValueError("its tokens have another number or width")
        state = {name.removeprefix(_OPTIMISER): value for name, value in parts.items() if name.startswith(_OPTIMISER)}
        self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": {0: state} if state else {}})
        self.embeddings.copy_(embeddings)
        self.done, self.best, self.first = int(done), Best(parts["tokens"].tolist(), loss), first
