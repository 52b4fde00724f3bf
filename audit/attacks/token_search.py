"""Search for the tokens of a prompt through a denoising network: gradient steps on their embeddings, projected to tokens.

The search keeps continuous embeddings e (K, D) of the searched tokens in a prompt. A step projects each to the token whose
input embedding is nearest by cosine, takes the gradient of the loss there, and moves e by it (Wen et al. 2023, PEZ, arXiv
2302.03668):

    q = E[argmax_v cos(e, E[v])]        g = d/dq || target - m(x_t, t, c(q)) ||^2 (mean)        e <- step(e, g)

m is what the network predicts (`levels.Kind`). A method says which noise level each step takes, what the target is there and
what the step is. With several CLIPs an embedding holds those of all of them side by side, so that one token is found for
all; T5 reads the prompt without the searched tokens. Every draw comes from a generator of its own: a search that was
interrupted goes on to the same result.
"""

from __future__ import annotations

import dataclasses
import functools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import safetensors.torch
import torch

from audit import identity
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import Encoded, body_of, encode_embeddings
from audit.diffusion.sampling import NoiseModel
from audit.diffusion.text_encoders import Clip

_OPTIMISER = "optimiser."  # begins the names of its tensors in a dump


@dataclasses.dataclass(frozen=True)
class Slots:
    """The tokens of a prompt between start and end, with `places` for searched ones."""

    ids: tuple[int, ...]
    places: tuple[int, ...]

    def filled(self, tokens: Sequence[int]) -> list[int]:
        """Return the tokens with the searched ones in their places."""
        whole = list(self.ids)
        for place, token in zip(self.places, tokens, strict=True):
            whole[place] = token
        return whole


def prefixed(pipeline: Pipeline, prompt: str, tokens: int) -> Slots:
    """Return a prompt with places for `tokens` searched ones before it.

    Raises ValueError when the text encoder cannot read them all.
    """
    own = tuple(pipeline.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    most = int(pipeline.tokenizer.model_max_length) - 2
    if tokens + len(own) > most:
        raise ValueError(f"{tokens} tokens before the {len(own)} of the prompt are more than the text encoder's {most}")
    return Slots((0,) * tokens + own, tuple(range(tokens)))


def inserted(pipeline: Pipeline, prompt: str, every: int, most: int) -> Slots:
    """Return a prompt with a place for a searched token at its beginning and behind every so many tokens, `most` at the most.

    Raises ValueError when the text encoder cannot read them all.
    """
    own = list(pipeline.tokenizer(prompt, add_special_tokens=False)["input_ids"])
    count = min(most, len(own) // every + 1)
    longest = int(pipeline.tokenizer.model_max_length) - 2
    if len(own) + count > longest:
        raise ValueError(f"{count} tokens in the {len(own)} of the prompt are more than the text encoder's {longest}")
    places = tuple(number * (every + 1) for number in range(count))
    for place in places:
        own.insert(place, 0)
    return Slots(tuple(own), places)


class TokenPrompt:
    """A prompt with searched tokens, as the text encoders of one model read it."""

    def __init__(self, pipeline: Pipeline, slots: Slots, text: str) -> None:
        self.pipeline, self.slots, self._text, self.device = pipeline, slots, text, pipeline.device
        self.clips = pipeline.encoders.clips
        sizes = {len(clip.tokenizer) for clip in self.clips}
        if len(sizes) > 1:
            raise ValueError(f"the text encoders read different vocabularies, of {sorted(sizes)} tokens")
        size = sizes.pop()
        tables = [body_of(clip.encoder).embeddings.token_embedding.weight.detach()[:size] for clip in self.clips]
        self.table = torch.cat([table.float() for table in tables], -1)
        self._unit = torch.nn.functional.normalize(self.table, dim=-1)
        special = {i for clip in self.clips for i in clip.tokenizer.all_special_ids}
        special |= {int(clip.tokenizer.pad_token_id) for clip in self.clips}
        self._special = torch.tensor(sorted(special), device=self.device)
        self.allowed = torch.tensor([i for i in range(size) if i not in special])

    def random(self, generator: torch.Generator) -> list[int]:
        """Draw a token for each place, uniform over those that are not special."""
        return self.allowed[torch.randint(len(self.allowed), (len(self.slots.places),), generator=generator)].tolist()

    def nearest(self, embeddings: torch.Tensor) -> list[int]:
        """Return the tokens whose input embeddings are nearest to (K, D), by cosine."""
        likeness = torch.nn.functional.normalize(embeddings, dim=-1) @ self._unit.T
        likeness[:, self._special] = -torch.inf
        return likeness.argmax(-1).tolist()

    def text(self, tokens: Sequence[int]) -> str:
        """Return the prompt with these tokens as a user would type it."""
        return str(self.pipeline.tokenizer.decode(self.slots.filled(tokens), skip_special_tokens=True)).strip()

    def states(self, tokens: Sequence[int], vectors: torch.Tensor) -> torch.Tensor:
        """Return states (1, L, D) of the prompt with these tokens, differentiable in their input embeddings `vectors` (K, D)."""
        whole = self.slots.filled(tokens)
        return self.pipeline.encoders.joined([self._read(clip, whole, vectors) for clip in self.clips], [self._text])

    def _read(self, clip: Clip, whole: Sequence[int], vectors: torch.Tensor) -> Encoded:
        tokenizer = clip.tokenizer
        ids = [tokenizer.bos_token_id, *whole, tokenizer.eos_token_id]
        ids += [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(ids))
        given = torch.tensor([ids], device=self.device)
        embeddings = body_of(clip.encoder).embeddings.token_embedding(given).detach().clone()
        places = torch.tensor(self.slots.places, device=self.device) + 1  # behind the start token
        embeddings[0, places] = vectors[:, clip.columns].to(embeddings)
        return encode_embeddings(clip.encoder, given, embeddings)


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


@dataclasses.dataclass
class Best:
    """The best prompt so far, by its loss on held-out draws; `tokens` is empty while there is none."""

    tokens: list[int]
    loss: float = float("inf")


class TokenSearch(ABC):
    """A search that can be interrupted between two steps. `latents` (1, C, h, w) are the clean picture that is noised.

    It takes `total` steps, and is to be checked after each `check_every`; `held_out` draws choose the best tokens.
    """

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
        self.prompt, self.predict, self.latents, self.seed = prompt, predict, latents, seed
        self.total, self.check_every, self.held = total, check_every, held_out
        self.levels = prompt.pipeline.training_levels().to(latents.device)
        self.embeddings = prompt.table[prompt.random(self.generator("start", 0))].clone()
        self.optimiser = self.made_optimiser(self.embeddings)
        self.done, self.best, self.first = 0, Best([]), float("nan")

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

    def generator(self, purpose: str, number: int) -> torch.Generator:
        """Return the generator of one draw."""
        seed = identity.int_key({"tokens": self.seed, "purpose": purpose, "number": number})
        return torch.Generator("cpu").manual_seed(seed)

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
        tokens = self.prompt.nearest(self.embeddings)
        vectors = self.prompt.table[tokens].clone().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(self.draw(self.done), self.prompt.states(tokens, vectors))
            (gradient,) = torch.autograd.grad(loss, vectors)
        self.embeddings.grad = self.direction(gradient)
        self.optimiser.step()
        self.done += 1

    @torch.no_grad()
    def held_out(self, text: str) -> float:
        """Return the mean loss of a prompt, read as text, over the same held-out draws."""
        states = self.prompt.pipeline.encode_text([text]).to(self.latents.device)
        return sum(float(self.loss(draw, states)) for draw in self._held_out) / self.held

    def check(self, usable: Callable[[str], bool]) -> None:
        """Measure the present tokens as text, and keep them when they are the best so far."""
        tokens = self.prompt.nearest(self.embeddings)
        text = self.prompt.text(tokens)
        if tokens == self.best.tokens or not usable(text):
            return
        loss = self.held_out(text)
        if loss < self.best.loss:
            self.best = Best(tokens, loss)

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
