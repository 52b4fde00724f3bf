"""Check IRECE's texts and layers before anything is computed. Imports no torch."""

from __future__ import annotations

from audit import guards
from audit.errors import SpecError
from audit.files import Document
from audit.guards.composed import compose, positions
from audit.guards.irece_parameters import IreceParameters
from audit.plan.preflight.network_shapes import crossing, network_settings, query_sides
from audit.plan.resolved import Tokenizers
from audit.spec.document import Spec
from audit.weights.families import FLUX_SIDE
from audit.weights.references import ModelRef


def check_composed(described: Document, backbone: ModelRef, tokenizers: Tokenizers, where: str) -> None:
    """Check that the backbone reads every text that IRECE composes in full, and each phrase in it as words of its own.

    Raises `SpecError` otherwise. `described` holds the guard's parameters for one concept.
    """
    tokenizer, attended = tokenizers.backbone(backbone), tokenizers.attended(backbone)
    longest = int(tokenizer.model_max_length)
    neighbours: list[list[str]] = [[], *([described["neighbours"]] if described["neighbours"] else [])]
    for phrase in described["phrases"]:
        for named in neighbours:
            composed = compose(described["template"], phrase, named)
            used = len(tokenizer(composed.text)["input_ids"])
            if used > longest:
                text = composed.text if len(composed.text) <= 60 else f"{composed.text[:60]}..."
                raise SpecError(
                    f"guard irece: its text {text!r} has {used} tokens, and {backbone.name} reads {longest}",
                    where=where,
                    next_step="shorten the template"
                    + (", list fewer neighbours, or use another localisation" if named else ""),
                )
            positions(attended, composed)


def check_attention(parameters: IreceParameters, backbone: ModelRef, where: str) -> None:
    """Check that the backbone's UNet has the layers that IRECE is told to look at. Raises `SpecError` otherwise."""
    config = network_settings(backbone)
    crossed = crossing(config)
    if not any(crossed.values()):
        raise SpecError(
            "guard irece needs cross-attention, and this backbone has none",
            where=where,
            next_step="use a guard that works on the picture, such as egloce, or another backbone",
        )
    if parameters.layers != "all" and ("patch_size" in config or not crossed[parameters.layers]):
        having = ", ".join(part for part, blocks in crossed.items() if blocks and "patch_size" not in config)
        raise SpecError(
            f"guard irece: this backbone's network has no {parameters.layers} blocks with cross-attention",
            where=where,
            next_step=f"set layers to one of: all, {having}".removesuffix(", "),
        )
    known = query_sides(config, parameters.layers, int(config.get("sample_size", FLUX_SIDE)))
    wrong = [side for side in parameters.sides if side not in known]
    if wrong:
        raise SpecError(
            f"guard irece: no cross-attention layer has {wrong[0]} x {wrong[0]} queries",
            where=where,
            next_step=f"choose sides among: {', '.join(map(str, sorted(known)))}",
        )


def unseen(spec: Spec, backbone: ModelRef, side: int) -> str | None:
    """Return why some guard of the spec cannot read attention for square latents of `side` cells; None when all can."""
    config = network_settings(backbone)
    for guard in (guard for defence in spec.defences for guard in defence.guards):
        parameters = guards.parse(guard)
        if isinstance(parameters, IreceParameters):
            known = query_sides(config, parameters.layers, side)
            wrong = [wanted for wanted in parameters.sides if wanted not in known]
            if wrong:
                return (
                    f"guard irece looks at layers of {wrong[0]} x {wrong[0]} queries, "
                    f"and at this size they have {', '.join(map(str, sorted(known)))}"
                )
    return None
