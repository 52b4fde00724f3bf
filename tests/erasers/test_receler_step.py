"""Three training steps of Receler against a plain re-computation of its losses, attack and optimisers."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from torch.nn import functional
from torch.optim.optimizer import register_optimizer_step_pre_hook

from audit.checkpoints.receler_adapter import new_adapters
from audit.diffusion.pipeline import Pipeline
from audit.erasers.latents import Latents
from audit.erasers.phrases import prompts
from audit.erasers.receler import erase
from audit.erasers.receler_parameters import RecelerParameters
from audit.progress import Session
from tests.erasers.conftest import CONCEPT, quick

TEMPLATE = "q {phrase} r"
WORD, ATTACKED = slice(2, 5), slice(5, 8)  # every letter is a token: start, q, a, b, c, then three of the attack
STEPS, PASSES, ETA, WEIGHT, RATE, RANK, THRESHOLD, SIDE = 3, 2, 2.0, 4.0, 0.03, 4, 0.5, 8
ATTACK_RATE = ATTACK_DECAY = 0.1
CHANGES: dict[str, Any] = {
    "iterations": STEPS,  # adapters begin with zeros: all of their tensors and the regulariser act from the second on
    "templates": [TEMPLATE],
    "rank": RANK,
    "negative_guidance": ETA,
    "regularisation": WEIGHT,
    "learning_rate": RATE,
    "mask_side": SIDE,
    "mask_threshold": THRESHOLD,
    "adversarial_iterations": PASSES,
    "batch_size": 2,
}


class Plain:
    """A UNet of its own with plain adapters `{block}.{down|up}.{weight|bias}` after every attn2."""

    def __init__(self, unet: UNet2DConditionModel, adapters: dict[str, torch.Tensor]) -> None:
        self.unet, self.adapters = copy.deepcopy(unet), adapters
        self.corrections: dict[str, torch.Tensor] = {}
        self.attention: list[torch.Tensor] = []  # (B, heads, N, L) of the layers with SIDE x SIDE queries
        self.erasing = True
        for path, module in self.unet.named_modules():
            if path.endswith("attn2"):
                block = path.partition(".transformer_blocks")[0]
                module.register_forward_hook(partial(self.correct, block), with_kwargs=True)

    def correct(self, block: str, layer: Any, given: Any, more: Any, output: torch.Tensor) -> torch.Tensor:
        if not self.erasing:
            heads = [
                projected.unflatten(-1, (layer.heads, -1)).transpose(1, 2)
                for projected in (layer.to_q(given[0]), layer.to_k(more["encoder_hidden_states"]))
            ]
            if heads[0].shape[2] == SIDE**2:
                self.attention.append((heads[0] @ heads[1].transpose(-1, -2) * layer.scale).softmax(-1))
            return output
        down, shift, up, lift = (
            self.adapters[f"{block}.{part}"] for part in ("down.weight", "down.bias", "up.weight", "up.bias")
        )
        self.corrections[block] = functional.gelu(output @ down.T + shift) @ up.T + lift
        return output + self.corrections[block]

    def erased(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return self.unet(latents, timesteps, encoder_hidden_states=states.expand(len(latents), -1, -1)).sample

    @torch.no_grad()
    def frozen(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        self.attention.clear()
        self.erasing = False
        predicted = self.erased(latents, timesteps, states)
        self.erasing = True
        return predicted


def outside_the_concept(model: Plain) -> torch.Tensor:
    """The regulariser, picture by picture and layer by layer, with the mask of the last frozen prediction."""
    maps = torch.stack([one[..., WORD].mean(-1).mean(1) for one in model.attention]).mean(0)
    terms = []
    for picture, row in enumerate(maps):
        mask = ((row - row.min()) / (row.max() - row.min()) >= THRESHOLD).view(SIDE, SIDE)
        assert 0 < int(mask.sum()) < SIDE**2
        for correction in model.corrections.values():
            side = round(correction.shape[1] ** 0.5)
            free = ~mask[:: SIDE // side, :: SIDE // side].flatten()
            terms.append((correction[picture, free] ** 2).mean(-1).sum() / free.sum())
    return torch.stack(terms).mean()


def adam(value: torch.Tensor, moments: list[Any], gradient: torch.Tensor, rate: float, decay: float) -> None:
    """One step of Adam, written out; the decay is part of the gradient."""
    gradient = gradient + decay * value.detach()
    moments[:] = moments[0] + 1, 0.9 * moments[1] + 0.1 * gradient, 0.999 * moments[2] + 0.001 * gradient**2
    step, mean, square = moments
    with torch.no_grad():
        value -= rate * mean / (1 - 0.9**step) / ((square / (1 - 0.999**step)).sqrt() + 1e-8)


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    assert float((found - wanted).norm()) <= 3e-4 * float(wanted.norm())


@pytest.mark.parametrize("preset", ["paper", "official"])
def test_training_steps_are_the_published_formulas(pipeline: Pipeline, preset: str) -> None:
    attacking = preset == "paper"
    parameters = quick("receler", preset, **CHANGES, adversarial_tokens=3 if attacking else 0)
    seen: list[list[torch.Tensor]] = []  # gradients, as each optimiser is given them
    hook = register_optimizer_step_pre_hook(
        lambda optimiser, *_: seen.append([p.grad.clone() for g in optimiser.param_groups for p in g["params"]])
    )
    try:
        made = erase(pipeline, [CONCEPT], parameters, Session())
    finally:
        hook.remove()

    start = new_adapters(pipeline.unet, RANK, 0).flat()  # the drawn starting values alone
    assert not any(tensor.any() for name, tensor in start.items() if ".up." in name)
    model = Plain(pipeline.unet, {name: tensor.clone().requires_grad_() for name, tensor in start.items()})
    leaves = [*model.adapters.values()]
    attack = torch.rand((1, 3, 16), generator=torch.Generator().manual_seed(2**41)).requires_grad_()
    null, prompt = (pipeline.encode_text([text]) for text in ("", "q abc r"))
    latents = Latents(
        pipeline,
        model.frozen,
        model.erased,
        RecelerParameters(**parameters),
        concepts=prompts(pipeline, [CONCEPT], (TEMPLATE,), False),
    )
    moments: list[list[Any]] = [[0, 0.0, 0.0] for _ in range(len(leaves) + 1)]
    gradients: list[list[torch.Tensor]] = []
    for number in range(STEPS):
        _, noisy = latents.draw(torch.Generator().manual_seed(number))
        at = noisy.latents, noisy.timesteps
        unconditional, conditional = model.frozen(*at, null), model.frozen(*at, prompt)
        target = unconditional - ETA * (conditional - unconditional)
        states = prompt
        for _ in range(PASSES if attacking else 1):
            if attacking:
                states = prompt.clone()
                states[:, ATTACKED] = attack
            predicted = model.erased(*at, states)
            if attacking:
                fooled = ((predicted - conditional) ** 2).mean()
                gradients.append([*torch.autograd.grad(fooled, [attack], retain_graph=True)])
                adam(attack, moments[-1], gradients[-1][0], ATTACK_RATE, ATTACK_DECAY)
        loss = ((predicted - target) ** 2).mean() + WEIGHT * outside_the_concept(model)
        slopes = torch.autograd.grad(loss, leaves)
        gradients.append([*slopes])
        for leaf, own, slope in zip(leaves, moments, slopes, strict=False):
            adam(leaf, own, slope, RATE, 0.0)
        assert made.curve[number].loss == pytest.approx(float(loss.detach()), rel=1e-4)

    assert [len(one) for one in seen] == [len(one) for one in gradients]
    for found, wanted in zip(seen, gradients, strict=True):
        near(torch.cat([t.flatten() for t in found]), torch.cat([t.flatten() for t in wanted]))
    assert set(made.tensors) == set(start)
    for name, tensor in model.adapters.items():
        near(made.tensors[name] - start[name], tensor.detach() - start[name])
