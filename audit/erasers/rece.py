"""RECE: Reliable and Efficient Concept Erasure, closed form (Gong et al. 2024, arXiv 2407.12383; code CharlesGong12/RECE).

It starts from UCE's edit. Each round derives the token states c' that, through the edited matrices W, come nearest to
what the concept's states c were through the backbone's, and erases these (numbers in brackets are this file's own):

(1) c' = (lambda I + sum W^T W)^-1 (sum W^T W_0) c        sums over the keys and values of every attn2
(2) W <- UCE's closed form of W that maps c' to the guide's values, with the null prompt and the neighbours preserved
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence

import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers.base import Made
from audit.erasers.phrases import prompts, slug
from audit.erasers.rece_parameters import METHOD, ReceParameters
from audit.erasers.token_states import Edit, preserved, states_of, token_states
from audit.erasers.uce import cross_attention, edited, edited_matrix
from audit.erasers.uce_parameters import UceParameters
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the attn2 to_k and to_v weights after UCE's edit and every round, by their diffusers names.

    Raises as UCE does.
    """
    started = time.monotonic()
    options = ReceParameters(**parameters)
    texts, edit = token_states(pipeline, concepts, options)
    kept = preserved(concepts, options.preserves)
    backbone = cross_attention(pipeline, NAME, ("to_k", "to_v"))
    first = options.model_copy(update={"preserve_scale": options.scale(len(kept))})
    matrices = edited(NAME, backbone, functools.partial(_edit, edit, first), session)
    known = edit if options.derived_tokens == "edited" else _whole_prompts(pipeline, concepts, options)
    for _ in range(options.rounds):
        revived = known.erase.double() @ reviving(backbone, matrices, options.derived_regularisation).T
        again = Edit(revived, known.guide, known.preserve)
        matrices = edited(NAME, matrices, functools.partial(_edit, again, options.of_round), session)
    return Made(
        layout="unet-partial",
        tensors=matrices,
        filename=f"rece-{slug(concepts)}.safetensors",
        prompts=texts,
        preserved=tuple(kept),
        seconds=time.monotonic() - started,
    )


def _edit(edit: Edit, options: UceParameters, name: str, weight: torch.Tensor) -> torch.Tensor:
    return edited_matrix(weight, edit, options)


def reviving(
    backbone: Mapping[str, torch.Tensor], matrices: Mapping[str, torch.Tensor], regularisation: float
) -> torch.Tensor:
    """Return (1) as a matrix (D, D), float64 on the CPU: what it makes of a state revives it through the edited matrices."""
    pairs = [(matrices[name].cpu().double(), old.cpu().double()) for name, old in backbone.items()]
    width = pairs[0][0].shape[1]
    left = regularisation * torch.eye(width, dtype=torch.float64) + sum(new.T @ new for new, _ in pairs)
    right = torch.stack([new.T @ old for new, old in pairs]).sum(0)
    return torch.linalg.solve(left, right)


def _whole_prompts(pipeline: Pipeline, concepts: Sequence[Concept], options: ReceParameters) -> Edit:
    """Return every position's state of the erased prompts and of their guides, and of what is preserved."""
    templates = tuple(dict.fromkeys(("{phrase}", *options.templates)))
    erased = prompts(pipeline, concepts, templates, options.synonyms)
    guides = [p.template.replace("{phrase}", options.guide) if options.wrap_guide else options.guide for p in erased]
    kept = [concept.phrase for concept in preserved(concepts, options.preserves).values()]

    def states(texts: Sequence[str]) -> torch.Tensor:
        return states_of(pipeline, texts).flatten(0, 1)

    return Edit(states([prompt.text for prompt in erased]), states(guides), states(["", *kept]))
