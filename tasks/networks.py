"""Seconds in the forward passes of networks, by network, for the metrics of a run.

The classes of diffusers, transformers and ONNX Runtime that every network of an audit is made of are wrapped while they are
measured: a pass costs two readings of a clock, its layers nothing. Of networks inside each other the outermost counts.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import importlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar, cast

if TYPE_CHECKING:
    import torch

P = ParamSpec("P")
T = TypeVar("T")
# (module, class, methods): the passes of its networks.
_PASSES = (
    ("diffusers.models.modeling_utils", "ModelMixin", ("__call__",)),
    ("diffusers", "AutoencoderKL", ("encode", "decode")),
    ("transformers", "PreTrainedModel", ("__call__",)),
    ("onnxruntime", "InferenceSession", ("run",)),
)


class Networks:
    """The seconds since they were last taken. A GPU's are its own, between marks in its stream."""

    def __init__(self) -> None:
        self._seconds: collections.defaultdict[str, float] = collections.defaultdict(float)
        self._marks: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._inside = threading.local()

    @contextlib.contextmanager
    def measured(self) -> Iterator[None]:
        """Measure every pass of this process inside the block."""
        with contextlib.ExitStack() as stack:
            for module, name, methods in _PASSES:
                with contextlib.suppress(ImportError):
                    network = getattr(importlib.import_module(module), name)
                    for method in methods:
                        stack.callback(_replace(network, method, self._timed(getattr(network, method))))
            yield

    def take(self) -> dict[str, float]:
        """Return class of a network -> seconds in its passes, and begin again at zero."""
        for name, began, ended in self._marks:
            ended.synchronize()
            self._seconds[name] += began.elapsed_time(ended) / 1000
        self._marks.clear()
        seconds = dict(self._seconds)
        self._seconds.clear()
        return seconds

    def _timed(self, forward: Callable[Concatenate[object, P], T]) -> Callable[Concatenate[object, P], T]:
        @functools.wraps(forward)
        def timed(network: object, *args: P.args, **kwargs: P.kwargs) -> T:
            if getattr(self._inside, "network", False):
                return forward(network, *args, **kwargs)
            self._inside.network = True
            try:
                with self._clock(type(network).__name__):
                    return forward(network, *args, **kwargs)
            finally:
                self._inside.network = False

        return cast("Callable[Concatenate[object, P], T]", timed)

    @contextlib.contextmanager
    def _clock(self, name: str) -> Iterator[None]:
        from torch import cuda

        if cuda.is_available() and cuda.is_initialized() and not cuda.is_current_stream_capturing():
            began, ended = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
            began.record()
            yield
            ended.record()
            self._marks.append((name, began, ended))
        else:
            start = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - start


def _replace(owner: type, name: str, value: object) -> Callable[[], None]:
    """Set an attribute of a class; return what undoes it, also where the class had inherited it."""
    inherited, before = name not in vars(owner), vars(owner).get(name)
    setattr(owner, name, value)
    return functools.partial(delattr, owner, name) if inherited else functools.partial(setattr, owner, name, before)
