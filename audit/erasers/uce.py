"""UCE: Unified Concept Editing, closed form (Gandikota et al. 2024, arXiv 2308.14761, eq. 7).

For every attn2 key and value matrix W,
W' = (lambda W + sum_e s_e v_e c_e^T + sum_p s_p (W c_p) c_p^T) (lambda I + sum_e s_e c_e c_e^T + sum_p s_p c_p c_p^T)^-1
with v_e = W c_guide. Sums run over token states; scales are divided by nothing, as in the official code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from audit.backbones import Pipeline
from audit.erasers.uce_parameters import UceParameters
from audit.errors import CheckpointError, SpecError
from audit.spec import Concept

NAME = "uce"
VERSION = "1"


@dataclasses.dataclass(frozen=True)
class Edit:
    """Token states of one edit: `erase` (n, D) is mapped to what the matrix gave for `guide` (n, D)."""

    erase: torch.Tensor
    guide: torch.Tensor
    preserve: torch.Tensor


def edited_matrix(weight: torch.Tensor, edit: Edit, parameters: UceParameters) -> torch.Tensor:
    """The closed-form solution W' (out, D), computed in float64 and returned in the dtype of `weight`."""
    w = weight.double()
    left = parameters.regularisation * w
    right = parameters.regularisation * torch.eye(w.shape[1], dtype=torch.float64, device=w.device)
    erase, guide = edit.erase.to(w), edit.guide.to(w)
    left = left + parameters.erase_scale * (w @ guide.T) @ erase
    right = right + parameters.erase_scale * erase.T @ erase
    if len(edit.preserve) and parameters.preserve_scale > 0:
        preserve = edit.preserve.to(w)
        gram = parameters.preserve_scale * preserve.T @ preserve
        left, right = left + w @ gram, right + gram
    return torch.linalg.solve(right, left, left=False).to(weight.dtype)


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Edited attn2 to_k and to_v weights by their diffusers names, in float32.

    Raises `SpecError` when a phrase has no tokens the text encoder knows, and `CheckpointError` when the UNet has no
    cross-attention to edit or the edit is not finite.
    """
    options = UceParameters(**parameters)
    edit = _token_states(pipeline, concepts, options)
    names = [n for n in pipeline.unet.state_dict() if n.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))]
    if not names:
        raise CheckpointError("the UNet has no attn2 layers, so UCE has nothing to edit", where=str(pipeline.ref.path))
    state = pipeline.unet.state_dict()
    edited = {name: edited_matrix(state[name].float(), edit, options).cpu().contiguous() for name in names}
    broken = [name for name, tensor in edited.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"the closed-form edit of {broken[0]} is not finite", next_step="raise regularisation")
    return edited


def _token_states(pipeline: Pipeline, concepts: Sequence[Concept], options: UceParameters) -> Edit:
    erased: list[torch.Tensor] = []
    guides: list[torch.Tensor] = []
    kept: list[torch.Tensor] = []
    for concept in concepts:
        phrases = [concept.phrase, *(concept.synonyms if options.synonyms else ())]
        for template in ("{phrase}", *options.templates):
            for phrase in phrases:
                rows = _states(pipeline, template.replace("{phrase}", phrase), phrase, options.tokens)
                target = _states(pipeline, options.guide, options.guide, options.tokens)
                erased.append(rows)
                # Tails of different length are aligned at their end, where both are padding.
                guides.append(_aligned(target, len(rows)))
            if options.preserve_neighbours:
                for name in concept.neighbours:
                    phrase = name.replace("-", " ")
                    kept.append(_states(pipeline, template.replace("{phrase}", phrase), phrase, options.tokens))
    width = erased[0].shape[1]
    return Edit(torch.cat(erased), torch.cat(guides), torch.cat(kept) if kept else torch.empty(0, width))


def _aligned(target: torch.Tensor, rows: int) -> torch.Tensor:
    if len(target) >= rows:
        return target[-rows:]
    return torch.cat([target[:1].expand(rows - len(target), -1), target])


def _states(pipeline: Pipeline, text: str, phrase: str, tokens: str) -> torch.Tensor:
    """Text-encoder states (n, D) of the phrase's last token, or of it and every later position."""
    ids = pipeline.tokenizer(text)["input_ids"]
    inner = pipeline.tokenizer(phrase, add_special_tokens=False)["input_ids"]
    if phrase and (not inner or set(inner) <= {pipeline.tokenizer.unk_token_id}):
        raise SpecError(
            f"the text encoder knows no token of the phrase {phrase!r}",
            where="concepts",
            next_step="use a word of the backbone's vocabulary",
        )
    last = len(ids) - 2 if phrase else 0  # before the end token; the null prompt has only its start token
    states = pipeline.encode_text([text])[0].cpu()
    return states[last : last + 1] if tokens == "last" else states[last:]
