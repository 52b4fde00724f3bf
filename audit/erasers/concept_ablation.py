"""Concept Ablation (Kumari et al. 2023, arXiv 2303.13516; code nupurkmr9/concept-ablation).

On noised pictures x_t of an anchor concept c, made once by the backbone, the model learns to predict for the target's
prompt c* what it predicts for the anchor's (numbers in brackets are this file's own):

(1) model-based  L = || eps_theta(x_t, c*) - sg(eps_theta(x_t, c)) ||^2      both by the model in training
(2) noise-based  L = || eps_theta(x_t, c*) - eps ||^2                        eps: the noise in x_t, or v of it
(3) with a prior L + w || eps_theta(x_t', c) - eps' ||^2                     x_t': other pictures of the anchor

What survives is left to the anchor and the prior: Concept Ablation knows no neighbours to preserve.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Training
from audit.erasers.base import Made, training_key
from audit.erasers.concept_ablation_parameters import GROUPS, METHOD, ConceptAblationParameters
from audit.erasers.esd import trainable
from audit.erasers.latents import predict
from audit.erasers.phrases import Prompt, file_part, prompts, slug, token_ids
from audit.erasers.pictures import Noised, Pictures
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the trained parameters by diffusers name. Each iteration ablates one prompt drawn at random.

    Raises `SpecError` for a phrase or an anchor that the text encoder cannot read, `EraserError` when training diverges.
    """
    options = ConceptAblationParameters(**parameters)
    key = training_key(pipeline, NAME, concepts, options)
    targets = prompts(pipeline, concepts, options.templates, options.synonyms)
    anchors = [anchor_states(pipeline, target, options.anchor) for target in targets]
    names = [name for name, _ in pipeline.unet.named_parameters() if GROUPS[options.parameter_group](name)]
    if not names:
        raise EraserError(
            f"{NAME} selects no parameter of this UNet", next_step="use another parameter_group or backbone"
        )
    unet, trained = trainable(pipeline.unet, names)
    pictures = Pictures(
        pipeline, lambda x, t, states: predict(pipeline.unet, x, t, states, options.compute), options, anchors
    )
    optimiser = torch.optim.AdamW(trained.values(), lr=options.learning_rate, weight_decay=options.weight_decay)
    training = Training(
        NAME,
        key,
        trained,
        {"weights": optimiser},
        iterations=options.iterations,
        seed=options.seed,
        session=session,
    )
    pictures.fill(key, session)

    def step(generator: torch.Generator) -> torch.Tensor:
        """Take one step of the optimiser on pictures of one prompt, and return its loss."""
        which, _, clean = pictures.draw(generator)
        noised = pictures.noised(clean, pictures.uniform(generator), generator)
        held = None
        if options.prior_weight:
            other = pictures.latents[which][
                torch.randint(len(pictures.latents[which]), (len(clean),), generator=generator)
            ]
            held = pictures.noised(other.to(clean), pictures.uniform(generator), generator)
        loss = loss_of(unet, noised, held, targets[which].states, anchors[which], options)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return loss

    with first_token_detached(unet, options.detach_first):
        training.run(step)
    return Made(
        layout="unet-partial",
        tensors={name: tensor.detach().float().cpu().contiguous() for name, tensor in trained.items()},
        filename=f"concept-ablation-{slug(concepts)}-to-{file_part(options.anchor) or 'null'}.safetensors",
        prompts=tuple(target.text for target in targets),
        curve=training.curve,
        seconds=training.seconds,
    )


def loss_of(
    unet: UNet2DConditionModel,
    noised: Noised,
    held: Noised | None,
    target: torch.Tensor,
    anchor: torch.Tensor,
    options: ConceptAblationParameters,
) -> torch.Tensor:
    """Return (1) or (2), with (3) on the pictures `held`. `target` and `anchor` are prompt states (1, L, D)."""

    def predicted(batch: Noised, states: torch.Tensor) -> torch.Tensor:
        repeated = states.expand(len(batch.latents), -1, -1)
        return predict(unet, batch.latents, batch.timesteps, repeated, options.compute)

    if options.variant == "model-based":
        with torch.no_grad():
            wanted = predicted(noised, anchor)
    else:
        wanted = noised.target
    loss = nn.functional.mse_loss(predicted(noised, target), wanted)
    if held is not None:
        loss = loss + options.prior_weight * nn.functional.mse_loss(predicted(held, anchor), held.target)
    return loss


def anchor_states(pipeline: Pipeline, target: Prompt, anchor: str) -> torch.Tensor:
    """Return the states (1, L, D) of the target's prompt with the anchor in the concept's place; of the null prompt without."""
    if not anchor.strip():
        return pipeline.encode_text([""])
    token_ids(pipeline, anchor, "anchor")
    return pipeline.encode_text([target.template.replace("{phrase}", anchor)])


@contextlib.contextmanager
def first_token_detached(unet: UNet2DConditionModel, wanted: bool) -> Iterator[None]:
    """Cut the gradient of the first token's keys and values inside the block, where `wanted`, as the official code does."""
    ends = (".attn2.to_k", ".attn2.to_v")
    layers = [layer for name, layer in unet.named_modules() if wanted and name.endswith(ends)]
    hooks = [layer.register_forward_hook(_detached) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _detached(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
    return torch.cat([output[:, :1].detach(), output[:, 1:]], 1)
