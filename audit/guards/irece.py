"""IRECE: at one timestep t*, Gaussian noise where the standard model's cross-attention sees the concept.

M-ErasureBench and IRECE, arXiv 2512.22877. No code and no equations of it are public; what is known is that maps of each
layer of the standard model theta_std for the concept's embedding are upsampled, aggregated and thresholded at tau = 0.4,
and that the latent is perturbed with xi ~ N(0, I) inside the mask:

    C2  A_l = softmax attention of every attn2 layer of theta_std(x, t*, c_tgt), one evaluation without guidance
    C3  a_l = mean over heads and the concept's tokens, upsampled to the latent's grid
    C4  A = mean_l a_l,  A~ = (A - min A) / (max A - min A),  M = [A~ >= tau]
    C5  replace  x* = (1 - M) x + M xi
        add      x* = x + M xi
        level    x* = (1 - M) x + M (sqrt(abar) z_ref + sqrt(1 - abar) xi)

`replace` is the literal reading. xi has unit variance there, and the model expects noise of sqrt(1 - abar) around a
scene; `level` gives it that. Attention is captured at t* only, on the standard model; every other step takes the fast
attention path. With guidance 1 and the null prompt nothing changes: c_tgt is the defender's own text. A map that is not finite
fails the case, whose picture then is not assessed: it is no sign that the concept is absent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from transformers import CLIPTokenizer, T5TokenizerFast

from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.denoisers import Denoiser
from audit.diffusion.guard import Conditioning, Guard, Predict, Step, case_generator
from audit.errors import CheckpointError
from audit.guards import localise
from audit.guards.building import Parts
from audit.guards.composed import compose, has_start, positions
from audit.guards.irece_parameters import METHOD
from audit.methods.parameters import Values

NAME = METHOD.name


@dataclasses.dataclass(frozen=True)
class Located:
    """Unnormalised and normalised maps (B, H, W) of the concept, and the noise (B, C, H, W) that was predicted with them."""

    scores: torch.Tensor
    maps: torch.Tensor
    noise: torch.Tensor
    calls: int  # evaluations of the standard model, per case


class Localiser:
    """Localisation of a concept in noisy latents by the standard model. `encode` maps texts to its states (B, L, D)."""

    def __init__(
        self,
        unet: Denoiser,
        tokenizer: CLIPTokenizer | T5TokenizerFast,
        encode: Callable[[list[str]], torch.Tensor],
        parameters: Values,
    ) -> None:
        self._unet, self._tokenizer, self._encode, self._p = unet, tokenizer, encode, parameters

    def locate(self, latents: torch.Tensor, timestep: float) -> Located:
        """Return the maps of the concept in `latents`, averaged over its phrases.

        Raises `CheckpointError` when no layer is of the kind asked for, and `SpecError` for a template that a phrase melts into.
        """
        each = [self._locate(phrase, latents, timestep) for phrase in self._p["phrases"]]
        scores = torch.stack([one.scores for one in each]).mean(0)
        maps = localise.smoothed(torch.stack([one.maps for one in each]).mean(0), self._p["smooth"])
        return Located(scores, localise.min_max(maps), each[0].noise, sum(one.calls for one in each))

    def _locate(self, phrase: str, latents: torch.Tensor, timestep: float) -> Located:
        how = self._p["localisation"]
        if how == "noise-difference":
            return self._difference(phrase, latents, timestep)
        composed = compose(self._p["template"], phrase)
        (word,), text = positions(self._tokenizer, composed), composed.text
        tokens = self._tokens(text, word)
        layers, noise = self._captured(text, latents, timestep)
        maps, calls = self._map(layers, tokens, latents), 1
        if how == "contrast-tokens":
            rest = [i for i in range(has_start(self._tokenizer), self._length(text) - 1) if i not in word]
            maps = maps - self._map(layers, rest, latents) if rest else maps
        if how == "contrast-neighbours":
            maps, calls = localise.min_max(maps) * self._share(phrase, latents, timestep), 2
        if how == "contrast-null":
            maps, calls = maps - self._map(self._captured("", latents, timestep)[0], tokens, latents), 2
        return Located(maps, maps, noise, calls)

    def _share(self, phrase: str, latents: torch.Tensor, timestep: float) -> torch.Tensor:
        """Return the concept's part (B, H, W), in 0..1, of the attention to it and its neighbours in a prompt that names all."""
        composed = compose(self._p["template"], phrase, self._p["neighbours"])
        layers, _ = self._captured(composed.text, latents, timestep)
        words = positions(self._tokenizer, composed)
        attracted = torch.stack([self._map(layers, word, latents) for word in words])
        return attracted[0] / attracted.sum(0).clamp_min(1e-8)

    def _difference(self, phrase: str, latents: torch.Tensor, timestep: float) -> Located:
        """Return DiffEdit's signal (Couairon et al. 2023, arXiv 2210.11427): the change of the prediction by the concept."""
        text = self._p["template"].replace("{phrase}", phrase)
        states = torch.cat([self._states(text, latents), self._states("", latents)])
        noise, null = self._predict(torch.cat([latents, latents]), timestep, states).chunk(2)
        change = (noise - null).abs().mean(1)
        smooth = localise.smoothed(change, 3)
        return Located(smooth, smooth, noise, 2)

    def _map(self, layers: list[torch.Tensor], tokens: Sequence[int], latents: torch.Tensor) -> torch.Tensor:
        per_layer = self._p["normalise"] == "layer"
        return localise.token_map(layers, tokens, latents.shape[-1], per_layer=per_layer)

    def _captured(self, text: str, latents: torch.Tensor, timestep: float) -> tuple[list[torch.Tensor], torch.Tensor]:
        with CrossAttentionMaps(self._unet, None) as captured:
            noise = self._predict(latents, timestep, self._states(text, latents))
        layers = localise.chosen_layers(captured.maps, self._p["layers"], self._p["sides"])
        if not layers:
            raise CheckpointError(
                "the backbone's UNet has no cross-attention layer of the kind that guard irece is told to look at",
                where=f"layers {self._p['layers']}, sides {list(self._p['sides']) or 'all'}",
                next_step="set layers to all and leave out sides",
            )
        return layers, noise

    def _predict(self, latents: torch.Tensor, timestep: float, states: torch.Tensor) -> torch.Tensor:
        dtype = self._unet.dtype
        return self._unet(latents.to(dtype), timestep, encoder_hidden_states=states.to(dtype)).sample.float()

    def _states(self, text: str, latents: torch.Tensor) -> torch.Tensor:
        return self._encode([text]).to(latents.device).expand(len(latents), -1, -1)

    def _length(self, text: str) -> int:
        return len(self._tokenizer(text)["input_ids"])

    def _tokens(self, text: str, word: list[int]) -> list[int]:
        end = self._length(text) - 1
        return {"word": word, "word-to-end": [*word, end], "end": [end]}[self._p["tokens"]]


class Irece(Guard):
    """The guard IRECE: perturb the latent once where the concept is. `parameters` are those of `IreceParameters`, resolved."""

    name = METHOD.name
    version = METHOD.version

    def __init__(self, localiser: Localiser, parameters: Values) -> None:
        self._localiser, self._p = localiser, parameters

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Choose the schedule's timestep nearest to t*. Raises ValueError without the cases' seeds."""
        super().begin(conditioning, timesteps)
        if len(conditioning.seeds) != len(conditioning.texts):
            raise ValueError("guard irece draws noise, so it needs the cases' seeds")
        self._seeds = conditioning.seeds
        self._at = min(timesteps, key=lambda t: abs(t - self._p["t_star"]))
        self._done = False  # several steps can round to one timestep

    def before_step(self, latents: torch.Tensor, step: Step, predict: Predict) -> torch.Tensor:
        """Return latents (B, C, h, w) with noise in the masked region at the step nearest to t*, unchanged at all others."""
        if step.timestep != self._at or self._done:
            return latents
        self._done = True
        located = self._localiser.locate(latents, step.timestep)
        masks = localise.binary(located.maps, self._p["tau"], self._p["dilation"])
        changed = latents.clone()
        for row in range(len(latents)):
            self.ledger.count(row, located.calls)
            if not _finite(located.scores[row], located.maps[row], located.noise[row]):
                self.ledger.fail(row, f"the concept's map is not finite at timestep {step.timestep}")
                continue
            mask = self._mask(row, masks[row], float(located.scores[row].max()))
            if mask is not None:
                changed[row] = self._perturbed(row, latents[row], located.noise[row], mask, step)
                self.ledger.act(row, step.timestep)
        return changed

    def _mask(self, row: int, located: torch.Tensor, score: float) -> torch.Tensor | None:
        """Return the mask (H, W) to perturb one case in, or None with a reason in the ledger."""
        area = float(located.float().mean())
        self.ledger.measure(row, score=score, located_area=area)
        if not bool(located.any()):
            self.ledger.idle(row, "the concept's map is flat: nothing is located")
            return None
        if self._p["gate"] and score < self._p["gate"]:
            self.ledger.idle(row, f"the concept's score stays below the gate of {self._p['gate']:g}")
            return None
        if not self._p["area_min"] <= area <= self._p["area_max"]:
            bounds = f"{self._p['area_min']:g} to {self._p['area_max']:g}"
            self.ledger.idle(row, f"the located area is not within {bounds} of the picture")
            return None
        mask = self._control(row, located)
        self.ledger.measure(row, mask_area=float(mask.float().mean()))
        self.ledger.say(row, mask_box=localise.box(mask), noise=self._p["noise"])
        return mask

    def _control(self, row: int, located: torch.Tensor) -> torch.Tensor:
        generator = case_generator(NAME, self._seeds[row], "mask")
        match self._p["mask"]:
            case "random":
                return localise.random_cells(located, generator)
            case "shifted":
                return localise.shifted(located, generator)
            case "full":
                return torch.ones_like(located)
            case _:
                return located

    def _perturbed(
        self, row: int, latent: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor, step: Step
    ) -> torch.Tensor:
        """Return one latent (C, H, W) after C5."""
        drawn = torch.randn(latent.shape, generator=case_generator(NAME, self._seeds[row], "noise")).to(latent)
        match self._p["noise"]:
            case "add":
                return latent + mask * drawn
            case "level":
                reference = self._reference(latent, noise, mask, step)
                fresh = step.level.noised(reference, drawn)
                return torch.where(mask, fresh, latent)
            case _:
                return torch.where(mask, drawn, latent)

    def _reference(self, latent: torch.Tensor, noise: torch.Tensor, mask: torch.Tensor, step: Step) -> torch.Tensor:
        """Return z_ref (C, 1, 1): the mean of the clean estimate outside the mask, or 0."""
        outside = ~mask
        if self._p["reference"] == "zero" or not bool(outside.any()):
            return latent.new_zeros(len(latent), 1, 1)
        clean = step.clean(latent, noise)
        return clean[:, outside].mean(1)[:, None, None]


def _finite(*values: torch.Tensor) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in values)


def build(values: Values, parts: Parts) -> Irece:
    """Return a new IRECE, which locates the concept with the backbone."""
    unet, tokenizer = parts.standard_unet(), parts.standard.attended
    return Irece(Localiser(unet, tokenizer, parts.encode_standard, values), values)
