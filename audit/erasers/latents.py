"""Training latents: noisy latents on the way to a picture of the concept, with the frozen model's predictions on them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import safetensors
import safetensors.torch
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.schedulers.scheduling_pndm import PNDMScheduler

from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.pipeline import Pipeline
from audit.erasers.parameters import LoopParameters, TrainedParameters
from audit.erasers.phrases import Prompt
from audit.errors import EraserError
from audit.files import write_atomically
from audit.progress import Session

_GRID = ("beta_start", "beta_end", "beta_schedule", "num_train_timesteps", "steps_offset", "set_alpha_to_one")
Scheduler: TypeAlias = DDIMScheduler | PNDMScheduler | FlowMatchEulerDiscreteScheduler
Predict: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]  # latents, timesteps, states
_POOL_BATCH = 16  # trajectories denoised at once


@dataclasses.dataclass(frozen=True)
class Noisy:
    """A batch of noisy latents (B, C, h, w) of one prompt at `timesteps` (B,), with the frozen model's predictions there.

    `prompt` is the prediction with the prompt that made the latents, `null` with the null prompt, `concept` with the
    concept itself (the same as `prompt` unless a concept is erased from another prompt). `maps` (B, side, side) is the
    attention to the concept's word, when it was asked for.
    """

    latents: torch.Tensor
    timesteps: torch.Tensor
    prompt: torch.Tensor
    null: torch.Tensor
    concept: torch.Tensor
    maps: torch.Tensor | None = None

    def rows(self, index: torch.Tensor) -> Noisy:
        """Return the batch of these rows."""
        return self._each(lambda tensor: tensor[index])

    def to(self, device: torch.device) -> Noisy:
        """Return the batch on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors that are not None, by field."""
        return {name: tensor for name, tensor in vars(self).items() if tensor is not None}

    def _each(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Noisy:
        return from_tensors({name: change(tensor) for name, tensor in self.tensors().items()})


def from_tensors(tensors: Mapping[str, torch.Tensor]) -> Noisy:
    """Return a batch from its tensors by field. Raises KeyError when one but `maps` is missing."""
    return Noisy(
        latents=tensors["latents"],
        timesteps=tensors["timesteps"],
        prompt=tensors["prompt"],
        null=tensors["null"],
        concept=tensors["concept"],
        maps=tensors.get("maps"),
    )


def predict(
    unet: Denoiser, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor, compute: str
) -> torch.Tensor:
    """Return the noise prediction (B, C, h, w). `compute` bfloat16 runs under autocast, over the weights as they are.

    The prediction is float32, except for bfloat16-weights: there everything is bfloat16, the prediction too.
    """
    if compute == "bfloat16-weights":
        rounded = latents.bfloat16(), states.bfloat16()
        return unet(rounded[0], timesteps, encoder_hidden_states=rounded[1]).sample
    with torch.autocast(latents.device.type, torch.bfloat16, enabled=compute == "bfloat16"):
        return unet(latents, timesteps, encoder_hidden_states=states).sample.float()


class Latents:
    """A source of training latents for the prompts of one eraser.

    `trained` is the model in training (its sampling is used when the parameters say `latents_from: trained`);
    `frozen` predicts with the backbone. They are functions so that adapters can be switched on and off around them.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        frozen: Predict,
        trained: Predict,
        parameters: TrainedParameters,
        *,
        concepts: Sequence[Prompt],
        sources: Sequence[Prompt] | None = None,
        mask_side: int = 0,
    ) -> None:
        self.pipeline, self.frozen, self.options = pipeline, frozen, parameters
        self.sampling = trained if parameters.latents_from == "trained" else frozen
        self.concepts, self.sources = tuple(concepts), tuple(sources or concepts)
        self.mask_side = mask_side
        self.null = pipeline.encode_text([""])
        self.shape = latent_shape(pipeline, parameters.pixels)
        self._pool: list[Noisy] = []

    def draw(self, generator: torch.Generator, which: int | None = None) -> tuple[int, Noisy]:
        """Draw a prompt, or take the given one, by its index, and a batch of its latents, from the pool when there is one."""
        if which is None:
            which = int(torch.randint(len(self.concepts), (1,), generator=generator))
        if self._pool:
            pool = self._pool[which]
            rows = torch.randint(len(pool.latents), (self.options.batch_size,), generator=generator)
            return which, pool.rows(rows).to(self.pipeline.device)
        return which, self._fresh(which, generator)

    def fill_pool(self, key: str, session: Session) -> None:
        """Sample the pool, or read the one that an earlier process left in the session's folder."""
        if not self.options.pool:
            return
        path = session.folder / f"latents-{key[:16]}.safetensors" if session.folder else None
        if path and path.exists():
            self._pool = self._read(path)
        if not self._pool:
            self._pool = self._sample_pool(session)
            if path:
                stored = {f"{i}.{name}": t.clone() for i, p in enumerate(self._pool) for name, t in p.tensors().items()}
                write_atomically(path, lambda partial: safetensors.torch.save_file(stored, partial))

    def _read(self, path: Path) -> list[Noisy]:
        try:
            stored = safetensors.torch.load_file(path)
            return [
                from_tensors({name.partition(".")[2]: t for name, t in stored.items() if name.startswith(f"{i}.")})
                for i in range(len(self.concepts))
            ]
        except (OSError, KeyError, safetensors.SafetensorError):
            return []

    @torch.no_grad()
    def _fresh(self, which: int, generator: torch.Generator) -> Noisy:
        """Denoise latents for this iteration, from random noise down to a random step."""
        steps = self.options.steps
        scheduler = make_scheduler(self.pipeline, self.options)
        stop = int(torch.randint(steps, (1,), generator=generator))
        latents = self._noise(self.options.batch_size, generator)
        compvis = self.options.trajectory == "compvis"
        for timestep in scheduler.timesteps[1 : stop + 2] if compvis else scheduler.timesteps[:stop]:
            latents = self._step(scheduler, which, latents, timestep)
        timesteps = scheduler.timesteps[stop].expand(len(latents))
        if self.options.jitter:
            interval = int(scheduler.config["num_train_timesteps"]) // steps
            first = (steps - 1 - stop) * interval
            timesteps = torch.randint(first, first + interval, (len(latents),), generator=generator)
        return self._evaluate(which, latents, timesteps.to(latents.device))

    @torch.no_grad()
    def _sample_pool(self, session: Session) -> list[Noisy]:
        """Return all steps of `pool` guided trajectories of the frozen model, spread over the prompts."""
        each = -(-self.options.pool // len(self.concepts))
        stage, pools = "latents", []
        session.listener.begin(stage, each * len(self.concepts), 0)
        for which in range(len(self.concepts)):
            generator = torch.Generator().manual_seed(2**40 + self.options.seed * 1_000_003 + which)
            parts: list[Noisy] = []
            for start in range(0, each, _POOL_BATCH):
                parts += self._trajectory(which, min(_POOL_BATCH, each - start), generator)
                session.listener.update(stage, which * each + min(start + _POOL_BATCH, each))
            names = parts[0].tensors()
            pools.append(from_tensors({name: torch.cat([part.tensors()[name] for part in parts]) for name in names}))
        session.listener.end(stage)
        return pools

    def _trajectory(self, which: int, batch: int, generator: torch.Generator) -> list[Noisy]:
        scheduler = make_scheduler(self.pipeline, self.options)
        latents, batches = self._noise(batch, generator), []
        for timestep in scheduler.timesteps:
            noisy = self._evaluate(which, latents, timestep.expand(batch).to(latents.device))
            batches.append(noisy.to(torch.device("cpu")))
            guided = noisy.null + self.options.guidance * (noisy.prompt - noisy.null)
            latents = scheduler.step(guided, _number(timestep), latents).prev_sample
        return batches

    def _step(self, scheduler: Scheduler, which: int, latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        """Take one guided step of the model that samples."""
        states = torch.cat([self.null, self.sources[which].states])
        return guided_step(self.sampling, scheduler, latents, timestep, states, self.options.guidance)

    def _evaluate(self, which: int, latents: torch.Tensor, timesteps: torch.Tensor) -> Noisy:
        """Return the frozen model's predictions for null prompt, source and concept, made in one batch."""
        batch, source, concept = len(latents), self.sources[which], self.concepts[which]
        wanted = [self.null, source.states] + ([] if source is concept else [concept.states])
        states = torch.cat([s.expand(batch, -1, -1) for s in wanted])
        count = len(wanted)
        repeated, at = latents.repeat(count, 1, 1, 1), timesteps.repeat(count)
        maps = None
        if self.mask_side:
            with CrossAttentionMaps(self.pipeline.unet, self.mask_side) as captured:
                predictions = self.frozen(repeated, at, states)
            maps = captured.mean(concept.word)[-batch:]
        else:
            predictions = self.frozen(repeated, at, states)
        parts = predictions.chunk(count)
        return Noisy(latents, timesteps, parts[1], parts[0], parts[-1], maps)

    def _noise(self, batch: int, generator: torch.Generator) -> torch.Tensor:
        dtype = torch.bfloat16 if self.options.rounded else torch.float32
        return torch.randn((batch, *self.shape), generator=generator).to(self.pipeline.device, dtype)


def _number(timestep: torch.Tensor) -> int | torch.Tensor:
    """Return a timestep as its scheduler takes it: an int, or a flow's number."""
    return timestep if timestep.is_floating_point() else int(timestep)


def guided_step(
    predict: Predict,
    scheduler: Scheduler,
    latents: torch.Tensor,
    timestep: torch.Tensor,
    states: torch.Tensor,
    guidance: float,
) -> torch.Tensor:
    """Return latents (B, C, h, w) one step further, under guidance. `states` (2, L, D) are the null prompt's and the prompt's."""
    batch = len(latents)
    at = timestep.expand(2 * batch).to(latents.device)
    null, prompt = predict(torch.cat([latents, latents]), at, states.repeat_interleave(batch, 0)).chunk(2)
    return scheduler.step(null + guidance * (prompt - null), _number(timestep), latents).prev_sample


def latent_shape(pipeline: Pipeline, pixels: int | None) -> tuple[int, int, int]:
    """Return (channels, height, width) of training latents for pictures of `pixels` x `pixels`.

    Raises `EraserError` when the UNet cannot halve the side as often as it has to.
    """
    if pixels is None:
        return pipeline.latent_shape
    factor = pipeline.resolution // pipeline.latent_shape[1]
    halved = 2 ** (len(pipeline.unet.config.get("block_out_channels", (0,))) - 1)
    least = factor * int(pipeline.unet.config.get("patch_size", halved))
    if pixels % least:
        raise EraserError(
            f"training pictures of {pixels} pixels do not fit this backbone",
            where="pixels",
            next_step=f"use a multiple of {least}, such as {pipeline.resolution}",
        )
    return pipeline.latent_shape[0], pixels // factor, pixels // factor


def make_scheduler(pipeline: Pipeline, parameters: LoopParameters) -> Scheduler:
    """Return a new diffusers sampler on the pipeline's noise levels, set to the number of steps of the parameters."""
    if pipeline.kind == "flow":
        # `sampler` chooses among solvers of a diffusion; a flow is sampled by Euler's steps, as its pipelines do.
        flow: Scheduler = FlowMatchEulerDiscreteScheduler.from_config(
            {**pipeline.scheduler_config, "use_dynamic_shifting": False}
        )
        flow.set_timesteps(parameters.steps)
        return flow
    grid = {name: pipeline.scheduler_config[name] for name in _GRID if name in pipeline.scheduler_config}
    grid["prediction_type"] = pipeline.kind
    scheduler: Scheduler = (
        PNDMScheduler(**grid, skip_prk_steps=True)
        if parameters.sampler == "pndm"
        else DDIMScheduler(**grid, clip_sample=False, timestep_spacing="leading")
    )
    scheduler.set_timesteps(parameters.steps)
    return scheduler
