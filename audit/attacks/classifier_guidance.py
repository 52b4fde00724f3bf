"""Classifier guidance: the gradient of a classifier steers the sampler towards a concept.

Dhariwal and Nichol 2021, "Diffusion Models Beat GANs on Image Synthesis", arXiv 2105.05233, Algorithm 2, as a probe of erased
models by Lu et al. 2025, arXiv 2505.17013:

    eps' = eps - s sigma_t grad_{x_t} log p(concept | x_t),    sigma_t = sqrt(1 - alpha_bar_t)

The paper trains a classifier of noisy latents. Here the classifier is a CLIP that reads the decoded estimate of the clean
picture, as in Universal Guidance (Bansal et al. 2023, arXiv 2302.07121, eq. 6), with D the decoder and T the texts:

    x0 = (x_t - sigma_t eps) / alpha_t,    p = softmax(tau cos(CLIP(D(x0)), CLIP(T)))_concept

`gradient: full` differentiates through the network's own prediction, `prediction` holds it fixed. CLIP's gradients have no scale
that a sampler knows, so `normalise: prediction` takes their direction alone: eps' = eps - s ||eps|| g / ||g||. A network that
predicts something else has its noise changed in the same way: a shift d of the noise is d / alpha_t of a velocity, of a
diffusion or of a flow. Where alpha_t is 0 the noisy latent says nothing of the picture, and nothing is changed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from diffusers import ModelMixin

from audit.diffusion.checkpointing import checkpointed
from audit.diffusion.guard import Conditioning, Guard, Predict, Prediction, Report, Step, case_generator
from audit.diffusion.levels import noise_of
from audit.instruments.differentiable_clip import Decode, DifferentiableClip, draw_views, load_parts, view_of
from audit.spec.classifier_guidance import ClassifierGuidance
from audit.weights.references import ModelRef
from audit.weights.schedulers import Kind

NAME = "classifier-guidance"
VERSION = "1"
_TOO_SHORT = 1e-12  # a gradient below this norm has no direction in float32
# From pictures (B, 3, H, W) in [-1, 1] to log p(concept) (B,), differentiable.
Judge = Callable[[torch.Tensor], torch.Tensor]


def log_probability(clip: DifferentiableClip, texts: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
    """Return log p (B,) of the first of `texts` (n, D) against all, for pictures (B, 3, H, W) in [-1, 1]; differentiable."""
    return (clip.logit_scale * clip.images(images) @ texts.T).log_softmax(-1)[:, 0]


def shifted(kind: Kind, signal: float, prediction: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Return the prediction (B, C, h, w) at the same latents whose noise is smaller by `shift`."""
    return prediction - (shift if kind == "epsilon" else shift / signal)


class ClassifierGuide(Guard):
    """The guidance of one batch, through the hooks that guards have and after all of them.

    So it steers what the defence's guards have made of latents and prediction. The full gradient is that of the guarded
    model's own prediction: what guards do to it afterwards is not differentiated through. `recomputed` are the networks
    whose blocks are computed again for the backward pass.
    """

    name = NAME
    version = VERSION

    def __init__(
        self, judge: Judge, decode: Decode, settings: ClassifierGuidance, recomputed: Sequence[ModelMixin] = ()
    ) -> None:
        self._judge, self._decode, self._settings, self._recomputed = judge, decode, settings, recomputed
        # A random step that is a share of the prediction needs no gradient at all.
        self._differentiates = settings.direction == "gradient" or settings.normalise == "none"

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Forget the last batch. Raises ValueError without the cases' seeds, by which directions and views are drawn."""
        super().begin(conditioning, timesteps)
        if len(conditioning.seeds) != len(conditioning.texts):
            raise ValueError("classifier guidance draws directions and views, so it needs the cases' seeds")
        self._seeds = conditioning.seeds

    def before_step(self, latents: torch.Tensor, step: Step, predict: Predict) -> torch.Tensor:
        """Return the latents as they are; keep them, and for the full gradient take it here, where `predict` is."""
        self._latents, self._gradient = latents, None
        if self._acts(step) and self._differentiates and self._settings.gradient == "full":
            with torch.enable_grad(), checkpointed(*self._recomputed):
                point = latents.detach().float().requires_grad_(True)
                prediction = predict(point)
                self._gradient = self._of(point, prediction.guided, step)
            for row in range(len(latents)):
                self.ledger.count(row, prediction.calls)
        return latents

    def guide(self, noise: torch.Tensor, prediction: Prediction, step: Step) -> torch.Tensor:
        """Return the prediction (B, C, h, w) to step with, steered inside the window."""
        if not self._acts(step):
            return noise
        random = self._settings.direction == "random"
        gradient = self._gradient if self._differentiates else self._random(noise)
        if gradient is None:
            with torch.enable_grad(), checkpointed(*self._recomputed):
                point = self._latents.detach().float().requires_grad_(True)
                gradient = self._of(point, noise.detach(), step)
        length = _norm(gradient)
        self._record(gradient, length, step)
        unit = self._random(noise) if random else gradient / length
        if self._settings.normalise == "none":
            size = self._settings.scale * step.level.noise * length
        else:
            size = self._settings.scale * _norm(noise_of(step.kind, step.level, self._latents, noise))
        steered = shifted(step.kind, step.level.signal, noise, size * unit)
        moves = torch.tensor([not self.ledger.failed(row) for row in range(len(noise))], device=noise.device)
        return torch.where(moves[:, None, None, None] & (length > _TOO_SHORT), steered, noise)

    def _acts(self, step: Step) -> bool:
        start, end = self._settings.window
        return end <= step.timestep <= start and step.level.signal > 0

    def _of(self, point: torch.Tensor, prediction: torch.Tensor, step: Step) -> torch.Tensor:
        """Return the gradient (B, C, h, w) of each case's log p(concept) at its latent; cases are summed, as rows are apart."""
        images = self._decode(step.clean(point, prediction))
        (gradient,) = torch.autograd.grad(self._log_probability(images, step).sum(), point)
        return gradient.detach()

    def _log_probability(self, images: torch.Tensor, step: Step) -> torch.Tensor:
        """Return log p(concept) (B,) of the pictures, or its mean over their views."""
        count = self._settings.views
        if not count:
            return self._judge(images)
        views = [
            view_of(image, draw_views(count, case_generator(NAME, seed, f"views at {step.timestep}")))
            for image, seed in zip(images, self._seeds, strict=True)
        ]
        return self._judge(torch.cat(views)).view(len(images), count).mean(1)

    def _record(self, gradient: torch.Tensor, length: torch.Tensor, step: Step) -> None:
        finite = torch.isfinite(gradient).flatten(1).all(1).tolist()
        for row, long in enumerate((length.flatten() > _TOO_SHORT).tolist()):
            if not finite[row]:
                self.ledger.fail(row, f"the classifier's gradient is not finite at timestep {step.timestep:g}")
            elif long:
                self.ledger.act(row, step.timestep)

    def _random(self, like: torch.Tensor) -> torch.Tensor:
        """Return a direction (B, C, h, w) of length 1 for each case, the same at all of its steps."""
        drawn = [torch.randn(like.shape[1:], generator=case_generator(NAME, seed, "direction")) for seed in self._seeds]
        directions = torch.stack(drawn).to(like.device)
        return directions / _norm(directions)


def why_unassessed(report: Report) -> str | None:
    """Return why guidance that should have steered a picture did not, so that the picture shows nothing; None where it did."""
    if report.failure is not None:
        return f"{NAME}: {report.failure}"
    return None if report.timesteps else f"{NAME}: no step was steered, as no gradient at any had a direction"


def build(
    settings: ClassifierGuidance, ref: ModelRef, device: str, decode: Decode, recomputed: Sequence[ModelMixin] = ()
) -> ClassifierGuide:
    """Return the guidance of a new batch by the CLIP in `ref`. Raises `DetectorError` when it cannot be loaded whole."""
    clip, texts = _load(ref, device, settings.templates, (settings.phrase, *settings.against))
    return ClassifierGuide(functools.partial(log_probability, clip, texts), decode, settings, recomputed)


@functools.lru_cache(maxsize=4)
def _load(
    ref: ModelRef, device: str, templates: tuple[str, ...], phrases: tuple[str, ...]
) -> tuple[DifferentiableClip, torch.Tensor]:
    clip = _clip(ref, device)
    return clip, clip.directions(templates, phrases)


@functools.lru_cache(maxsize=1)
def _clip(ref: ModelRef, device: str) -> DifferentiableClip:
    return DifferentiableClip(*load_parts(ref, device))


def _norm(latents: torch.Tensor) -> torch.Tensor:
    return latents.flatten(1).norm(dim=1)[:, None, None, None]
