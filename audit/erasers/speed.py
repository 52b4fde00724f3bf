"""SPEED: null-space closed form (Li et al. 2025, arXiv 2503.07392; code Ouxiang-Li/SPEED).

For every attn2 value matrix W, with token states as rows of C_1 (erased), C_* (their guides) and C_0 (retained), and P the
projection onto the directions in which C_0 hardly extends (numbers in brackets are this file's own):

(1) D = W (C_*^T C_1 - C_1^T C_1) (I + C_1^T C_1)^-1               erasing alone: the influence on a state c is ||D c||
(2) P = U U^T, U the singular vectors of C_0^T C_0 / n with singular values below the threshold
(3) M = (C_1^T C_1 P + r I)^-1
(4) W' = W + W (C_*^T C_1 - C_1^T C_1) P (I - M K (K^T P M K + l I)^-1 K^T P) M
    K: the start token's state and cluster centres of the null prompt's, which (4) maps as W does where l is 0

Second moments are divided by the number of erased prompts. C_0 is refined for each matrix: states with more influence than
average, and noisy copies of these along the direction that W sees least, kept where they have more influence than average.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Sequence

import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers.base import Made
from audit.erasers.phrases import slug
from audit.erasers.speed_parameters import METHOD, SpeedParameters, projections
from audit.erasers.token_states import Edit, preserved, states_of, token_states
from audit.erasers.uce import cross_attention, edited
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name
_CLUSTER_ROUNDS = 100


@dataclasses.dataclass(frozen=True)
class Moments:
    """The states of one edit, float64: `pull` is C_*^T C_1 - C_1^T C_1 and `gram` C_1^T C_1, both (D, D) and divided by the
    number of prompts; `retain` (n, D) the states to retain; `invariant` (D, k) those that are kept exactly.
    """

    pull: torch.Tensor
    gram: torch.Tensor
    retain: torch.Tensor
    invariant: torch.Tensor


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the edited attn2 matrices by their diffusers names.

    Raises `SpecError` when a phrase has no tokens that the text encoder knows, and `EraserError` when the UNet has no
    cross-attention, the edit is not finite or nothing is free to change.
    """
    started = time.monotonic()
    options = SpeedParameters(**parameters)
    texts, edit = token_states(pipeline, concepts, options)
    moments = gathered(edit, len(texts), states_of(pipeline, [""])[0], options)
    matrices = cross_attention(pipeline, NAME, projections(options.matrices))
    return Made(
        layout="unet-partial",
        tensors=edited(NAME, matrices, lambda name, weight: edited_matrix(name, weight, moments, options), session),
        filename=f"speed-{slug(concepts)}.safetensors",
        prompts=texts,
        preserved=tuple(preserved(concepts, options.preserves)),
        seconds=time.monotonic() - started,
    )


def gathered(edit: Edit, count: int, null: torch.Tensor, options: SpeedParameters) -> Moments:
    """Return the moments of an edit of `count` prompts. `null` (L, D) are the null prompt's states."""
    erase, guide, null = edit.erase.double(), edit.guide.double(), null.double()
    retain = edit.preserve.double() if len(edit.preserve) else null[1:]
    invariant = torch.cat([null[:1], centres(null[1:], options.clusters)])
    return Moments((guide - erase).T @ erase / count, erase.T @ erase / count, retain, invariant.T)


def edited_matrix(name: str, weight: torch.Tensor, moments: Moments, options: SpeedParameters) -> torch.Tensor:
    """Return W' (out, D) by (4), computed in float64, in the dtype of `weight`. The matrix's name seeds its noisy copies."""
    w = weight.cpu().double()
    identity = torch.eye(w.shape[1], dtype=torch.float64)
    alone = torch.linalg.solve(identity + moments.gram, w @ moments.pull, left=False)  # (1)
    retain = refined(name, w, alone, moments.retain, options)
    vectors, values, _ = torch.linalg.svd(retain.T @ retain / len(retain))
    free = vectors[:, values < options.threshold]
    if not free.shape[1]:
        raise EraserError(
            f"nothing is free to change in {name}: the retained states span every direction",
            where="threshold",
            next_step="raise threshold, or retain fewer neighbours",
        )
    projection = free @ free.T  # (2)
    solved = torch.linalg.inv(moments.gram @ projection + options.retain_scale * identity)  # (3)
    keys = moments.invariant
    inner = keys.T @ projection @ solved @ keys + options.invariant_regularisation * torch.eye(
        keys.shape[1], dtype=torch.float64
    )
    try:
        held = solved @ keys @ torch.linalg.solve(inner, keys.T @ projection)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        raise EraserError(
            f"the exact constraints of {name} have no solution: the retained states span them already",
            where="invariant_regularisation",
            next_step="set invariant_regularisation to 0.5, as the official preset for implicit concepts does",
        ) from None
    change = w @ moments.pull @ projection @ (identity - held) @ solved  # (4)
    return (w + change).to(weight.dtype)


def refined(
    name: str, weight: torch.Tensor, alone: torch.Tensor, retain: torch.Tensor, options: SpeedParameters
) -> torch.Tensor:
    """Return the retained states (n, D) of one matrix, filtered and with noisy copies; the given ones where neither is asked."""
    if options.filtering:
        retain = _influenced(retain, alone)
    if not options.augmentations:
        return retain
    direction = torch.linalg.svd(weight, full_matrices=False)[2][-1]
    seed = int.from_bytes(hashlib.sha256(f"{options.seed} {name}".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(seed)
    copies = retain.repeat(options.augmentations, 1)
    noise = torch.randn(copies.shape, generator=generator, dtype=torch.float64)
    return torch.cat([retain, _influenced(copies + torch.outer(noise @ direction, direction), alone)])


def _influenced(states: torch.Tensor, alone: torch.Tensor) -> torch.Tensor:
    """Return the states that erasing alone moves more than average; all of them where all are moved alike."""
    influence = (states @ alone.T).norm(dim=1)
    kept = states[influence > influence.mean()]
    return kept if len(kept) else states


def centres(states: torch.Tensor, count: int) -> torch.Tensor:
    """Return `count` cluster centres (count, D) of states (n, D) by Lloyd's algorithm, from starts farthest from each other."""
    chosen = states[:1]
    while len(chosen) < min(count, len(states)):
        chosen = torch.cat([chosen, states[torch.cdist(states, chosen).amin(1).argmax()][None]])
    chosen = chosen[:count]
    for _ in range(_CLUSTER_ROUNDS if count else 0):
        nearest = torch.cdist(states, chosen).argmin(1)
        moved = torch.stack(
            [states[nearest == i].mean(0) if (nearest == i).any() else centre for i, centre in enumerate(chosen)]
        )
        if torch.equal(moved, chosen):
            break
        chosen = moved
    return chosen
