"""SPM's facilitated transport (Lyu et al. 2024, arXiv 2312.16145): low-rank layers whose strength depends on the prompt.

As in the official script, every tensor of the SPM is multiplied by gamma, the closeness of the prompt to the concept. A
layer adds gamma^2 * alpha / rank * up(down(x)), in both branches of classifier-free guidance.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from audit.checkpoints.layouts import SpmFile
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import without_learned
from audit.diffusion.sampling import NoiseModel

Hook = Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]


class Transport:
    """SPM's layers hooked onto a UNet; `bind` sets their strength for each case of a batch."""

    def __init__(self, unet: nn.Module, spm: SpmFile, pipeline: Pipeline) -> None:
        self.prompts = spm.prompts
        self._pipeline, self._scale = pipeline, spm.alpha / spm.rank
        self._concepts = pipeline.encode_text(spm.prompts).flatten(1)
        self._ids = [self._words(prompt) for prompt in spm.prompts]
        self._known: dict[str, float] = {}
        self._gamma: torch.Tensor | None = None
        for path in spm.down:
            module = unet.get_submodule(path)
            like = next(module.parameters())
            pair = [t.load().to(like.device, like.dtype) for t in (spm.down[path], spm.up[path])]
            module.register_forward_hook(self._hook(*pair))

    def multiplier(self, text: str) -> float:
        """Return gamma in [-1, 1], the larger of the text states' cosine and the prompt's share of the concept's tokens."""
        if text not in self._known:
            states = self._pipeline.encode_text([text]).flatten(1)
            cosine = torch.cosine_similarity(states, self._concepts, dim=-1).max()
            words = self._words(text)
            shared = max(len(words & concept) / len(concept) if concept else 0.0 for concept in self._ids)
            self._known[text] = max(float(cosine), shared)
        return self._known[text]

    def bind(self, model: NoiseModel, texts: Sequence[str]) -> NoiseModel:
        """Return `model` with each case's own multiplier. Batches hold the cases in order, once for each guidance branch.

        Differentiate a prediction before the next one is computed: blocks recomputed for the backward pass use the
        multipliers of the latest prediction. Raises ValueError without texts, and when a batch is no multiple of them.
        """
        if not texts:
            raise ValueError("SPM acts by prompt, so its noise model needs the prompts of the batch")
        gamma = torch.tensor([self.multiplier(text) for text in texts], device=self._pipeline.device)

        def predict(latents: torch.Tensor, timestep: float | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
            """Return the model's prediction (B, C, h, w), with each row's membrane as strong as its prompt asks for."""
            if len(latents) % len(gamma):
                raise ValueError(f"a batch of {len(latents)} latents for {len(gamma)} prompts")
            self._gamma = gamma.repeat(len(latents) // len(gamma))
            kept = False
            try:
                noise = model(latents, timestep, states)
                # Checkpointed blocks are computed again for the backward pass, after this returned, and need it then.
                kept = noise.requires_grad
                return noise
            finally:
                if not kept:
                    self._gamma = None

        return predict

    def _words(self, text: str) -> set[int]:
        tokenizer = self._pipeline.tokenizer
        return set(tokenizer(without_learned(text))["input_ids"]) - set(tokenizer.all_special_ids)

    def _hook(self, down: torch.Tensor, up: torch.Tensor) -> Hook:
        def add(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
            """Return a layer's output with the membrane's low-rank change, times the strength of each row (B,)."""
            if self._gamma is None:
                raise ValueError("the UNet of an SPM is run through `Transport.bind` only")
            hidden = inputs[0]
            if down.dim() == 4:
                assert isinstance(module, nn.Conv2d)
                low = nn.functional.conv2d(hidden, down, stride=module.stride, padding=module.padding)
                change = nn.functional.conv2d(low, up)
            else:
                change = nn.functional.linear(nn.functional.linear(hidden, down), up)
            strength = (self._gamma**2 * self._scale).to(output.dtype)
            return output + change * strength.view(-1, *[1] * (output.dim() - 1))

        return add
