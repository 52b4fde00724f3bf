"""SPM: one-dimensional adapters with a semi-permeable membrane (Lyu et al. 2024, arXiv 2312.16145; code Con6924/SPM).

Low-rank pairs on every linear and convolution layer of the UNet's transformers are trained, with the backbone frozen, so
that on noisy latents x_t of the concept c (numbers in brackets are this file's own):

(1) L_erase  = || eps_theta(x_t, c) - (eps_n - g (eps_p - eps_n)) ||^2      eps_n, eps_p: the backbone for neutral and c
(2) L_anchor = || eps_theta(x_t, a) - eps*(x_t, a) ||^2                     a: random states of about c's norm, far from c
(3) L        = L_erase + w L_anchor

The membrane is not trained: at inference a pair acts by how close the prompt is to the concept (checkpoints/spm.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from audit import erasers
from audit.diffusion.low_rank import LowRank
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Training
from audit.erasers.base import Made, training_key
from audit.erasers.latents import Latents, Noisy, predict
from audit.erasers.phrases import file_part, prompts, slug, token_ids
from audit.erasers.spm_parameters import METHOD, SpmParameters, is_layer
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Train the pairs; return them by SPM's names. The backbone is the same afterwards, bit for bit.

    Raises `SpecError` for a phrase that the text encoder cannot read or SPM's file cannot hold, `EraserError` when
    training diverges or the UNet has no transformer.
    """
    options = SpmParameters(**parameters)
    key = training_key(pipeline, NAME, concepts, options)
    phrases = [concept.phrase for concept in concepts]
    for phrase in phrases:
        erasers.check_phrase(NAME, phrase, "concepts")
    targets = prompts(pipeline, concepts, options.templates, options.synonyms)
    if options.neutral.strip():
        token_ids(pipeline, options.neutral, "neutral")
    neutral = pipeline.encode_text([options.neutral.strip()])
    paths = layers(pipeline.unet)
    pairs = LowRank(pipeline.unet, paths, options.rank, options.seed, options.alpha)
    with pairs.acting():
        step = _Step(pipeline.unet, pairs, [target.states for target in targets], neutral, options)
        training = Training(
            NAME,
            key,
            dict(pairs.named_parameters()),
            {"weights": step.optimiser},
            iterations=options.iterations,
            seed=options.seed,
            session=session,
        )
        latents = Latents(pipeline, step.frozen, step.erased, options, concepts=targets)
        latents.fill_pool(key, session)
        training.run(lambda generator: step(*latents.draw(generator), generator, training.done))
    return Made(
        layout="spm",
        tensors=named(pairs, options.alpha),
        filename=f"{file_part(slug(concepts))}_last.safetensors",
        prompts=tuple(target.text for target in targets),
        curve=training.curve,
        seconds=training.seconds,
        metadata={"prompts": ",".join(phrases), "rank": str(options.rank), "alpha": str(options.alpha)},
    )


def layers(unet: nn.Module) -> tuple[str, ...]:
    """Return the paths of the layers that get a pair. Raises `EraserError` without any."""
    found = [n.removesuffix(".weight") for n, weight in unet.state_dict().items() if is_layer(n, weight.dim())]
    if not found:
        raise EraserError(
            "the UNet has no transformers, so SPM has no layer to act on", next_step="use another backbone"
        )
    return tuple(found)


def named(pairs: LowRank, alpha: float) -> dict[str, torch.Tensor]:
    """Return the pairs by the names of SPM's code, float32 on the CPU."""
    tensors = {}
    for path, pair in pairs.named_pairs():
        module = f"lora_unet_{path.replace('.', '_')}"
        tensors[f"{module}.lora_down.weight"] = pair.down.detach().float().cpu().contiguous()
        tensors[f"{module}.lora_up.weight"] = pair.up.detach().float().cpu().contiguous()
        tensors[f"{module}.alpha"] = torch.tensor(float(alpha))
    return tensors


class _Step:
    """One iteration of the pairs."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        pairs: LowRank,
        targets: Sequence[torch.Tensor],
        neutral: torch.Tensor,
        options: SpmParameters,
    ) -> None:
        self.unet, self.pairs, self.targets, self.neutral, self.options = unet, pairs, targets, neutral, options
        self.optimiser = torch.optim.AdamW(pairs.parameters(), lr=options.learning_rate)

    def frozen(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the backbone's prediction."""
        with self.pairs.switched_off():
            return predict(self.unet, latents, timesteps, states, self.options.compute)

    def erased(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the prediction with the pairs."""
        return predict(self.unet, latents, timesteps, states, self.options.compute)

    def __call__(self, which: int, noisy: Noisy, generator: torch.Generator, done: int) -> torch.Tensor:
        options, target = self.options, self.targets[which]
        neutral = noisy.null
        if options.neutral.strip():
            with torch.no_grad():
                neutral = self.frozen(noisy.latents, noisy.timesteps, self.neutral.expand(len(noisy.latents), -1, -1))
        wanted = neutral - options.negative_guidance * (noisy.concept - neutral)
        predicted = self.erased(noisy.latents, noisy.timesteps, target.expand(len(noisy.latents), -1, -1))
        loss = nn.functional.mse_loss(predicted, wanted)  # (1)
        if options.anchoring:
            states = anchor_states(target, options.anchors, generator)
            rows = torch.arange(options.anchors, device=noisy.latents.device) % len(noisy.latents)
            latents, timesteps = noisy.latents[rows], noisy.timesteps[rows]
            with torch.no_grad():
                held = self.frozen(latents, timesteps, states)
            anchored = nn.functional.mse_loss(self.erased(latents, timesteps, states), held)  # (2)
            loss = loss + options.anchoring * anchored  # (3)
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(done, options.model_dump())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss


def anchor_states(target: torch.Tensor, count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw token states (count, L, D): 0.8 to 1.2 times the target's norm, accepted with probability 1 - their cosine with it."""
    flat, drawn = target.flatten().cpu(), list[torch.Tensor]()
    while len(drawn) < count:
        noise = torch.randn(flat.shape, generator=generator)
        accepted, scale = torch.rand((2,), generator=generator).tolist()
        if accepted < 1 - float(torch.cosine_similarity(flat, noise, dim=0)):
            drawn.append((0.8 + 0.4 * scale) * noise / noise.norm() * flat.norm())
    return torch.stack(drawn).view(count, *target.shape[1:]).to(target)


def learning_rate(done: int, values: Mapping[str, float]) -> float:
    """Return the learning rate after `done` iterations: a linear warm-up, then a cosine with hard restarts."""
    rate, warm = values["learning_rate"], values["warm_up"]
    if done < warm:
        return rate * done / warm
    share = (done - warm) / max(1, values["iterations"] - warm)
    if share >= 1:
        return 0.0
    return rate * 0.5 * (1 + math.cos(math.pi * ((values["restarts"] * share) % 1.0)))
