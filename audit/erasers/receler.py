"""Receler: reliable erasing with lightweight erasers (Huang et al. 2024, arXiv 2311.17717; code jasper0314-huang/Receler).

Adapters after every attn2 are trained, with all weights of the backbone frozen, so that on noisy latents z_t of the
concept, with attention mask M of its word and adversarial prompt embeddings a placed after the word (numbers in
brackets are this file's own),

(1) L_erase = || eps_theta(z_t, [c; a]) - (eps_0 - eta (eps_p - eps_0)) ||^2     eps_0, eps_p: adapters switched off
(2) L_reg   = mean over layers of || o_l outside M ||^2 / area outside M         o_l: an adapter's output
(3) L       = L_erase + w L_reg
(4) a       = argmin || eps_theta(z_t, [c; a]) - eps_p ||^2, a few steps of Adam in every iteration

Receler knows no concepts to preserve: (2) keeps the erasing inside the concept's region instead.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from audit.checkpoints.receler_adapter import CONFIG_TYPE, Attached, attach, new_adapters
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Training
from audit.erasers.base import Made, training_key
from audit.erasers.latents import Latents, Noisy, predict
from audit.erasers.phrases import Prompt, prompts
from audit.erasers.receler_parameters import METHOD, RecelerParameters
from audit.erasers.token_states import without_pooled
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Train the adapters; return their weights by the official names, flat. Each iteration erases one of the concepts.

    The backbone is the same afterwards, bit for bit. Raises `SpecError` for a phrase the text encoder cannot read and
    `EraserError` when training diverges or the adversarial prompt has no room after the concept's word.
    """
    options = RecelerParameters(**parameters)
    concept_prompts = prompts(pipeline, concepts, options.templates, options.synonyms)
    key = training_key(pipeline, NAME, concepts, options)
    adapters = new_adapters(pipeline.unet, options.rank, options.seed)
    attacks = _attacks(pipeline, concept_prompts, options)
    attached = attach(pipeline.unet, adapters)
    try:
        step = _Step(pipeline.unet, attached, concept_prompts, attacks, options)
        training = Training(
            NAME,
            key,
            {**dict(adapters.named_parameters()), **{f"attack.{i}": a for i, a in enumerate(attacks)}},
            step.optimisers(),
            iterations=options.iterations,
            seed=options.seed,
            session=session,
        )
        latents = Latents(
            pipeline, step.frozen, step.erased, options, concepts=concept_prompts, mask_side=options.mask_side
        )
        latents.fill_pool(key, session)
        training.run(lambda generator: step(*latents.draw(generator)))
    finally:
        attached.detach()
    return Made(
        layout="receler",
        tensors={name: tensor.float() for name, tensor in adapters.flat().items()},
        filename="eraser_weights.safetensors",
        prompts=tuple(prompt.text for prompt in concept_prompts),
        curve=training.curve,
        seconds=training.seconds,
        config={"eraser_type": CONFIG_TYPE, "eraser_rank": options.rank},
    )


class _Step:
    """One iteration: adversarial steps on the prompt, then one step of the adapters."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        attached: Attached,
        concepts: Sequence[Prompt],
        attacks: Sequence[nn.Parameter],
        options: RecelerParameters,
    ) -> None:
        self.unet, self.attached, self.concepts, self.attacks, self.options = unet, attached, concepts, attacks, options
        self.weights = torch.optim.Adam(attached.adapters.parameters(), lr=options.learning_rate)
        rate, decay = options.adversarial_learning_rate, options.adversarial_weight_decay
        self.attackers = [torch.optim.Adam([attack], lr=rate, weight_decay=decay) for attack in attacks]

    def optimisers(self) -> dict[str, torch.optim.Optimizer]:
        """Return every optimiser by name."""
        return {"weights": self.weights, **{f"attack.{i}": a for i, a in enumerate(self.attackers)}}

    def frozen(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the backbone's prediction."""
        with switched_off(self.attached):
            return predict(self.unet, latents, timesteps, states, self.options.compute)

    def erased(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the prediction with the adapters."""
        return predict(self.unet, latents, timesteps, states, self.options.compute)

    def __call__(self, which: int, noisy: Noisy) -> torch.Tensor:
        states = self.concepts[which].states
        predicted = None
        for left in reversed(range(self.options.adversarial_iterations if self.attacks else 1)):
            attacked = with_attack(states, self.attacks[which], self.concepts[which].word) if self.attacks else states
            self.attached.record = left == 0
            predicted = self.erased(noisy.latents, noisy.timesteps, attacked.expand(len(noisy.latents), -1, -1))
            if self.attacks:
                fooled = nn.functional.mse_loss(predicted, noisy.prompt)  # (4)
                (gradient,) = torch.autograd.grad(fooled, [self.attacks[which]], retain_graph=left == 0)
                self.attacks[which].grad = gradient
                self.attackers[which].step()
                self.attackers[which].zero_grad(set_to_none=True)
        assert predicted is not None and noisy.maps is not None
        eta = self.options.negative_guidance
        wanted = noisy.null - eta * (noisy.prompt - noisy.null)
        loss = nn.functional.mse_loss(predicted, wanted)  # (1)
        mask = concept_mask(noisy.maps, self.options.mask_threshold)
        loss = loss + self.options.regularisation * outside(self.attached.outputs.values(), mask)  # (3)
        self.weights.zero_grad(set_to_none=True)
        loss.backward()
        self.weights.step()
        self.attached.record = False
        self.attached.outputs.clear()
        return loss


def concept_mask(maps: torch.Tensor, threshold: float) -> torch.Tensor:
    """Return the region of the concept, boolean (B, side, side): attention maps scaled to [0, 1] row by row, thresholded."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-12) >= threshold


def outside(outputs: Iterable[torch.Tensor], mask: torch.Tensor) -> torch.Tensor:
    """Return (2), the adapters' squared output outside the concept, averaged over channels, area, pictures and layers.

    `outputs` are tensors (B, N, C) of square layers; `mask` (B, side, side) is resized to each by nearest neighbours.
    """
    losses = []
    for output in outputs:
        side = round(output.shape[1] ** 0.5)
        resized = nn.functional.interpolate(mask[:, None].float(), (side, side)).flatten(1)  # (B, N)
        free = 1 - resized
        squared = output.float().pow(2).mean(2) * free
        losses.append((squared.sum(1) / (free.sum(1) + 1e-9)).mean())
    return torch.stack(losses).mean()


def with_attack(states: torch.Tensor, attack: torch.Tensor, word: range) -> torch.Tensor:
    """Return prompt states (1, L, D) with the attack (1, n, D) at the positions right after the concept's word."""
    end = word.stop + attack.shape[1]
    return torch.cat([states[:, : word.stop], attack, states[:, end:]], 1)


def _attacks(pipeline: Pipeline, concepts: Sequence[Prompt], options: RecelerParameters) -> list[nn.Parameter]:
    """Return one adversarial embedding (1, n, D) for each prompt, uniform in [0, 1) as in the official code."""
    if not options.adversarial_tokens:
        return []
    for prompt in concepts:
        room = without_pooled(pipeline, prompt.states).shape[1] - prompt.word.stop
        if room < options.adversarial_tokens:
            raise EraserError(
                f"after {prompt.text!r} the text encoder has room for {room} more tokens",
                where="adversarial_tokens",
                next_step=f"lower it to {room}, or shorten the template",
            )
    generator = torch.Generator().manual_seed(2**41 + options.seed)
    shape = (1, options.adversarial_tokens, concepts[0].states.shape[2])
    return [nn.Parameter(torch.rand(shape, generator=generator).to(pipeline.device)) for _ in concepts]


@contextlib.contextmanager
def switched_off(attached: Attached) -> Iterator[None]:
    """Make the UNet the backbone inside the block."""
    before, attached.enabled = attached.enabled, False
    try:
        yield
    finally:
        attached.enabled = before
