"""How often, on how many rows and for how long the networks of an audit run forward, whoever calls them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.autoencoders.vae import Decoder, Encoder
from transformers import CLIPTextModel, CLIPVisionModel, ResNetForImageClassification

# UNet, VAE, text encoders (the backbone's and the judges') and the judges' image networks. None contains another.
NETWORKS = (UNet2DConditionModel, Encoder, Decoder, CLIPTextModel, CLIPVisionModel, ResNetForImageClassification)


@dataclasses.dataclass
class Tally:
    """What one class of network did."""

    calls: int = 0
    rows: int = 0
    seconds: float = 0.0
    cpu: float = 0.0


class Forwards:
    """Tallies by class name."""

    def __init__(self) -> None:
        self.by_class: dict[str, Tally] = defaultdict(Tally)

    @property
    def seconds(self) -> float:
        """Wall time inside all networks."""
        return sum(tally.seconds for tally in self.by_class.values())

    @property
    def cpu(self) -> float:
        """CPU time of the process while it was inside networks, of all its threads."""
        return sum(tally.cpu for tally in self.by_class.values())


@contextlib.contextmanager
def counted() -> Iterator[Forwards]:
    """Count inside this block, in every thread of this process. CPU only: a GPU's work would outlive the call."""
    found, lock = Forwards(), threading.Lock()
    originals = {network: network.forward for network in NETWORKS}

    def wrapped(network: type[Any], forward: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(forward)
        def timed(self: Any, *arguments: Any, **named: Any) -> Any:
            started, used = time.perf_counter(), time.process_time()
            result = forward(self, *arguments, **named)
            spent, used = time.perf_counter() - started, time.process_time() - used
            first = arguments[0] if arguments else next(iter(named.values()))
            with lock:
                tally = found.by_class[network.__name__]
                tally.calls, tally.rows = tally.calls + 1, tally.rows + len(first)
                tally.seconds, tally.cpu = tally.seconds + spent, tally.cpu + used
            return result

        return timed

    for network, forward in originals.items():
        network.forward = wrapped(network, forward)
    try:
        yield found
    finally:
        for network, forward in originals.items():
            network.forward = forward
