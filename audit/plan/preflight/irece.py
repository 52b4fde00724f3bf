"""Check IRECE's texts and layers before anything is computed. Imports no torch."""

from __future__ import annotations

from audit import guards
from audit.errors import SpecError
from audit.files import Document
from audit.guards.composed import compose, positions
from audit.guards.irece_parameters import IreceParameters
from audit.plan.resolved import Tokenizers
from audit.spec.document import Spec
from audit.weights.families import FLUX_SIDE
from audit.weights.files import read_json
from audit.weights.references import ModelRef
from audit.weights.setting_checks import Settings


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
    crossing = _crossing(config)
    if not any(crossing.values()):
        raise SpecError(
            "guard irece needs cross-attention, and this backbone's UNet has none",
            where=where,
            next_step="use a guard that works on the picture, such as egloce, or another backbone",
        )
    if parameters.layers != "all" and ("patch_size" in config or not crossing[parameters.layers]):
        having = ", ".join(part for part, blocks in crossing.items() if blocks and "patch_size" not in config)
        raise SpecError(
            f"guard irece: the {parameters.layers} blocks of this UNet have no cross-attention",
            where=where,
            next_step=f"set layers to one of: all, {having}".removesuffix(", "),
        )
    known = _sides(config, parameters.layers, int(config.get("sample_size", FLUX_SIDE)))
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
            known = _sides(config, parameters.layers, side)
            wrong = [wanted for wanted in parameters.sides if wanted not in known]
            if wrong:
                return (
                    f"guard irece looks at layers of {wrong[0]} x {wrong[0]} queries, "
                    f"and at this size they have {', '.join(map(str, sorted(known)))}"
                )
    return None


def network_settings(backbone: ModelRef) -> Settings:
    """Return the settings of the denoising network."""
    part = "unet" if (backbone.path / "unet").is_dir() else "transformer"
    return read_json(backbone.path / part / "config.json")


def _parts(config: Settings) -> dict[str, list[str]]:
    """Return the block types of the UNet's three parts; a transformer has no parts, and counts as one with joint attention."""
    if "down_block_types" not in config and "patch_size" in config:
        return {"down": [], "mid": ["CrossAttn"], "up": []}
    return {
        "down": list(config.get("down_block_types") or ()),
        "mid": [str(config.get("mid_block_type") or "")],
        "up": list(config.get("up_block_types") or ()),
    }


def _crossing(config: Settings) -> dict[str, list[int]]:
    """Return the numbers of the blocks with cross-attention, by part."""
    return {part: [i for i, kind in enumerate(kinds) if "CrossAttn" in kind] for part, kinds in _parts(config).items()}


def _sides(config: Settings, layers: str, side: int) -> set[int]:
    """Return the sides of the query grids of the chosen layers for latents of `side`.

    Each down block but the last halves them. A transformer has one grid, of patches; Flux packs 2 x 2 latents beforehand.
    """
    if "down_block_types" not in config and "patch_size" in config:
        return {side // (2 if "guidance_embeds" in config else int(config["patch_size"]))}
    depth, crossing = len(_parts(config)["down"]), _crossing(config)
    sides: set[int] = set()
    if layers in ("all", "down"):
        sides |= {side >> i for i in crossing["down"]}
    if layers in ("all", "mid") and crossing["mid"]:
        sides.add(side >> (depth - 1))
    if layers in ("all", "up"):
        sides |= {side >> (depth - 1 - i) for i in crossing["up"]}
    return sides
