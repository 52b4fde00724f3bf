"""What erasers did in the finished runs made by hand: two of the audit's own, and a checkpoint."""

from __future__ import annotations

from typing import Any

ERASURES = (
    {
        "artefact": "uce-ring",
        "status": "ok",
        "facts": {
            "tensors": 32,
            "record": {
                "method": "uce",
                "version": "3",
                "concepts": ["ring"],
                "preserved": ["circle", "disc"],
                "parameters": {"erase_scale": 1.5, "stored": "float32"},
                "change": {
                    "tensors": 32,
                    "parameter_share": 0.0223,
                    "relative_norm": 0.0417,
                    "effect": {"": 0.0, "ring": 0.3125},
                },
            },
        },
    },
    {
        "artefact": "receler-ring",
        "status": "ok",
        "facts": {
            "record": {
                "method": "receler",
                "version": "1",
                "concepts": ["ring"],
                "preserved": [],
                "parameters": {"iterations": 500},
                "change": {"tensors": 64, "parameter_share": 0.01, "relative_norm": None, "effect": {"ring": 0.5}},
            }
        },
    },
    {
        "artefact": "esd-x-checkpoint",
        "status": "ok",
        "facts": {
            "checkpoint": "models/vendor.safetensors",
            "claim": "esd-x",
            "warnings": ["the claim does not fit what was changed"],
            "facts": {
                "layout": "esd-2025",
                "tensors": 96,
                "changed_key_set": "KV",
                "parameter_share": 0.044,
                "relative_norm": 0.0123,
                "sha256": "5e" * 32,
            },
        },
    },
)


def poisoned(value: Any, name: str) -> Any:
    """The same document with every text in it set to `name`; keys stay, except those of free dictionaries."""
    if isinstance(value, dict):
        free = {"effect", "parameters"}
        return {
            key: {name: 0.5} if key in free and isinstance(item, dict) else poisoned(item, name)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [poisoned(item, name) for item in value]
    return name if isinstance(value, str) else value
