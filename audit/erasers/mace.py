"""MACE: mass concept erasure (Lu et al. 2024, arXiv 2403.06135; code Shilin-LU/MACE), in three stages.

For every attn2 key and value matrix W (numbers in brackets are this file's own):

(1) refinement    W' maps the words around the concept, in its prompts, to what W made of them in the mapping's prompts
(2) pairs         for each concept, W' + up down is trained so that the attention to the concept's tokens, inside the
                  concept's region M of noised pictures, falls: L = sum over layers of || A[M, concept] ||
(3) fusion        W'' maps every token of each concept's prompts to what its own W' + up down makes of it

(1) and (3) are UCE's closed form, with lambda I as pull and preserved states as the backbone maps them.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Mapping, Sequence

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

from audit import identity
from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.low_rank import LowRank
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Point, Training
from audit.erasers.base import Made, training_key
from audit.erasers.latents import predict
from audit.erasers.mace_parameters import MASK_TIMESTEPS, METHOD, MaceParameters
from audit.erasers.phrases import Prompt, prompts, slug, token_ids
from audit.erasers.pictures import Noised, Pictures
from audit.erasers.receler import concept_mask
from audit.erasers.token_states import preserved, states_of, without_pooled
from audit.erasers.uce import cross_attention, edited, solved
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name
_ENDS = (".attn2.to_k", ".attn2.to_v")
Deltas = Mapping[str, torch.Tensor]  # weight name -> up down of one concept


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the refined and fused keys and values by diffusers name, with one set of pairs for each concept.

    Raises `SpecError` for a phrase or a mapping that the text encoder cannot read, `EraserError` when training diverges, a
    closed form has no solution or the UNet has no cross-attention.
    """
    options, started = MaceParameters(**parameters), time.monotonic()
    key = training_key(pipeline, NAME, concepts, options)
    by_concept = [prompts(pipeline, [concept], options.templates, options.synonyms) for concept in concepts]
    kept = preserved(concepts, options.preserve_neighbours)
    held = _held(pipeline, [concept.phrase for concept in kept.values()], options)
    backbone = cross_attention(pipeline, NAME, ("to_k", "to_v"))
    around, mapped = contexts(pipeline, [prompt for one in by_concept for prompt in one], options.mapping)
    first = options.regularisation, 1.0, options.preserve_scale

    def refine(name: str, weight: torch.Tensor) -> torch.Tensor:
        w = weight.double()
        return solved(w, around, w @ mapped.to(w).T, held, first).float()

    refined = edited("refinement", backbone, refine, session)
    spent = time.monotonic() - started
    deltas, curve = [], list[Point]()
    for number, texts in enumerate(by_concept):
        found, training = _trained(pipeline, refined, texts, options, identity.key([key, number]), session)
        deltas.append(found)
        offset = number * options.iterations
        curve += [Point(offset + point.iteration, point.loss) for point in training.curve]
        spent += training.seconds
    states = [torch.cat([without_pooled(pipeline, prompt.states)[0] for prompt in texts]) for texts in by_concept]
    second = options.regularisation, 1.0, options.fuse_preserve_scale

    def fuse(name: str, weight: torch.Tensor) -> torch.Tensor:
        return fused(weight, [one[name] for one in deltas], states, held, backbone[name], second)

    return Made(
        layout="unet-partial",
        tensors=edited("fusion", refined, fuse, session),
        filename=f"mace-{slug(concepts)}.safetensors",
        prompts=tuple(prompt.text for texts in by_concept for prompt in texts),
        preserved=tuple(kept),
        curve=tuple(curve),
        seconds=spent,
    )


def contexts(pipeline: Pipeline, erased: Sequence[Prompt], mapping: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the states (n, D) around the concept in its prompts, and those at their places in the mapping's prompts."""
    words = len(token_ids(pipeline, mapping, "mapping")) if mapping.strip() else 0
    around, mapped = [], []
    for prompt in erased:
        text = " ".join(prompt.template.replace("{phrase}", mapping).split())
        states, other = without_pooled(pipeline, prompt.states)[0], states_of(pipeline, [text])[0]
        word = prompt.word
        tail, target = states[word.stop :], other[word.start + words :]
        length = min(len(tail), len(target))
        around += [states[: word.start], tail[:length]]
        mapped += [other[: word.start], target[:length]]
    return torch.cat(around), torch.cat(mapped)


def fused(
    weight: torch.Tensor,
    deltas: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor],
    held: torch.Tensor,
    backbone: torch.Tensor,
    scales: tuple[float, float, float],
) -> torch.Tensor:
    """Return (3) of one matrix, float32. `states` and `deltas` go by concept; `held` go on as `backbone` maps them."""
    w = weight.double()
    values = torch.cat([(w + delta.to(w)) @ own.to(w).T for delta, own in zip(deltas, states, strict=True)], 1)
    return solved(w, torch.cat(list(states)), values, held, scales, backbone.double()).float()


def _held(pipeline: Pipeline, phrases: Sequence[str], options: MaceParameters) -> torch.Tensor:
    """Return every state (n, D) of the null prompt and of the preserved phrases in each template."""
    texts = [template.replace("{phrase}", phrase) for phrase in phrases for template in options.templates]
    return states_of(pipeline, ["", *texts]).flatten(0, 1)


def _trained(
    pipeline: Pipeline,
    refined: Mapping[str, torch.Tensor],
    texts: Sequence[Prompt],
    options: MaceParameters,
    key: str,
    session: Session,
) -> tuple[Deltas, Training]:
    """Train the pairs of one concept on the refined UNet; return what they add to each weight."""
    unet = copy.deepcopy(pipeline.unet).requires_grad_(False)
    unet.load_state_dict(dict(refined), strict=False)
    paths = [name for name, _ in unet.named_modules() if name.endswith(_ENDS)]
    pairs = LowRank(unet, paths, options.rank, options.seed)
    pictures = Pictures(
        pipeline,
        lambda x, t, states: predict(pipeline.unet, x, t, states, options.compute),
        options,
        [prompt.states for prompt in texts],
    )
    optimiser = torch.optim.AdamW(pairs.parameters(), lr=options.learning_rate, weight_decay=options.weight_decay)
    training = Training(
        NAME,
        key,
        dict(pairs.named_parameters()),
        {"weights": optimiser},
        iterations=options.iterations,
        seed=options.seed,
        session=session,
    )
    pictures.fill(key, session)
    masks = [mask_of(pipeline, pictures, which, texts[which], options) for which in range(len(texts))]
    attention = attention_of(unet)

    def step(generator: torch.Generator) -> torch.Tensor:
        """Take one step of the optimiser on pictures of one prompt, and return its loss."""
        which, rows, clean = pictures.draw(generator)
        timesteps = focal(options.batch_size, generator) if options.importance_sampling else pictures.uniform(generator)
        noised, prompt = pictures.noised(clean, timesteps, generator), texts[which]
        loss = loss_of(unet, attention, noised, prompt, masks[which][rows], options.compute)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(pairs.parameters(), options.clip)
        optimiser.step()
        return loss

    with pairs.acting():
        training.run(step)
    return {f"{path}.weight": (pair.up @ pair.down).detach().cpu() for path, pair in pairs.named_pairs()}, training


@dataclasses.dataclass
class Attention2:
    """An attention processor that keeps its probabilities (B, heads, N, L), with their gradient, until they are taken."""

    probabilities: list[torch.Tensor] = dataclasses.field(default_factory=list)

    def __call__(
        self, attn: Attention, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor, **more: object
    ) -> torch.Tensor:
        query = attn.head_to_batch_dim(attn.to_q(hidden_states))
        key, value = (attn.head_to_batch_dim(part(encoder_hidden_states)) for part in (attn.to_k, attn.to_v))
        scores = attn.get_attention_scores(query, key)
        self.probabilities.append(scores.unflatten(0, (len(hidden_states), -1)))
        output: torch.Tensor = attn.to_out[0](attn.batch_to_head_dim(torch.bmm(scores, value)))
        return output

    def take(self) -> list[torch.Tensor]:
        """Return what was kept, and keep nothing of it."""
        kept, self.probabilities = self.probabilities, []
        return kept


def attention_of(unet: UNet2DConditionModel) -> Attention2:
    """Return the processor of every attn2 of a UNet from now on."""
    processor = Attention2()
    for name, module in unet.named_modules():
        if name.endswith(".attn2"):
            module.processor = processor
    return processor


def loss_of(
    unet: UNet2DConditionModel,
    attention: Attention2,
    noised: Noised,
    prompt: Prompt,
    mask: torch.Tensor,
    compute: str,
) -> torch.Tensor:
    """Return (2): the norm of the attention from the region `mask` (B, side, side) to the concept's tokens, over the layers."""
    predict(unet, noised.latents, noised.timesteps, prompt.states.expand(len(noised.latents), -1, -1), compute)
    losses = []
    for probabilities in attention.take():
        side = round(probabilities.shape[2] ** 0.5)
        inside = nn.functional.interpolate(mask[:, None].float(), (side, side)).flatten(2)[..., None]  # (B, 1, N, 1)
        losses.append(
            (probabilities[..., prompt.word.start : prompt.word.stop].float() * inside.to(probabilities.device)).norm()
        )
    return torch.stack(losses).sum()


def focal(count: int, generator: torch.Generator) -> torch.Tensor:
    """Draw timesteps by MACE's importance: s(0.05 (t - 200)) - s(0.05 (t - 400)), s the logistic function."""
    at = torch.arange(1000, dtype=torch.float64)
    weights = torch.sigmoid(0.05 * (at - 200)) - torch.sigmoid(0.05 * (at - 400))
    return torch.multinomial(weights, count, replacement=True, generator=generator)


@torch.no_grad()
def mask_of(
    pipeline: Pipeline, pictures: Pictures, which: int, prompt: Prompt, options: MaceParameters
) -> torch.Tensor:
    """Return where the concept is in each picture of a prompt, boolean (n, side, side), by the source that is asked for."""
    clean = pictures.latents[which].to(pipeline.device)
    if options.masks == "whole":
        return torch.ones(len(clean), 1, 1, dtype=torch.bool)
    generator, states = torch.Generator().manual_seed(2**44 + options.seed), prompt.states.expand(len(clean), -1, -1)
    maps = []
    for timestep in MASK_TIMESTEPS:
        noised = pictures.noised(clean, torch.full((len(clean),), timestep), generator)
        with CrossAttentionMaps(pipeline.unet, options.mask_side) as captured:
            predict(pipeline.unet, noised.latents, noised.timesteps, states, options.compute)
        maps.append(captured.mean(prompt.word))
    return concept_mask(torch.stack(maps).mean(0), options.mask_threshold).cpu()
