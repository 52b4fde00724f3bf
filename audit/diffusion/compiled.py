"""Evaluate a network through torch.compile for full batches, and as it is wherever that would be slow or wrong.

Shapes are static, so each size of batch is compiled once, which takes minutes; all models of one architecture share it. A
part batch, a picture of another size, a gradient, and a network on which an eraser or a guard has put hooks are evaluated
as ever: compiled code sees no hooks that came after it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch

from audit.diffusion.attention import Capturing
from audit.diffusion.denoisers import Denoiser, latent_shape
from audit.machine.compilers import Mode

BRANCHES = (1, 2, 3)  # of one batch in one call: the prompt's, the null prompt's under guidance, a guard's own

log = logging.getLogger(__name__)


class Compiled:
    """A network as a function of latents (B, C, h, w), timestep and states, compiled for B = `batch` times its branches.

    `backend` is torch.compile's. With `cuda-graphs` on a GPU, the launches of one evaluation are recorded and replayed.
    """

    def __init__(
        self, network: Denoiser, mode: Mode, batch: int, backend: str | Callable[..., Any] = "inductor"
    ) -> None:
        self.network, self._graphs = network, mode == "cuda-graphs"
        self._sizes = {branches * batch for branches in BRANCHES}
        self._shape, self._modules = latent_shape(network), list(network.modules())
        recorded = "reduce-overhead" if self._graphs and backend == "inductor" else None
        self._compiled = torch.compile(network, backend=backend, dynamic=False, mode=recorded)
        self._failed = False

    def __call__(
        self,
        latents: torch.Tensor,
        timestep: float | torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        **told: float,
    ) -> Any:
        """Return what the network returns."""
        if not self._fits(latents, timestep):
            return self.network(latents, timestep, encoder_hidden_states=encoder_hidden_states, **told)
        # A tensor: each new number would be compiled anew.
        at = torch.as_tensor(timestep, dtype=torch.float32, device=latents.device)
        try:
            if self._graphs:
                torch.compiler.cudagraph_mark_step_begin()
            output = self._compiled(latents, at, encoder_hidden_states=encoder_hidden_states, **told)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a compiler breaks on; the network itself is as good as before
            self._failed = True
            log.warning("compiling failed, so networks are evaluated as they are: %s", str(error).splitlines()[0])
            return self.network(latents, timestep, encoder_hidden_states=encoder_hidden_states, **told)
        if self._graphs:
            output.sample = output.sample.clone()  # the next evaluation writes into the same memory
        return output

    def _fits(self, latents: torch.Tensor, timestep: float | torch.Tensor) -> bool:
        return (
            not self._failed
            and len(latents) in self._sizes
            and tuple(latents.shape[1:]) == self._shape
            and not torch.is_grad_enabled()
            and not (isinstance(timestep, torch.Tensor) and timestep.dim())
            and not any(_altered(module) for module in self._modules)
        )


def _altered(module: torch.nn.Module) -> bool:
    """Return whether something looks into a layer, or acts beside it."""
    if module._forward_hooks or module._forward_pre_hooks:
        return True
    return isinstance(getattr(module, "processor", None), Capturing)
