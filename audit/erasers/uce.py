"""UCE: Unified Concept Editing, closed form (Gandikota et al. 2024, arXiv 2308.14761, eq. 7).

For every matrix W that text enters the network by, of a UNet the keys and values of its attn2,
W' = (lambda W + sum_e s_e v_e c_e^T + sum_p s_p (W c_p) c_p^T) (lambda I + sum_e s_e c_e c_e^T + sum_p s_p c_p c_p^T)^-1
with v_e = W c_guide. Sums run over token states; scales are divided by nothing, as in the official code. The transformers of
Stable Diffusion 3 and Flux have no attn2: W is the layer that takes the states in, and the one that takes the pooled
embeddings in, whose biases stay.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from diffusers import UNet2DConditionModel

from audit.checkpoints.key_sets import POOLED_ENTRY, is_text_entry
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.training import require_finite
from audit.erasers.base import Made
from audit.erasers.phrases import slug
from audit.erasers.token_states import Edit, pooled_states, preserved, token_states
from audit.erasers.uce_parameters import METHOD, UceParameters
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


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
    """Return the edited weights by their diffusers names.

    Raises `SpecError` when a phrase has no tokens the text encoder knows, and `EraserError` when the UNet has no
    cross-attention to edit or the edit is not finite.
    """
    started = time.monotonic()
    options = UceParameters(**parameters)
    texts, edit = token_states(pipeline, concepts, options)
    pooled = edit
    if isinstance(pipeline.unet, UNet2DConditionModel):
        matrices = cross_attention(pipeline, NAME, ("to_k", "to_v"))
    else:
        matrices = text_entries(pipeline)
        pooled = pooled_states(pipeline, concepts, options, matrices[POOLED_ENTRY].shape[1])
    kept = preserved(concepts, options.preserves)
    options = options.model_copy(update={"preserve_scale": options.scale(len(kept))})

    def changed(name: str, weight: torch.Tensor) -> torch.Tensor:
        return edited_matrix(weight, pooled if name == POOLED_ENTRY else edit, options)

    return Made(
        layout="unet-partial",
        tensors=edited(NAME, matrices, changed, session),
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


def text_entries(pipeline: Pipeline) -> dict[str, torch.Tensor]:
    """Return the matrices that text enters a transformer by, float32, by their diffusers names."""
    return {name: w.float() for name, w in pipeline.unet.state_dict().items() if is_text_entry(name)}


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
