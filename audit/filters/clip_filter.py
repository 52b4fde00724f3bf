"""Block pictures by a CLIP model: phrases against a background, or a cosine.

With a background the share of the phrases is their softmax at the model's own temperature, as in zero-shot
classification (Radford et al. 2021, arXiv:2103.00020). With a cosine the nearest phrase alone decides.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audit.filters.clip_filter_parameters import METHOD
from audit.filters.loading import named
from audit.filters.protocol import Parts, PictureFilter, Pixels, Ruling
from audit.instruments.detectors.clip_zero_shot import load_clip, picture_embeddings, text_embeddings
from audit.methods.parameters import Values
from audit.weights.references import ModelRef


class ClipFilter(PictureFilter):
    """The CLIP filter with its text embeddings, made when the first picture is read."""

    name, version = METHOD.name, METHOD.version

    def __init__(self, model: ModelRef, device: str, values: Values) -> None:
        self._model, self._device, self._values = model, device, values
        self._texts: torch.Tensor | None = None

    def rule(self, pictures: Sequence[Pixels]) -> list[Ruling]:
        """Return one ruling per picture, with the cosine to the nearest phrase and the phrases' share."""
        with named(self.name):
            return self._rulings(pictures)

    def _rulings(self, pictures: Sequence[Pixels]) -> list[Ruling]:
        phrases = len(self._values["phrases"])
        cosines = (picture_embeddings(self._model, self._device, pictures) @ self._embeddings().T).cpu()
        nearest = cosines[:, :phrases].amax(1).tolist()
        if self._values["cosine"] is not None:
            return [Ruling(one >= self._values["cosine"], {"cosine": one}) for one in nearest]
        network, _, _ = load_clip(self._model, self._device)
        logits = network.logit_scale.exp().cpu().double() * cosines.double()
        shares = logits.softmax(-1)[:, :phrases].sum(-1).tolist()
        return [
            Ruling(share >= self._values["threshold"], {"cosine": one, "share": share})
            for one, share in zip(nearest, shares, strict=True)
        ]

    def _embeddings(self) -> torch.Tensor:
        """Return unit text embeddings, one row per phrase and then one per background prompt."""
        if self._texts is None:
            texts = [
                [template.replace("{phrase}", phrase) for template in self._values["templates"]]
                for phrase in self._values["phrases"]
            ]
            rows = [text_embeddings(self._model, self._device, group).mean(0) for group in texts]
            rows += [text_embeddings(self._model, self._device, [text])[0] for text in self._values["background"]]
            stacked = torch.stack(rows)
            self._texts = stacked / stacked.norm(dim=-1, keepdim=True)
        return self._texts


def build(values: Values, parts: Parts) -> ClipFilter:
    """Return a CLIP filter."""
    return ClipFilter(parts.model(values["model_sha256"]), parts.device, values)
