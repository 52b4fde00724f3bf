"""The folder of a model: its parts, the weight files that would be loaded, and its configurations, with digests."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from audit.errors import CheckpointError
from audit.weights import settings
from audit.weights.files import cached_sha256, check_safetensors, loaded_weights, read_json

_CONFIG_SUFFIXES = (".json", ".txt", ".model")  # configurations, vocabularies and merges
# Parts of a pipeline folder that hold no weights, or weights that the audit never loads (safety checkers would hide
# the very pictures that are to be judged), so they are not part of the model's identity.
_WEIGHTLESS = ("scheduler", "tokenizer", "tokenizer_2", "tokenizer_3", "feature_extractor")
_NOT_LOADED = settings.IGNORED_PARTS


def weights_of(folder: Path, parts: Iterable[str]) -> tuple[dict[str, str], str | None]:
    """Return the weight files of these parts, relative file -> hex SHA-256, and their variant (None, `fp16` or `bf16`).

    Raises `CheckpointError` for files that are missing, truncated or of two variants.
    """
    weights: dict[str, str] = {}
    variants: set[str | None] = set()
    for part in parts:
        files, variant = loaded_weights(folder / part)
        variants.add(variant)
        for path in files:
            check_safetensors(path)
            weights[path.relative_to(folder).as_posix()] = cached_sha256(path)
    if len(variants) > 1:
        found = " and ".join(sorted(variant or "full" for variant in variants))
        raise CheckpointError(
            f"parts of the pipeline have weight files of different variants: {found}",
            where=str(folder),
            next_step="download one variant for all parts",
        )
    return weights, next(iter(variants), None)


def configs_of(folder: Path, parts: Iterable[str]) -> dict[str, str]:
    """Return the configurations and vocabularies of a folder and of these parts of it: relative file -> hex SHA-256."""
    return {
        path.relative_to(folder).as_posix(): cached_sha256(path)
        for part in ["", *parts]
        for path in sorted((folder / part).iterdir())
        if path.is_file() and path.suffix in _CONFIG_SUFFIXES
    }


def parts_of(folder: Path) -> dict[str, bool]:
    """Return the sub-folders that make up the model (`""` for a single model) -> whether they must hold weights.

    Raises `CheckpointError` for a folder that is empty, lacks a part, or names one outside of it.
    """
    if not any(folder.iterdir()):
        raise CheckpointError(
            "the model folder is empty", where=str(folder), next_step="download or copy the model into it"
        )
    if not (folder / "model_index.json").is_file():
        _need(folder, "config.json", "the folder is no model: it has neither model_index.json nor config.json")
        return {"": True}
    index = read_json(folder / "model_index.json")
    parts = {}
    for part, loader in index.items():
        loads = isinstance(loader, list) and len(loader) == 2 and loader[1] is not None
        if part.startswith("_") or part in _NOT_LOADED or not loads:
            continue
        _require_part(folder, part)
        parts[part] = part not in _WEIGHTLESS
        if parts[part]:
            _need(folder / part, "config.json", f"the pipeline's {part} has no config.json")
    if not any(parts.values()):
        raise CheckpointError("model_index.json names no model", where=str(folder), next_step="download it again")
    return parts


def check_weighted(folder: Path, parts: Collection[str], file: Path) -> None:
    """Return when `folder` has weights for `parts`, which `file` lacks. Raises `CheckpointError` for the first without."""
    for part in parts:
        if not any((folder / part).glob("*.safetensors*")):
            t5 = part == "text_encoder_3"
            without = "; or set text_encoder_3 and tokenizer_3 to [null, null] in model_index.json" if t5 else ""
            raise CheckpointError(
                f"neither the file {file.name} nor the config folder has weights of the {part}",
                where=str(folder / part),
                next_step=f"copy the part's safetensors file into that folder, or use a file that holds it{without}",
            )


def _require_part(folder: Path, part: str) -> None:
    if Path(part).name != part or part in ("", ".."):
        raise CheckpointError(
            f"model_index.json names a part outside the folder: {part!r}",
            where=str(folder / "model_index.json"),
            next_step="do not use this model unless you trust its source; download it again",
        )
    if not (folder / part).is_dir():
        t5 = part in ("text_encoder_3", "tokenizer_3")
        without = "; to do without T5, set text_encoder_3 and tokenizer_3 to [null, null] in model_index.json"
        raise CheckpointError(
            f"the pipeline folder lacks its part {part!r}",
            where=str(folder / part),
            next_step=f"download or copy the whole pipeline folder{without if t5 else ''}",
        )


def _need(folder: Path, name: str, message: str) -> None:
    if not (folder / name).is_file():
        raise CheckpointError(message, where=str(folder / name), next_step="download or copy the whole model folder")
    read_json(folder / name)
