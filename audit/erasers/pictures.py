"""Training pictures: finished latents of some prompts, which the frozen model samples once, and their noised versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import safetensors
import safetensors.torch
import torch

from audit.diffusion.levels import target_of
from audit.diffusion.pipeline import Pipeline
from audit.erasers.latents import Predict, guided_step, latent_shape, make_scheduler
from audit.erasers.parameters import PictureParameters
from audit.files import write_atomically
from audit.progress import Session

_BATCH = 16  # trajectories denoised at once


@dataclasses.dataclass(frozen=True)
class Noised:
    """A batch of pictures' noisy latents (B, C, h, w) at `timesteps` (B,), and what the network should predict there."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    target: torch.Tensor


class Pictures:
    """The pictures of one training, by prompt. `states` (1, L, D) are the prompts' token states."""

    def __init__(
        self, pipeline: Pipeline, predict: Predict, parameters: PictureParameters, states: Sequence[torch.Tensor]
    ) -> None:
        self.pipeline, self.predict, self.options, self.states = pipeline, predict, parameters, tuple(states)
        self.null = pipeline.encode_text([""])
        self.shape = latent_shape(pipeline, parameters.pixels)
        self.levels = pipeline.training_levels()
        self.latents: list[torch.Tensor] = []

    def fill(self, key: str, session: Session) -> None:
        """Sample the pictures, or read those that an earlier process left in the session's folder."""
        path = session.folder / f"pictures-{key[:16]}.safetensors" if session.folder else None
        if path and path.exists():
            try:
                stored = safetensors.torch.load_file(path)
                self.latents = [stored[str(which)] for which in range(len(self.states))]
            except (OSError, KeyError, safetensors.SafetensorError):
                self.latents = []
        if not self.latents:
            self.latents = self._sample(session)
            if path:
                named = {str(which): latents.contiguous() for which, latents in enumerate(self.latents)}
                write_atomically(path, lambda partial: safetensors.torch.save_file(named, partial))

    def draw(self, generator: torch.Generator) -> tuple[int, torch.Tensor, torch.Tensor]:
        """Draw a prompt, by its index, and a batch of its pictures: their rows, and their latents (B, C, h, w)."""
        which = int(torch.randint(len(self.latents), (1,), generator=generator))
        rows = torch.randint(len(self.latents[which]), (self.options.batch_size,), generator=generator)
        return which, rows, self.latents[which][rows].to(self.pipeline.device)

    def noised(self, clean: torch.Tensor, timesteps: torch.Tensor, generator: torch.Generator) -> Noised:
        """Return latents with fresh noise at `timesteps` (B,)."""
        noise = torch.randn(clean.shape, generator=generator).to(clean)
        signal, level = self.levels[timesteps].T[..., None, None, None].to(clean)
        target = target_of(self.pipeline.kind, signal, level, clean, noise)
        return Noised(signal * clean + level * noise, timesteps.to(clean.device), target)

    def uniform(self, generator: torch.Generator) -> torch.Tensor:
        """Draw timesteps (B,), every one alike."""
        return torch.randint(len(self.levels), (self.options.batch_size,), generator=generator)

    @torch.no_grad()
    def _sample(self, session: Session) -> list[torch.Tensor]:
        each = -(-self.options.pictures // len(self.states))
        stage, made = "pictures", []
        session.listener.begin(stage, each * len(self.states), 0)
        for which, states in enumerate(self.states):
            generator = torch.Generator().manual_seed(2**42 + self.options.seed * 1_000_003 + which)
            parts = []
            for start in range(0, each, _BATCH):
                batch = min(_BATCH, each - start)
                latents = torch.randn((batch, *self.shape), generator=generator).to(self.pipeline.device)
                scheduler, pair = make_scheduler(self.pipeline, self.options), torch.cat([self.null, states])
                for timestep in scheduler.timesteps:
                    latents = guided_step(self.predict, scheduler, latents, timestep, pair, self.options.guidance)
                parts.append(latents.cpu())
                session.listener.update(stage, which * each + start + batch)
            made.append(torch.cat(parts))
        session.listener.end(stage)
        return made
