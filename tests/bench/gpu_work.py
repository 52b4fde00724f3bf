"""The pieces of an audit that a GPU spends its time on, each as a function of the batch size.

A piece runs a few of the sampler's steps and says how many UNet evaluations a whole picture takes more, because the time
of one is the same at every step: 50 steps, inversion with `PASSES` evaluations a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch

from audit import guards
from audit.diffusion.compiled import Compiling
from audit.diffusion.guard import Conditioning, Guard
from audit.diffusion.inversion import invert
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.diffusion.sampling import NoiseModel, initial_noise, sample
from audit.guards.building import Parts, build
from audit.guards.egloce import Egloce
from audit.guards.energy import Energy
from audit.instruments.differentiable_clip import decoder
from audit.machine.compilers import Mode
from audit.spec.sections import Concept
from audit.spec.sections import Guard as GuardSpec

STEPS = 50  # of a whole picture
PASSES = 3  # evaluations of an inversion step
GUIDANCE = 7.5
CAT, TEXT = Concept(name="cat", phrase="cat"), "a photo of a cat"


@dataclasses.dataclass(frozen=True)
class Piece:
    """One kind of work. `run(batch)` does it once; a whole picture takes `times` as long as one picture's share of it.

    `counted` is what its model FLOPs are counted on, where `run` computes some of them twice. `eager` says why an audit
    never compiles it; empty where it may.
    """

    name: str
    run: Callable[[int], Any]
    times: float
    half: bool  # bfloat16, and to be held against that ceiling; False is float32
    counted: Callable[[int], Any] | None = None
    eager: str = ""


class Work:
    """Pieces of one pipeline; `some` is how many sampler steps a measurement takes, a divisor of 1000."""

    def __init__(self, pipeline: Pipeline, network: Any, energy: Energy, some: int) -> None:
        self.pipeline, self.network, self.energy, self.some = pipeline, network, energy, some
        self.model: NoiseModel = noise_model(pipeline.unet)
        self.batch = 0  # of the measurement that runs
        self.text, self.null = pipeline.encode_text([TEXT]), pipeline.encode_text([""])  # once, as the audit does

    def use(self, mode: Mode, backend: str | Callable[..., Any]) -> Compiling:
        """Evaluate the UNet as `--compile` does from now on, by torch.compile with `backend`; return what counts it."""
        how = Compiling(mode, lambda: self.batch, backend)
        self.model = noise_model(self.pipeline.unet, compiled=how.of(self.pipeline.unet))
        return how

    def pieces(self) -> list[Piece]:
        """What is measured, in the order of what matters most for a forecast."""
        half = self.pipeline.unet.dtype is not torch.float32
        whole, grid = STEPS / self.some, self.pipeline.schedule(STEPS).timesteps
        inner = sum(201 <= t <= 801 for t in grid) * 3  # EGLOCE's window and iterations by default
        return [
            Piece("guided sampling", self.guided, whole, half),
            Piece("inversion", self.inversion, whole, half),
            Piece("VAE decoding", self.decoding, 1, False, eager="one call a picture"),
            Piece("scoring (CLIP)", self.scoring, 1, False, eager="one call a picture"),
            Piece("IRECE, its one intervention", self.irece, 1, half, eager="hooks capture attention"),
            Piece("EGLOCE, all inner iterations", self.egloce, inner, half, self.plain_egloce, "it differentiates"),
        ]

    def _given(self, batch: int, guidance: float) -> Conditioning:
        text, states = (TEXT, self.text) if guidance != 1.0 else ("", self.null)
        null = self.null.expand(batch, -1, -1)
        return Conditioning(states.expand(batch, -1, -1), null, guidance, (text,) * batch, tuple(range(batch)))

    def _noise(self, batch: int) -> torch.Tensor:
        self.batch = batch
        return initial_noise(range(batch), self.pipeline.latent_shape).to(self.pipeline.device)

    def guided(self, batch: int) -> torch.Tensor:
        """`some` steps under classifier-free guidance."""
        schedule = self.pipeline.schedule(self.some)
        return sample(self.model, schedule, self._noise(batch), self._given(batch, GUIDANCE)).latents

    def inversion(self, batch: int) -> torch.Tensor:
        """`some` steps of fixed-point inversion that never stops early."""
        schedule, null = self.pipeline.schedule(self.some), self._given(batch, 1.0).null
        clean = self._noise(batch)
        return invert(self.model, schedule, clean, null, passes=PASSES, tolerance=0.0).latents

    def decoding(self, batch: int) -> torch.Tensor:
        """Pictures of latents, in float32 as the audit decodes them."""
        return self.pipeline.decode_latents(self._noise(batch))

    @torch.no_grad()
    def scoring(self, batch: int) -> torch.Tensor:
        """Picture embeddings, in float32 as detectors measure; resizing on the CPU is not in it."""
        side = self.network.config.vision_config.image_size
        pixels = torch.zeros(batch, 3, side, side, device=self.pipeline.device)
        return self.network.vision_model(pixel_values=pixels).pooler_output

    def irece(self, batch: int) -> torch.Tensor:
        """The forward pass with captured attention, the mask and the noise of one batch: all that it adds to a picture."""
        return self._one_step(batch, self._built("irece", tau=0.4))

    def egloce(self, batch: int) -> torch.Tensor:
        """One inner iteration under guidance: both UNet branches, VAE and energy forward and backward, checkpointed."""
        networks = (self.pipeline.unet, self.pipeline.vae)
        for network in networks:
            network.enable_gradient_checkpointing()
        try:
            return self.plain_egloce(batch)
        finally:
            for network in networks:
                network.disable_gradient_checkpointing()

    def plain_egloce(self, batch: int) -> torch.Tensor:
        """The same without checkpointing: nothing is computed twice."""
        resolved = {**self._resolved("egloce"), "iterations": 1}
        return self._one_step(batch, Egloce(self.energy, decoder(self.pipeline), resolved))

    def _resolved(self, name: str, **parameters: Any) -> dict[str, Any]:
        if name == "egloce":
            model = guards.parse(GuardSpec(name=name, parameters=parameters))
            return {**model.resolved(CAT), "energy_sha256": ""}
        return guards.resolve(GuardSpec(name=name, parameters=parameters), CAT)["parameters"]

    def _built(self, name: str, **parameters: Any) -> Guard:
        parts = Parts(
            standard=self.pipeline,
            standard_unet=lambda: self.pipeline.unet,
            guarded=self.pipeline,
            guarded_unet=lambda: self.pipeline.unet,
            encode=self.pipeline.encode_text,
            encode_standard=self.pipeline.encode_text,
            model=_none,
        )
        return build({"name": name, "parameters": self._resolved(name, **parameters)}, parts)

    def _one_step(self, batch: int, guard: Guard) -> torch.Tensor:
        """What a guard does before the step at t = 501, without the step itself."""
        schedule, given = self.pipeline.schedule(STEPS), self._given(batch, GUIDANCE)
        guard.begin(given, schedule.timesteps[::-1])
        return before(guard, self.model, schedule, self._noise(batch), given)


def before(guard: Guard, model: NoiseModel, schedule: Any, latents: torch.Tensor, given: Conditioning) -> torch.Tensor:
    """The latents after the guard's work before the step nearest t = 501."""
    from audit.diffusion.sampling import Predictor

    at = min(range(schedule.steps), key=lambda i: abs(schedule.timesteps[i] - 501))
    step = schedule.step(at)
    with torch.no_grad():
        return guard.before_step(latents, step, Predictor(model, step.timestep, given))


def _none(sha256: str) -> Any:
    raise LookupError(f"no energy model {sha256} is needed here")
