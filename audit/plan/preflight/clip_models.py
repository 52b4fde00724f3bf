"""Check the CLIP models by which guards and attacks move pictures. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from audit.errors import SpecError
from audit.plan.resolved import Missing, Resolved
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


def check_clip(
    resolved: Resolved, backbone: ModelRef, named: str | None, name: str, *, who: str, field: str, what: str, where: str
) -> ModelRef | None:
    """Return the CLIP model `name` by which `who` moves pictures; None where its files are missing.

    It must be `named` in the spec's `field` except on the testbed, be a CLIPModel, and not be the network of a detector or
    a quality instrument: what pictures were optimised against judges nothing. Raises `SpecError` otherwise; `what` it is stands
    in the message.
    """
    if named is None and backbone.source != "testbed":
        raise SpecError(
            f"{who} names no {what}",
            where=where,
            next_step=f"set {field} to a CLIP folder or org/name@<40-hex commit> that no detector uses",
        )
    ref = resolved.energies[name]
    if isinstance(ref, Missing):
        return None
    if read_json(ref.path / "config.json").get("model_type") != "clip":
        raise SpecError(
            f"{who}: the {what} {name} is not a CLIPModel",
            where=where,
            next_step="name a folder or hub id of a CLIPModel, such as a clip-vit-large-patch14",
        )
    for judge, other in resolved.networks.items():
        if isinstance(other, Missing):
            continue
        if other.sha256 == ref.sha256 or set(other.files.values()) & set(ref.files.values()):
            raise SpecError(
                f"{who} optimises against {name}, and the {judge} scores with the same weights",
                where=where,
                next_step=f"let another network score, or set {field} to another {what}",
            )
    return ref


def check_tokens(model: ModelRef, tokenizer: CLIPTokenizer, texts: Iterable[str], where: str) -> None:
    """Check that a model knows every word of `texts` and reads each whole. Raises `SpecError` otherwise."""
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids or tokenizer.unk_token_id in ids:
            raise SpecError(
                f"the concept has no tokens: {text!r} is no word of {model.name}'s vocabulary",
                where=where,
                next_step="use words that this model was trained on",
            )
        if len(ids) + 2 > tokenizer.model_max_length:
            raise SpecError(
                f"the text {text[:60]!r} has {len(ids) + 2} tokens, and {model.name} reads {tokenizer.model_max_length}",
                where=where,
                next_step="shorten it",
            )


def too_long(resolved: Resolved, model: ModelRef, prompts: Sequence[str], what: str) -> Mapping[str, str]:
    """Return why the CLIP `model` cannot read a prompt in full, by prompt; `what` it is stands in the reason."""
    tokenizer = resolved.tokenizers.of(model.path)
    longest = read_json(model.path / "config.json").get("text_config", {}).get("max_position_embeddings", 77)
    used = {prompt: len(tokenizer(prompt)["input_ids"]) for prompt in prompts}
    return {
        prompt: f"the prompt {prompt[:60]!r} has {count} tokens, and the {what} {model.name} reads {longest}"
        for prompt, count in used.items()
        if count > longest
    }
