"""Negative prompt: the unconditional branch is replaced by the prediction for a text that names what to avoid.

eps = eps_neg + g (eps_p - eps_neg). With guidance 1 the branch is never evaluated, so the guard cannot act: it reports
`acted: false` instead of pretending. Parameters: `text`, or the concept's phrase when absent.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import torch

from audit.guards.base import Conditioning, Guard

NAME = "negative-prompt"
VERSION = "1"


class NegativePrompt(Guard):
    """Replaces the null embedding by the embedding of `text`; `encode` maps texts to states (B, L, D)."""

    name = NAME
    version = VERSION

    def __init__(self, text: str, encode: Callable[[list[str]], torch.Tensor]) -> None:
        self.text = text
        self._encode = encode
        self._acted: list[bool] = []

    def condition(self, conditioning: Conditioning) -> Conditioning:
        acts = conditioning.guidance != 1.0
        self._acted = [acts] * len(conditioning.texts)
        if not acts:
            return conditioning
        negative = self._encode([self.text]).to(conditioning.null)
        return dataclasses.replace(conditioning, null=negative.expand_as(conditioning.null))

    def report(self) -> list[dict[str, Any]]:
        """Per case: the exact text's digest and whether it took part."""
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        return [{"guard": NAME, "acted": acted, "text_sha256": digest} for acted in self._acted]
