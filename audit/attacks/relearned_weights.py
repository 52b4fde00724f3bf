"""What relearning moves: the pairs of a LoRA beside the weights, or the weights themselves, which are put back afterwards."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Protocol

import torch
from torch import nn

from audit.diffusion.low_rank import LowRank


class Moved(Protocol):
    """What a training moves."""

    @property
    def leaves(self) -> Mapping[str, nn.Parameter]:
        """Return what is trained in place while it acts, by name."""

    @property
    def what(self) -> str:
        """Return what it is called in reports."""

    @property
    def layers(self) -> int:
        """Return the number of layers that it changes."""

    def acting(self) -> contextlib.AbstractContextManager[None]:
        """Open a block in which the network has what is trained; afterwards it is as it was before."""

    def added(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield what a checkpoint keeps, by the names of the leaves."""


class Pairs:
    """The pairs of a LoRA."""

    def __init__(self, lora: LowRank, rank: int) -> None:
        self.lora = lora
        self.leaves = {
            f"{path}.{half}": leaf for path, pair in lora.named_pairs() for half, leaf in pair.named_parameters()
        }
        self.what, self.layers = f"a LoRA of rank {rank}", len(lora.paths)

    def acting(self) -> contextlib.AbstractContextManager[None]:
        """Open a block with the pairs on the network."""
        return self.lora.acting()

    def added(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the pairs."""
        yield from ((name, leaf.detach()) for name, leaf in self.leaves.items())


class Weights:
    """Every weight of a network. Other models of the process share some of them, so they are put back bit by bit."""

    what = "the whole network"

    def __init__(self, network: nn.Module) -> None:
        self.leaves = dict(network.named_parameters())
        self.layers = len(self.leaves)
        self._before: Mapping[str, torch.Tensor] = {}

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Open a block in which the weights may be trained."""
        self._before = {name: leaf.detach().clone() for name, leaf in self.leaves.items()}
        frozen = {name: leaf.requires_grad for name, leaf in self.leaves.items()}
        try:
            for leaf in self.leaves.values():
                leaf.requires_grad_(True)
            yield
        finally:
            for name, leaf in self.leaves.items():
                leaf.requires_grad_(frozen[name])
                leaf.grad = None
                with torch.no_grad():
                    leaf.copy_(self._before[name])
            self._before = {}

    def added(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the difference of each weight to what it was."""
        yield from ((name, leaf.detach() - self._before[name]) for name, leaf in self.leaves.items())
