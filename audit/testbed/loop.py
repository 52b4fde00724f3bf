"""Train with a loop that resumes: seeded, checkpointed atomically, logged as plain lines."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from audit.files import write_atomically
from audit.machine.arithmetic import emulates_bfloat16

M = TypeVar("M", bound=nn.Module)

CHECKPOINT_EVERY = 250  # steps
EMA_DECAY = 0.998


def pick_device() -> torch.device:
    """Return the CUDA device when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def build(make: Callable[[], M], seed: int) -> M:
    """Return a module initialised under `seed`; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make()


def learning_rate(step: int, steps: int, peak: float, warmup: int = 100) -> float:
    """Return the learning rate of one step: linear warm-up, then a cosine down to 2 % of `peak`."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


def recorded(folder: Path, name: str) -> tuple[int, float] | None:
    """Return the steps and seconds of a training, all its sittings together; None without a checkpoint in `folder`."""
    path = folder / f"{name}.pt"
    if not path.exists():
        return None
    state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return state["step"], state["seconds"]


class Training:
    """Trains `modules` for `steps` steps, from the last checkpoint in `folder` when there is one.

    With `autocast`, products run in bfloat16 where the machine computes in it, and in float32 where it would emulate it.
    The parameters named in `matrices`, each of two dimensions, are trained by Muon, which makes each update orthogonal
    (https://kellerjordan.github.io/posts/muon); its steps are as long as AdamW's, which trains the others (arXiv 2502.16982).
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        modules: Mapping[str, nn.Module],
        *,
        steps: int,
        peak: float,
        seed: int,
        autocast: bool = True,
        matrices: Collection[str] = (),
    ) -> None:
        self.name, self.steps, self.peak, self.seed = name, steps, peak, seed
        self.path = folder / f"{name}.pt"
        self.device = pick_device()
        self.autocast = autocast and not (self.device.type == "cpu" and emulates_bfloat16())
        self.modules = nn.ModuleDict(modules).to(self.device)
        self.ema = {key: value.detach().clone() for key, value in self.modules.state_dict().items()}
        parameters = dict(self.modules.named_parameters())
        orthogonal = [parameters.pop(name) for name in matrices]
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "optimiser": torch.optim.AdamW(parameters.values(), peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        }
        if orthogonal:
            self.optimisers["muon"] = torch.optim.Muon(
                orthogonal, peak, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
            )
        self.step, self.seconds = 0, 0.0
        if self.path.exists():
            state = torch.load(self.path, map_location=self.device, weights_only=True)
            self.modules.load_state_dict(state["modules"])
            self.ema = state["ema"]
            for key, optimiser in self.optimisers.items():
                optimiser.load_state_dict(state[key])
            self.step, self.seconds = state["step"], state["seconds"]

    def run(self, loss_of: Callable[[torch.Generator], torch.Tensor]) -> None:
        """Train to the end. `loss_of` draws a batch with the step's own generator, so a resumed run sees the same data."""
        self.modules.train()
        started, smoothed = time.perf_counter(), 0.0
        while self.step < self.steps:
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
                loss = loss_of(generator)
            if not torch.isfinite(loss):
                raise FloatingPointError(f"{self.name}: the loss is not finite at step {self.step}")
            for optimiser in self.optimisers.values():
                for group in optimiser.param_groups:
                    group["lr"] = learning_rate(self.step, self.steps, self.peak)
                optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.modules.parameters(), 1.0)
            for optimiser in self.optimisers.values():
                optimiser.step()
            self.step += 1
            self._average()
            smoothed = loss.item() if smoothed == 0 else 0.98 * smoothed + 0.02 * loss.item()
            now = time.perf_counter()
            self.seconds, started = self.seconds + now - started, now
            if self.step % 50 == 0:
                print(f"{self.name} step {self.step}/{self.steps} loss {smoothed:.4f} {self.seconds:.0f} s", flush=True)
            if self.step % CHECKPOINT_EVERY == 0 or self.step == self.steps:
                self._save()
        self.use_average()

    def _average(self) -> None:
        decay = min(EMA_DECAY, (1 + self.step) / (10 + self.step))
        for key, value in self.modules.state_dict().items():
            if value.is_floating_point():
                self.ema[key].lerp_(value, 1 - decay)
            else:
                self.ema[key].copy_(value)

    def use_average(self) -> None:
        """Put the averaged weights into the modules and switch them to evaluation."""
        self.modules.load_state_dict(self.ema)
        self.modules.eval()

    def _save(self) -> None:
        state = {
            "modules": self.modules.state_dict(),
            "ema": self.ema,
            **{key: optimiser.state_dict() for key, optimiser in self.optimisers.items()},
            "step": self.step,
            "seconds": self.seconds,
        }
        write_atomically(self.path, lambda unfinished: torch.save(state, unfinished))
