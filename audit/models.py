"""The models of one worker process: the backbone and a few erased UNets, loaded when first needed."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import safetensors.torch
import torch
from diffusers import UNet2DConditionModel

from audit.backbones import Pipeline, load_pipeline, noise_model
from audit.checkpoints import apply_weights
from audit.guards import negative_prompt
from audit.guards.base import Guard
from audit.journal import Journal
from audit.model_refs import ModelRef
from audit.sampling import NoiseModel

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_KEPT = 2  # erased UNets held in memory; a run visits defences in order, so more would only cost memory


class Models:
    """Backbone, erased UNets and guards of one process on one device."""

    def __init__(self, ref: ModelRef, journal: Journal, device: torch.device) -> None:
        self.ref, self.journal, self.device = ref, journal, device
        self._pipeline: Pipeline | None = None
        self._unets: OrderedDict[tuple[str | None, str], UNet2DConditionModel] = OrderedDict()
        self._states: dict[str, torch.Tensor] = {}

    @property
    def pipeline(self) -> Pipeline:
        """The backbone, loaded on first use."""
        if self._pipeline is None:
            self._pipeline = load_pipeline(self.ref, self.device)
        return self._pipeline

    def noise_model(self, erase_key: str | None, dtype: str = "float32") -> NoiseModel:
        """The noise prediction of the backbone (None) or of the erased model whose weights the journal holds."""
        wanted = (erase_key, dtype)
        if wanted not in self._unets:
            self._unets[wanted] = self._load(erase_key, _DTYPES[dtype])
            while len(self._unets) > _KEPT:
                self._unets.popitem(last=False)
        self._unets.move_to_end(wanted)
        return noise_model(self._unets[wanted])

    def _load(self, erase_key: str | None, dtype: torch.dtype) -> UNet2DConditionModel:
        unet = self.pipeline.unet
        if erase_key is not None:
            weights = safetensors.torch.load(self.journal.blob("erase", erase_key))
            unet, _ = apply_weights(unet, weights, f"erase unit {erase_key}")
        elif unet.dtype != dtype:
            unet = copy.deepcopy(unet)  # `to` works in place and the float32 backbone is still needed
        return unet.to(dtype)

    def states(self, texts: Sequence[str]) -> torch.Tensor:
        """Text-encoder states (B, L, D); every different text is encoded once per process."""
        for text in dict.fromkeys(texts):
            if text not in self._states:
                self._states[text] = self.pipeline.encode_text([text])[0]
        return torch.stack([self._states[text] for text in texts])

    def guards(self, described: Sequence[Mapping[str, Any]]) -> list[Guard]:
        """Fresh guards for one batch, in the spec's order."""
        return [_GUARDS[guard["name"]](guard["parameters"], self.states) for guard in described]


_GUARDS: Mapping[str, Callable[[Mapping[str, Any], Callable[[list[str]], torch.Tensor]], Guard]] = {
    negative_prompt.NAME: lambda parameters, encode: negative_prompt.NegativePrompt(parameters["text"], encode),
}
