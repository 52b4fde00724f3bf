"""A search for the tokens of a prompt that can be interrupted between two steps, whatever it is that makes a prompt good."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar

import torch

from audit import identity
from audit.attacks.token_prompt import TokenPrompt


@dataclasses.dataclass
class Best:
    """The best prompt so far, by its loss; `tokens` is empty while there is none."""

    tokens: list[int]
    loss: float = float("inf")


class PromptSearch(ABC):
    """A search of `total` steps, `done` so far, that is to be checked after each `check_every`.

    `measure` names the loss by which the best prompt is chosen, and `first` is that of the prompt it began with. Every draw
    comes from a generator of its own: a search that was interrupted goes on to the same result.
    """

    measure: ClassVar[str]

    def __init__(self, prompt: TokenPrompt, seed: int, total: int, check_every: int) -> None:
        self.prompt, self.seed, self.total, self.check_every = prompt, seed, total, check_every
        self.done, self.best, self.first = 0, Best([]), float("nan")

    @property
    def evaluations(self) -> int:
        """The prompts that the search has looked at so far: one a step."""
        return self.done

    @abstractmethod
    def present(self) -> list[int]:
        """Return the tokens that the search holds now."""

    @abstractmethod
    def step(self) -> None:
        """Take one step."""

    @abstractmethod
    def loss_of(self, text: str) -> float:
        """Return the loss of a prompt, read as text."""

    @abstractmethod
    def dump(self) -> bytes:
        """Return the state as safetensors bytes."""

    @abstractmethod
    def restore(self, data: bytes) -> None:
        """Continue from what `dump` wrote. Raises KeyError, ValueError or safetensors' own error for anything else."""

    def generator(self, purpose: str, number: int) -> torch.Generator:
        """Return the generator of one draw."""
        seed = identity.int_key({"tokens": self.seed, "purpose": purpose, "number": number})
        return torch.Generator("cpu").manual_seed(seed)

    def check(self, usable: Callable[[str], bool]) -> None:
        """Measure the present tokens as text, and keep them when they are the best so far."""
        tokens = self.present()
        text = self.prompt.text(tokens)
        if tokens == self.best.tokens or not usable(text):
            return
        loss = self.loss_of(text)
        if loss < self.best.loss:
            self.best = Best(tokens, loss)
