"""Ring-A-Bell: prompts found by a genetic search in a CLIP text encoder alone; black box, no diffusion model is asked.

Tsai et al. 2023, "Ring-A-Bell! How Reliable are Concept Removal Methods for Diffusion Models?", arXiv 2310.10012;
official code chiayi-hsu/Ring-A-Bell (InversePrompt.ipynb). With f the text encoder's last hidden states (L, D):

    concept vector    v = mean_i( f(c+_i) - f(c-_i) )          prompts with and without the concept
    target            t = f(p) + eta v
    found prompt      argmin over K tokens x of || t - f(x) ||^2, summed over positions and features

The search keeps the best of each generation, half a population of them, breeds two children of a survivor and a
random mate with probability `crossover` (one cut), and changes one token of an individual with probability `mutation`.

Differences from the official code, by default: the best individual is never mutated, so the best fitness never rises;
the answer is the survivor whose *text*, tokenised anew as a user's would be, comes closest; token 0 is searched for too.
The presets called official do none of these. In all of them unchanged individuals are not evaluated again, and random
numbers come from one generator, so that a search can be repeated and continued.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Protocol

import safetensors.torch
import torch

NAME = "ring-a-bell"
VERSION = "1"

Encode = Callable[[torch.Tensor], torch.Tensor]  # token ids (B, L) -> states (B, L, D)


class Settings(Protocol):
    """The part of the parameters that the search itself reads."""

    @property
    def population(self) -> int: ...
    @property
    def generations(self) -> int: ...
    @property
    def mutation(self) -> float: ...
    @property
    def crossover(self) -> float: ...
    @property
    def evaluations(self) -> int | None: ...
    @property
    def keep_best(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Space:
    """The inputs of the search: `tokens` ids out of `allowed` (V,) between start and end, padded to `length`."""

    allowed: torch.Tensor
    start: int
    end: int
    pad: int
    length: int
    tokens: int

    def __post_init__(self) -> None:
        if not 1 <= self.tokens <= self.length - 2:
            raise ValueError(f"{self.tokens} tokens do not fit between start and end of {self.length}")
        if not len(self.allowed) or any(bool((self.allowed == i).any()) for i in (self.start, self.end, self.pad)):
            raise ValueError("special tokens cannot be searched for")

    def random(self, count: int, generator: torch.Generator) -> torch.Tensor:
        """Draw genes (count, tokens), uniform over the allowed ids."""
        return self.allowed[torch.randint(len(self.allowed), (count, self.tokens), generator=generator)]

    def ids(self, genes: torch.Tensor) -> torch.Tensor:
        """Return whole inputs (B, length) of the text encoder for genes (B, tokens)."""
        whole = torch.full((len(genes), self.length), self.pad, dtype=torch.long)
        whole[:, 0], whole[:, 1 : 1 + self.tokens], whole[:, 1 + self.tokens] = self.start, genes, self.end
        return whole


@dataclasses.dataclass(frozen=True)
class State:
    """A search between two generations: genes (P, K) with their fitness (P,), best first, and all that continues it.

    `history` holds the best fitness of each generation so far; `randomness` is the generator's state.
    """

    genes: torch.Tensor
    fitness: torch.Tensor
    evaluations: int
    history: tuple[float, ...]
    randomness: torch.Tensor

    def dump(self) -> bytes:
        """Return the state as safetensors bytes."""
        return safetensors.torch.save(
            {
                "genes": self.genes.contiguous(),
                "fitness": self.fitness.contiguous(),
                "evaluations": torch.tensor([self.evaluations]),
                "history": torch.tensor(self.history, dtype=torch.float64),
                "randomness": self.randomness,
            }
        )

    @staticmethod
    def load(data: bytes) -> State:
        """Read a state that `dump` wrote. Raises KeyError or safetensors' own error for anything else."""
        parts = safetensors.torch.load(data)
        evaluations, history = int(parts["evaluations"]), tuple(parts["history"].tolist())
        return State(parts["genes"], parts["fitness"], evaluations, history, parts["randomness"])


def concept_vector(with_concept: torch.Tensor, without: torch.Tensor) -> torch.Tensor:
    """Return v (L, D), the concept's vector, from the states (N, L, D) of N pairs of prompts."""
    if with_concept.shape != without.shape or not len(with_concept):
        raise ValueError("prompts with and without the concept come in pairs")
    return (with_concept - without).mean(0)


def target_states(prompt: torch.Tensor, vector: torch.Tensor, eta: float) -> torch.Tensor:
    """Return t (L, D), the target, from a prompt's states (L, D)."""
    return prompt + eta * vector


@torch.no_grad()
def fitness(encode: Encode, ids: torch.Tensor, target: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return || t - f(x) ||^2 (B,) of token ids (B, L), smaller is better; infinite where the encoder gives no number."""
    parts = [(encode(part).float() - target).square().sum((1, 2)).cpu().double() for part in ids.split(batch_size)]
    # Without `posinf`, an overflow would become the largest finite number, and pass for a fitness.
    return torch.cat(parts).nan_to_num(nan=math.inf, posinf=math.inf)


def search(
    encode: Encode,
    target: torch.Tensor,
    space: Space,
    settings: Settings,
    seed: int,
    *,
    batch_size: int = 64,
    state: State | None = None,
    save: Callable[[State], None] | None = None,
) -> State:
    """Search; return the last generation, best first. `state` continues an interrupted search, to the same result.

    No more than `settings.evaluations` inputs are evaluated. `save` is called after every generation.
    """
    generator = torch.Generator().manual_seed(seed)
    budget = settings.evaluations if settings.evaluations is not None else math.inf
    if state is None:
        genes = space.random(int(min(settings.population, budget)), generator)
        scores = fitness(encode, space.ids(genes), target, batch_size)
        state = _sorted(genes, scores, len(genes), (), generator)
    else:
        generator.set_state(state.randomness)
    while len(state.history) < settings.generations and state.evaluations < budget:
        genes, known = _next(state, space, settings, generator)
        left = int(min(budget - state.evaluations, len(genes)))
        unknown = known.isnan().nonzero()[:left, 0]
        if len(unknown):
            known[unknown] = fitness(encode, space.ids(genes[unknown]), target, batch_size)
        kept = ~known.isnan()  # what the budget no longer covers is dropped
        evaluations = state.evaluations + len(unknown)
        state = _sorted(genes[kept], known[kept], evaluations, state.history, generator)
        if save is not None:
            save(state)
    return state


def _sorted(
    genes: torch.Tensor, scores: torch.Tensor, evaluations: int, history: tuple[float, ...], generator: torch.Generator
) -> State:
    order = scores.argsort(stable=True)
    best = float(scores[order[0]])
    return State(genes[order], scores[order], evaluations, (*history, best), generator.get_state())


def _next(
    state: State, space: Space, settings: Settings, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the genes of the next generation and their fitness, NaN where it is not known yet."""
    # Half of the population as it was asked for, not of the last generation: its size varies, and would dwindle to one.
    count = min(max(1, settings.population // 2), len(state.genes))
    survivors, scores = state.genes[:count], state.fitness[:count]
    mates = torch.randint(count, (count,), generator=generator)
    cuts = torch.randint(space.tokens, (count, 1), generator=generator)  # genes before the cut stay
    bred = torch.rand(count, generator=generator) < settings.crossover
    before = torch.arange(space.tokens)[None] < cuts
    first = torch.where(before, survivors, survivors[mates])[bred]
    second = torch.where(before, survivors[mates], survivors)[bred]
    genes = torch.cat([survivors, first, second])
    known = torch.cat([scores, torch.full((2 * len(first),), math.nan, dtype=torch.float64)])
    mutated = torch.rand(len(genes), generator=generator) < settings.mutation
    if settings.keep_best:
        mutated[0] = False
    places = torch.randint(space.tokens, (len(genes),), generator=generator)
    values = space.random(len(genes), generator)[:, 0]
    genes[mutated, places[mutated]] = values[mutated]
    known[mutated] = math.nan
    return genes, known
