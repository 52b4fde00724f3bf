"""Evaluate a network through torch.compile for full batches, and as it is wherever that would be slow or wrong.

Shapes are static, so each size of batch is compiled once, which takes minutes; all models of one architecture share it. A
part batch, a picture of another size, a gradient, and a network on which an eraser or a guard has put hooks are evaluated
as ever: compiled code does not see hooks that came after it.
"""

from __future__ import annotations

import logging
import os
import weakref
from collections.abc import Callable
from typing import Any

import torch

from audit.diffusion.denoisers import Denoiser, latent_shape
from audit.machine.compilers import Mode
from audit.machine.homes import cache_folder

BRANCHES = (1, 2, 3)  # of one batch in one call: the prompt's, the null prompt's under guidance, one guard's own
SHAPES = 64  # that one process may compile of one class of network: sizes of batch, precisions and backbones

log = logging.getLogger(__name__)


class Compiling:
    """The way in which one process compiles networks, for batches of `batch()` pictures.

    `backend` is torch.compile's. With mode `cuda-graphs`, the launches of one evaluation on a GPU are recorded and replayed.
    `evaluations` counts those that ran compiled. Once compiling has failed, nothing more is compiled.
    """

    def __init__(self, mode: Mode, batch: Callable[[], int], backend: str | Callable[..., Any] = "inductor") -> None:
        self.mode, self.batch, self.backend = mode, batch, backend
        self.evaluations, self.failed = 0, False
        self._made: weakref.WeakKeyDictionary[torch.nn.Module, Compiled] = weakref.WeakKeyDictionary()
        keep_code_private()
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES)

    def of(self, network: Denoiser) -> Compiled:
        """Return what evaluates `network` in its place, the same one each time."""
        if network not in self._made:
            self._made[network] = Compiled(network, self)
        return self._made[network]

    def fail(self, error: Exception) -> None:
        """Compile nothing from now on, and say why."""
        self.failed = True
        cause = getattr(error, "inner_exception", error)
        first = (str(cause) or "no message").strip().splitlines()[0]
        log.warning("compiling failed, so networks are evaluated as they are: %s: %s", type(cause).__name__, first)


class Compiled:
    """A network as a function of latents (B, C, h, w), timestep and states; `Compiling.of` makes it."""

    def __init__(self, network: Denoiser, how: Compiling) -> None:
        self._how, self._shape = how, latent_shape(network)
        self._network = weakref.ref(network)  # which holds this one
        options: dict[str, str | int | bool | Callable[..., Any]] = {
            "emulate_precision_casts": True,  # round where the network does, in bfloat16 too
            "triton.cudagraphs": how.mode == "cuda-graphs",
        }
        self._compiled = torch.compile(
            type(network).forward,
            backend=how.backend,
            dynamic=False,
            options=options if how.backend == "inductor" else None,
        )

    def __call__(
        self,
        latents: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        **told: float,
    ) -> Any:
        """Return what the network returns."""
        network = self._network()
        assert network is not None  # whoever calls this holds it
        if not self._fits(network, latents, timestep):
            return network(latents, timestep, encoder_hidden_states=encoder_hidden_states, **told)
        # Tensors: each new number would be compiled anew.
        numbers = {
            name: torch.as_tensor(number, dtype=torch.float32, device=latents.device)
            for name, number in {"timestep": timestep, **told}.items()
        }
        recorded = self._how.mode == "cuda-graphs"
        try:
            if recorded:
                torch.compiler.cudagraph_mark_step_begin()
            output = self._compiled(
                network, latents.contiguous(), encoder_hidden_states=encoder_hidden_states.contiguous(), **numbers
            )
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler breaks on; the network itself is as good as before
            self._how.fail(error)
            return network(latents, timestep, encoder_hidden_states=encoder_hidden_states, **told)
        self._how.evaluations += 1
        if recorded:
            output.sample = output.sample.clone()  # the next evaluation writes into the same memory
        return output

    def _fits(self, network: Denoiser, latents: torch.Tensor, timestep: float | torch.Tensor) -> bool:
        return (
            not self._how.failed
            and len(latents) in {branches * self._how.batch() for branches in BRANCHES}
            and tuple(latents.shape[1:]) == self._shape
            and not torch.is_grad_enabled()
            and not (isinstance(timestep, torch.Tensor) and timestep.dim())
            and not any(_altered(module) for module in network.modules())
        )


def _altered(module: torch.nn.Module) -> bool:
    """Return whether a module has forward hooks, or an attention processor that is not diffusers' own."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    processor = getattr(module, "processor", None)
    return processor is not None and not type(processor).__module__.startswith("diffusers.")


def keep_code_private() -> None:
    """Let compiled code lie where only this user writes: it is loaded from there, and the default is a folder in /tmp."""
    for variable, name in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        if not os.environ.get(variable):
            folder = cache_folder() / "erasure-audit" / name
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.environ[variable] = str(folder)
