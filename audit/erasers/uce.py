"""UCE: Unified Concept Editing, closed form (Gandikota et al. 2024, arXiv 2308.14761, eq. 7).

For every attn2 key and value matrix W,
W' = (lambda W + sum_e s_e v_e c_e^T + sum_p s_p (W c_p) c_p^T) (lambda I + sum_e s_e c_e c_e^T + sum_p s_p c_p c_p^T)^-1
with v_e = W c_guide. Sums run over token states; scales are divided by nothing, as in the official code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence

import torch

from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import require_finite
from audit.erasers.base import Made
from audit.erasers.phrases import Prompt, prompts, slug, word_positions
from audit.erasers.uce_parameters import METHOD, UceParameters
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


@dataclasses.dataclass(frozen=True)
class Edit:
    """Token states of one edit: `erase` (n, D) is mapped to the old matrix's output for `guide` (n, D)."""

    erase: torch.Tensor
    guide: torch.Tensor
    preserve: torch.Tensor


def edited_matrix(weight: torch.Tensor, edit: Edit, parameters: UceParameters) -> torch.Tensor:
    """Return the closed-form solution W' (out, D), computed in float64, in the dtype of `weight`."""
    w = weight.double()
    left = parameters.regularisation * w
    right = parameters.regularisation * torch.eye(w.shape[1], dtype=torch.float64, device=w.device)
    erase, guide = edit.erase.to(w), edit.guide.to(w)
    left = left + parameters.erase_scale * (w @ guide.T) @ erase
    right = right + parameters.erase_scale * erase.T @ erase
    if len(edit.preserve) and parameters.preserve_scale:
        preserve = edit.preserve.to(w)
        gram = parameters.preserve_scale * preserve.T @ preserve
        left, right = left + w @ gram, right + gram
    return torch.linalg.solve(right, left, left=False).to(weight.dtype)


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the edited attn2 to_k and to_v weights by their diffusers names.

    Raises `SpecError` when a phrase has no tokens the text encoder knows, and `EraserError` when the UNet has no
    cross-attention to edit or the edit is not finite.
    """
    started = time.monotonic()
    options = UceParameters(**parameters)
    texts, edit = token_states(pipeline, concepts, options)
    kept = _preserved(concepts, options)
    options = options.model_copy(update={"preserve_scale": options.scale(len(kept))})
    state = pipeline.unet.state_dict()
    names = [name for name in state if name.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    if not names:
        raise EraserError("the UNet has no attn2 layers, so UCE has nothing to edit", where=str(pipeline.ref.path))
    session.listener.begin(NAME, len(names), 0)
    edited = {}
    for number, name in enumerate(names):
        edited[name] = edited_matrix(state[name].float(), edit, options).cpu().contiguous()
        session.listener.update(NAME, number + 1)
    require_finite(edited, "the closed-form edit", "raise regularisation")
    session.listener.end(NAME)
    return Made(
        layout="unet-partial",
        tensors=edited,
        filename=f"uce-{slug(concepts)}.safetensors",
        prompts=texts,
        preserved=tuple(kept),
        seconds=time.monotonic() - started,
    )


def token_states(
    pipeline: Pipeline, concepts: Sequence[Concept], options: UceParameters
) -> tuple[tuple[str, ...], Edit]:
    """Return the prompts that are erased, and the token states of the edit.

    A concept that is erased itself is never preserved as another one's neighbour.
    """
    templates = tuple(dict.fromkeys(("{phrase}", *options.templates)))
    erased = prompts(pipeline, concepts, templates, options.synonyms)
    targets = [_guide(pipeline, prompt, options) for prompt in erased]
    # Tails start at the last word, so that end token meets end token; what one has beyond the other is left out.
    rows = [_states(prompt, options.tokens)[: len(target)] for prompt, target in zip(erased, targets, strict=True)]
    guides = [target[: len(row)] for row, target in zip(rows, targets, strict=True)]
    kept = list(_preserved(concepts, options).values())
    wrapping = templates if options.wrap_preserved else ("{phrase}",)
    neighbours = prompts(pipeline, kept, wrapping, False) if kept else ()
    if options.tokens == "last":
        preserve = [_states(prompt, "last") for prompt in neighbours]
    else:  # whole sequences, and always the null prompt's, which the unconditional half of every guided step reads
        preserve = [pipeline.encode_text([""])[0].cpu(), *(prompt.states[0].cpu() for prompt in neighbours)]
    empty = torch.empty(0, rows[0].shape[1])
    texts = tuple(prompt.text for prompt in erased)
    return texts, Edit(torch.cat(rows), torch.cat(guides), torch.cat(preserve) if preserve else empty)


def _guide(pipeline: Pipeline, erased: Prompt, options: UceParameters) -> torch.Tensor:
    """Return the states (n, D) that an erased prompt is mapped to: from the last token of the guide, in its template or alone."""
    text = erased.template.replace("{phrase}", options.guide) if options.wrap_guide else options.guide
    states = pipeline.encode_text([text])[0].cpu()
    if text.strip():
        last = word_positions(pipeline, text, text).stop - 1
        return states[last : last + 1] if options.tokens == "last" else states[last:]
    return states[:1] if options.tokens == "last" else states  # the null prompt has only its start token


def _preserved(concepts: Sequence[Concept], options: UceParameters) -> dict[str, Concept]:
    """Return the neighbours of the concepts by name, each once, without those that are erased."""
    if not options.preserve_neighbours or options.preserve_scale == 0:
        return {}
    phrases = {name: concept.phrase_of(name) for concept in concepts for name in concept.neighbours}
    gone = {concept.name for concept in concepts}
    return {name: Concept(name=name, phrase=phrase) for name, phrase in phrases.items() if name not in gone}


def _states(prompt: Prompt, tokens: str) -> torch.Tensor:
    """Return text-encoder states (n, D) of the phrase's last token, or of it and every later position."""
    last, states = prompt.word.stop - 1, prompt.states[0].cpu()
    return states[last : last + 1] if tokens == "last" else states[last:]
