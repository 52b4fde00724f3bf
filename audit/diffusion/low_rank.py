"""Low-rank pairs in training: a layer's output gains scale * up(down(x)), which can be switched off (Hu et al. 2021, eq. 3)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn


class Pair(nn.Module):
    """The pair of one linear or convolution layer: `down` begins as a linear layer does, `up` at zero."""

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, generator: torch.Generator) -> None:
        super().__init__()
        out, into, *kernel = layer.weight.shape
        bound = 1 / math.sqrt(into * math.prod(kernel))  # of kaiming_uniform_ with a = sqrt(5)
        down = (2 * torch.rand((rank, into, *kernel), generator=generator) - 1) * bound
        self.down = nn.Parameter(down.to(layer.weight.device))
        self.up = nn.Parameter(torch.zeros((out, rank, *[1] * len(kernel)), device=layer.weight.device))

    def forward(self, layer: nn.Module, hidden: torch.Tensor) -> torch.Tensor:
        """Return the change of the layer's output for its input."""
        if isinstance(layer, nn.Conv2d):
            low = nn.functional.conv2d(hidden, self.down, stride=layer.stride, padding=layer.padding)
            return nn.functional.conv2d(low, self.up)
        return nn.functional.linear(nn.functional.linear(hidden, self.down), self.up)


class LowRank(nn.Module):
    """Pairs on some layers of a network, by module path. They act inside `acting` and while `enabled`."""

    def __init__(
        self, network: nn.Module, paths: Sequence[str], rank: int, seed: int, alpha: float | None = None
    ) -> None:
        """`alpha` over the rank is the scale; None is a scale of 1."""
        super().__init__()
        self.network = [network]  # in a list: it is no part of this module
        self.paths, self.enabled = tuple(paths), True
        self.scale = 1.0 if alpha is None else alpha / rank
        generator = torch.Generator().manual_seed(2**43 + seed)
        pairs = []
        for path in self.paths:
            layer = network.get_submodule(path)
            assert isinstance(layer, nn.Linear | nn.Conv2d)
            pairs.append(Pair(layer, rank, generator))
        self.pairs = nn.ModuleList(pairs)

    def named_pairs(self) -> Iterator[tuple[str, Pair]]:
        """Yield module path and pair."""
        for path, pair in zip(self.paths, self.pairs, strict=True):
            assert isinstance(pair, Pair)
            yield path, pair

    @contextlib.contextmanager
    def acting(self) -> Iterator[None]:
        """Hook the pairs onto the network inside the block."""
        hooks = [
            self.network[0].get_submodule(path).register_forward_hook(self._hook(p)) for path, p in self.named_pairs()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextlib.contextmanager
    def switched_off(self) -> Iterator[None]:
        """Leave the network as it was inside the block."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def _hook(self, pair: Pair):  # type: ignore[no-untyped-def]
        def add(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            """Return a layer's output with the pair's change, unless the pairs are off."""
            if not self.enabled:
                return output
            change: torch.Tensor = pair(layer, inputs[0])
            return output + self.scale * change

        return add
