"""UCE: Unified Concept Editing, closed form (Gandikota et al. 2024, arXiv 2308.14761, eq. 7).

For every attn2 key and value matrix W,
W' = (lambda W + sum_e s_e v_e c_e^T + sum_p s_p (W c_p) c_p^T) (lambda I + sum_e s_e c_e c_e^T + sum_p s_p c_p c_p^T)^-1
with v_e = W c_guide. Sums run over token states; scales are divided by nothing, as in the official code.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import torch

from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import require_finite
from audit.erasers.base import Made
from audit.erasers.phrases import Prompt, prompts, slug, word_positions
from audit.erasers.uce_parameters import METHOD, EditParameters, UceParameters
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
    values = w @ edit.guide.to(w).T
    scales = parameters.regularisation, parameters.erase_scale, parameters.preserve_scale or 0.0
    return solved(w, edit.erase, values, edit.preserve, scales).to(weight.dtype)


def solved(
    w: torch.Tensor,
    states: torch.Tensor,
    values: torch.Tensor,
    preserve: torch.Tensor,
    scales: tuple[float, float, float],
    kept: torch.Tensor | None = None,
) -> torch.Tensor:
    """Return the matrix nearest to `w` (out, D), float64, that maps `states` (n, D) to `values` (out, n).

    `preserve` (m, D) are states that go on as `kept` maps them, by default `w` itself; `scales` weigh the pull towards `w`,
    the values and what is preserved. Raises `EraserError` when there is no one solution.
    """
    regularisation, erase_scale, preserve_scale = scales
    erase = states.to(w)
    left = regularisation * w + erase_scale * values @ erase
    right = regularisation * torch.eye(w.shape[1], dtype=torch.float64, device=w.device)
    right = right + erase_scale * erase.T @ erase
    if len(preserve) and preserve_scale:
        also = preserve.to(w)
        gram = preserve_scale * also.T @ also
        left, right = left + (w if kept is None else kept.to(w)) @ gram, right + gram
    try:
        return torch.linalg.solve(right, left, left=False)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise EraserError(
            "the closed form has no solution: the states do not span what they are read by",
            where="regularisation",
            next_step="raise regularisation, or use more templates",
        ) from None


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the edited attn2 to_k and to_v weights by their diffusers names.

    Raises `SpecError` when a phrase has no tokens the text encoder knows, and `EraserError` when the UNet has no
    cross-attention to edit or the edit is not finite.
    """
    started = time.monotonic()
    options = UceParameters(**parameters)
    texts, edit = token_states(pipeline, concepts, options)
    kept = preserved(concepts, options.preserves)
    options = options.model_copy(update={"preserve_scale": options.scale(len(kept))})
    matrices = cross_attention(pipeline, NAME, ("to_k", "to_v"))
    return Made(
        layout="unet-partial",
        tensors=edited(NAME, matrices, lambda name, weight: edited_matrix(weight, edit, options), session),
        filename=f"uce-{slug(concepts)}.safetensors",
        prompts=texts,
        preserved=tuple(kept),
        seconds=time.monotonic() - started,
    )


def cross_attention(pipeline: Pipeline, method: str, projections: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the attn2 matrices of these projections, float32, by their diffusers names. Raises `EraserError` without any."""
    ends = tuple(f"attn2.{projection}.weight" for projection in projections)
    matrices = {name: w.float() for name, w in pipeline.unet.state_dict().items() if name.endswith(ends)}
    if not matrices:
        raise EraserError(
            f"the UNet has no attn2 layers, so {method.upper()} has nothing to edit", where=str(pipeline.ref.path)
        )
    return matrices


def edited(
    stage: str,
    matrices: Mapping[str, torch.Tensor],
    edit: Callable[[str, torch.Tensor], torch.Tensor],
    session: Session,
) -> dict[str, torch.Tensor]:
    """Return each matrix as `edit` of its name and values, on the CPU; `stage` is what listeners hear.

    Raises `EraserError` when one is not finite.
    """
    session.listener.begin(stage, len(matrices), 0)
    changed = {}
    for number, (name, weight) in enumerate(matrices.items()):
        changed[name] = edit(name, weight).cpu().contiguous()
        session.listener.update(stage, number + 1)
    require_finite(changed, "the closed-form edit", "raise regularisation")
    session.listener.end(stage)
    return changed


def token_states(
    pipeline: Pipeline, concepts: Sequence[Concept], options: EditParameters
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
    kept = list(preserved(concepts, options.preserves).values())
    wrapping = templates if options.wrap_preserved else ("{phrase}",)
    neighbours = prompts(pipeline, kept, wrapping, False) if kept else ()
    if options.tokens == "last":
        preserve = [_states(prompt, "last") for prompt in neighbours]
    else:  # whole sequences, and always the null prompt's, which the unconditional half of every guided step reads
        preserve = [pipeline.encode_text([""])[0].cpu(), *(prompt.states[0].cpu() for prompt in neighbours)]
    empty = torch.empty(0, rows[0].shape[1])
    texts = tuple(prompt.text for prompt in erased)
    return texts, Edit(torch.cat(rows), torch.cat(guides), torch.cat(preserve) if preserve else empty)


def _guide(pipeline: Pipeline, erased: Prompt, options: EditParameters) -> torch.Tensor:
    """Return the states (n, D) that an erased prompt is mapped to: from the last token of the guide, in its template or alone."""
    text = erased.template.replace("{phrase}", options.guide) if options.wrap_guide else options.guide
    states = pipeline.encode_text([text])[0].cpu()
    if text.strip():
        last = word_positions(pipeline, text, text).stop - 1
        return states[last : last + 1] if options.tokens == "last" else states[last:]
    return states[:1] if options.tokens == "last" else states  # the null prompt has only its start token


def preserved(concepts: Sequence[Concept], wanted: bool) -> dict[str, Concept]:
    """Return the neighbours of the concepts by name, each once, without those that are erased; none where none is `wanted`."""
    if not wanted:
        return {}
    phrases = {name: concept.phrase_of(name) for concept in concepts for name in concept.neighbours}
    gone = {concept.name for concept in concepts}
    return {name: Concept(name=name, phrase=phrase) for name, phrase in phrases.items() if name not in gone}


def _states(prompt: Prompt, tokens: str) -> torch.Tensor:
    """Return text-encoder states (n, D) of the phrase's last token, or of it and every later position."""
    last, states = prompt.word.stop - 1, prompt.states[0].cpu()
    return states[last : last + 1] if tokens == "last" else states[last:]
