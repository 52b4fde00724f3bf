"""ESD: erased by learning from negative guidance (Gandikota et al. 2023, arXiv 2303.07345; code rohitgandikota/erasing).

The model in training imitates, on noisy latents x_t of the concept c, the frozen model eps* guided away from c
(numbers in brackets are this file's own):

(1) 2023 code, the paper's rule:  eps_theta(x_t, c) <- eps*(x_t, 0) - eta (eps*(x_t, c) - eps*(x_t, 0))
(2) 2025 code:             eps_theta(x_t, c_from) <- eps*(x_t, c_from) - eta (eps*(x_t, c) - eps*(x_t, 0))

With c_from = c, (2) at eta + 1 is (1) at eta. ESD knows no concepts to preserve; what survives is left to the choice
of parameters: esd-x trains the cross-attention, esd-u everything else, esd-all both, esd-x-strict keys and values only.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Sequence

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from audit import erasers
from audit.checkpoints.key_sets import is_text_attention, is_text_key, unread_queries
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.low_rank import LowRank
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import Training
from audit.erasers.base import Made, training_key
from audit.erasers.esd_parameters import ESD_ALL, ESD_U, ESD_X, ESD_X_STRICT, EsdParameters
from audit.erasers.latents import Latents, Noisy, predict
from audit.erasers.phrases import Prompt, file_part, prompts, slug, token_ids
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

METHODS = tuple(method.name for method in (ESD_X, ESD_U, ESD_X_STRICT, ESD_ALL))
_KEPT_2023 = ("time_embedding.", "conv_norm_out.", "conv_out.")  # `time_embed` and `out.` of the CompVis UNet


def selects(method: str, module: str) -> bool:
    """Return whether `method` trains the Linear or Conv2d module with this dotted name."""
    match method:
        case "esd-x":
            return is_text_attention(module)
        case "esd-u":
            return not is_text_attention(module)
        case "esd-x-strict":
            return is_text_key(module)
        case "esd-all":
            return True
    erasers.check_method(method)
    raise EraserError(f"{method} is not a variant of ESD", next_step=f"use one of: {', '.join(METHODS)}")


def selects_2023(method: str, name: str) -> bool:
    """Return whether `method` trains the parameter with this name in the code of 2023: there xattn, noxattn and full."""
    if method == "esd-u" and name.startswith(_KEPT_2023):
        return False
    return selects(method, name)


def trained_names(unet: nn.Module, method: str, selection: str = "2025") -> tuple[str, ...]:
    """Return the names of the parameters that `method` trains, in the UNet's order.

    In the selection of 2025 only Linear and Conv2d modules are trained: normalisation stays. Raises `EraserError` when
    there are none.
    """
    if selection == "2023":
        names = [name for name, _ in unet.named_parameters() if selects_2023(method, name)]
    else:
        names = [
            f"{module}.{name}"
            for module, layer in unet.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d) and selects(method, module)
            for name, _ in layer.named_parameters()
        ]
    unread = unread_queries(unet.state_dict())
    names = [name for name in names if name not in unread]
    if not names:
        raise EraserError(f"{method} selects no parameter of this UNet", next_step="use another method or backbone")
    return tuple(names)


def target(noisy: Noisy, eta: float, convention: str) -> torch.Tensor:
    """Return the noise that the erased model shall predict, (B, C, h, w): formula (1) for `old`, (2) for `new`."""
    base = noisy.null if convention == "old" else noisy.prompt
    return base - eta * (noisy.concept - noisy.null)


def erase(
    pipeline: Pipeline,
    concepts: Sequence[Concept],
    parameters: Values,
    session: Session,
    *,
    method: str = "esd-x",
) -> Made:
    """Return the trained parameters by diffusers name. With several concepts, each iteration erases one drawn at random.

    Raises `SpecError` for a phrase the text encoder cannot read, `EraserError` when nothing is selected or training
    diverges.
    """
    options = EsdParameters(**parameters)
    key = training_key(pipeline, method, concepts, options)
    if options.rounded:
        pipeline = rounded(pipeline)
    concept_prompts = prompts(pipeline, concepts, options.templates, options.synonyms)
    sources = _sources(pipeline, concept_prompts, options.erase_from)
    unet, trained = prepare(pipeline.unet, method, options.selection)
    pairs = low_rank(unet, tuple(trained), options) if options.lora_rank else None
    if pairs is not None:
        trained = lora_tensors(unet, pairs)
    latents = Latents(
        pipeline,
        lambda x, t, states: predict(pipeline.unet, x, t, states, options.compute),
        lambda x, t, states: predict(unet, x, t, states, options.compute),
        options,
        concepts=concept_prompts,
        sources=sources,
    )
    optimiser = torch.optim.Adam(trained.values(), lr=options.learning_rate)
    training = Training(
        method,
        key,
        trained,
        {"weights": optimiser},
        iterations=options.iterations,
        seed=options.seed,
        session=session,
    )
    step = _Step(unet, optimiser, sources, options)
    with pairs.acting() if pairs is not None else contextlib.nullcontext():
        latents.fill_pool(key, session)
        training.run(lambda generator: step(*latents.draw(generator)))
    source = slug(concepts) if options.erase_from is None else file_part(options.erase_from)
    name = f"esd-{slug(concepts)}-from-{source}-{method.replace('-', '')}.safetensors"
    return Made(
        layout="lora" if options.lora_rank else "unet-partial",
        tensors={name: tensor.detach().float().cpu().contiguous() for name, tensor in trained.items()},
        filename="pytorch_lora_weights.safetensors" if options.lora_rank else name,
        prompts=tuple(prompt.text for prompt in concept_prompts),
        curve=training.curve,
        seconds=training.seconds,
    )


@dataclasses.dataclass(frozen=True)
class _Step:
    """One iteration: the trained parameters take a step towards the target of one concept."""

    unet: Denoiser
    optimiser: torch.optim.Optimizer
    sources: Sequence[Prompt]  # by concept: the prompt of the latents
    options: EsdParameters

    def __call__(self, concept: int, noisy: Noisy) -> torch.Tensor:
        """Return the loss before the step. `concept` is the index of the concept that `noisy` belongs to."""
        states = self.sources[concept].states.expand(len(noisy.latents), -1, -1)
        predicted = predict(self.unet, noisy.latents, noisy.timesteps, states, self.options.compute)
        wanted = target(noisy, self.options.negative_guidance, self.options.convention)
        loss = nn.functional.mse_loss(predicted, wanted)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss


def rounded(pipeline: Pipeline) -> Pipeline:
    """Return the pipeline with copies of its network and text encoders in bfloat16; the given ones stay as they are."""
    unet, text_encoder = (copy.deepcopy(part).to(torch.bfloat16) for part in (pipeline.unet, pipeline.text_encoder))
    second = pipeline.second
    if second is not None:
        second = dataclasses.replace(second, encoder=copy.deepcopy(second.encoder).to(torch.bfloat16))
    return dataclasses.replace(pipeline, unet=unet, text_encoder=text_encoder, second=second)


def prepare(unet: Denoiser, method: str, selection: str = "2025") -> tuple[Denoiser, dict[str, nn.Parameter]]:
    """Return a copy of the UNet that computes gradients for exactly the parameters of `method`, and these by name."""
    return trainable(unet, trained_names(unet, method, selection))


def trainable(unet: UNet2DConditionModel, names: Sequence[str]) -> tuple[UNet2DConditionModel, dict[str, nn.Parameter]]:
    """Return a copy of the UNet that computes gradients for exactly these parameters, and they by name."""
    copied = copy.deepcopy(unet).requires_grad_(False)
    parameters = dict(copied.named_parameters())
    return copied, {name: parameters[name].requires_grad_(True) for name in names}


def low_rank(unet: Denoiser, names: Sequence[str], options: EsdParameters) -> LowRank:
    """Return low-rank pairs on the linear layers among the selected parameters, which stay as they are.

    Raises `EraserError` when there are none.
    """
    paths = [name.removesuffix(".weight") for name in names if name.endswith(".weight")]
    linear = [path for path in paths if isinstance(unet.get_submodule(path), nn.Linear)]
    if not linear:
        raise EraserError("no linear layer is selected that a LoRA could change", next_step="set lora_rank to 0")
    return LowRank(unet.requires_grad_(False), linear, options.lora_rank, options.seed)


def lora_tensors(unet: Denoiser, pairs: LowRank) -> dict[str, nn.Parameter]:
    """Return pairs by the names of diffusers' LoRA files."""
    part = "transformer" if hasattr(unet, "transformer_blocks") else "unet"
    named = [(f"{part}.{path}", pair) for path, pair in pairs.named_pairs()]
    return {f"{name}.lora_A.weight": pair.down for name, pair in named} | {
        f"{name}.lora_B.weight": pair.up for name, pair in named
    }


def _sources(pipeline: Pipeline, concepts: Sequence[Prompt], text: str | None) -> tuple[Prompt, ...]:
    """Return the prompts that make the latents: the concept's own, or `erase_from` for all.

    Raises `SpecError` when the text encoder cannot read it.
    """
    if text is None:
        return tuple(concepts)
    token_ids(pipeline, text, "erase_from")
    source = Prompt(text, "", pipeline.encode_text([text]), range(0))
    return (source,) * len(concepts)


esd_x, esd_u, esd_x_strict, esd_all = (functools.partial(erase, method=method) for method in METHODS)
