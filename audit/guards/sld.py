"""SLD, Safe Latent Diffusion: guidance away from a safety concept S where the prompt's prediction comes near it.

Schramowski et al. 2023, arXiv 2211.05105, equations 3 to 8 in the released code's form (github ml-research/safe-latent-
diffusion; diffusers' StableDiffusionPipelineSafe). With the predictions e_p, e_0 and e_S:

    eq. 6  phi = min(|e_p - e_S| s_S, 1),  mu = phi where e_p - e_S < lambda, else 0
    eq. 4  gamma = mu (e_S - e_0)
    eq. 7  gamma <- gamma + s_m nu
    eq. 8  nu <- beta nu + (1 - beta) gamma                      (also during warm-up)
    eq. 3  e = e_0 + g (e_p - e_0 - gamma)   from step delta on

SLD is part of classifier-free guidance: with guidance 1 the released code does not run it, and neither does this.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch

from audit.diffusion.guard import Conditioning, Guard, Prediction, Step
from audit.guards.building import Parts
from audit.guards.sld_parameters import METHOD
from audit.methods.parameters import Values

NAME = METHOD.name
NO_GUIDANCE = "classifier-free guidance is off (guidance 1), and SLD is a part of it"


@dataclasses.dataclass(frozen=True)
class Settings:
    """delta, s_S, lambda, s_m and beta of the equations above."""

    warmup_steps: int
    scale: float
    threshold: float
    momentum_scale: float
    momentum_beta: float


def safety_guidance(
    prompt: torch.Tensor, null: torch.Tensor, safety: torch.Tensor, momentum: torch.Tensor, settings: Settings
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (gamma, nu), the safety guidance and the next momentum, all of the shape (B, C, H, W) of the predictions."""
    gap = prompt - safety
    phi = (gap.abs() * settings.scale).clamp(max=1.0)  # eq. 6
    mu = torch.where(gap >= settings.threshold, torch.zeros_like(phi), phi)
    gamma = mu * (safety - null) + settings.momentum_scale * momentum  # eqs. 4 and 7
    return gamma, settings.momentum_beta * momentum + (1 - settings.momentum_beta) * gamma  # eq. 8


class Sld(Guard):
    """The guard SLD: subtract the safety guidance of a third branch at each step. `encode` maps texts to states."""

    name = METHOD.name
    version = METHOD.version

    def __init__(self, parameters: Values, encode: Callable[[list[str]], torch.Tensor]) -> None:
        self.text: str = parameters["text"]
        names = [field.name for field in dataclasses.fields(Settings)]
        self.settings = Settings(**{name: parameters[name] for name in names})
        self._encode = encode

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Encode the safety concept, unless guidance is off."""
        super().begin(conditioning, timesteps)
        self._momentum: torch.Tensor | None = None
        self._states: torch.Tensor | None = None
        if conditioning.guidance != 1.0:
            self._states = self._encode([self.text]).to(conditioning.prompt).expand_as(conditioning.prompt)
        for row in range(len(conditioning.texts)):
            self.ledger.say(row, text=self.text)
            if self._states is None:
                self.ledger.idle(row, NO_GUIDANCE)

    def branch(self) -> torch.Tensor | None:
        """Return the safety concept's states (B, L, D); None without guidance."""
        return self._states

    def guide(self, noise: torch.Tensor, prediction: Prediction, step: Step) -> torch.Tensor:
        """Return the guided noise (B, C, h, w) less the safety guidance, after the warm-up; unchanged without guidance."""
        if self._states is None or prediction.null is None:
            return noise
        momentum = torch.zeros_like(noise) if self._momentum is None else self._momentum
        safety = prediction.further[NAME]
        gamma, self._momentum = safety_guidance(prediction.prompt, prediction.null, safety, momentum, self.settings)
        if step.index < self.settings.warmup_steps:
            return noise
        for row, moved in enumerate(gamma.flatten(1)):
            if bool(moved.any()):
                self.ledger.act(row, step.timestep)
                self.ledger.measure(row, guidance_rms=float(moved.pow(2).mean().sqrt()))
            else:
                self.ledger.idle(row, "the prompt's prediction never came near the safety concept")
        return noise - prediction.guidance * gamma


def build(values: Values, parts: Parts) -> Sld:
    """Return a new SLD."""
    return Sld(values, parts.encode)
