"""UnlearnDiffAtk: tokens before a prompt, found through the erased network's own noise-prediction loss; white box.

Zhang et al. 2023, "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images",
arXiv 2310.11868. For a target picture z0 and a prompt c' with K searched tokens before it:

    c* = argmin over c'  E_{t, eps} || eps - eps_theta*(x_t, t, c') ||^2        theta* are the erased weights

No classifier and no other diffusion model takes part. Timesteps are taken one after another, each for several iterations.

Differences from the official code: gradient steps are signed ones on embeddings, projected to the nearest token, where it
relaxes one-hot vectors over the whole vocabulary; the best tokens are those with the lowest loss on held-out draws, read
as text, and no audited picture is looked at, where it draws a picture after each timestep and stops at the first success;
targets are pictures of the corpus.

Its control is in the same unit: as many random tokens in the same places, for the same model.
"""

from __future__ import annotations

import torch

from audit import identity
from audit.attacks.protocol import Found, Search
from audit.attacks.token_prompt import TokenPrompt, prefixed
from audit.attacks.token_search import Noised, TokenSearch
from audit.attacks.token_search_parameters import UnlearnDiffAtkParameters
from audit.attacks.token_search_unit import picture_latents, run_searches
from audit.diffusion.levels import target_of
from audit.diffusion.sampling import NoiseModel


class DenoisingSearch(TokenSearch):
    """The search for tokens with which a network denoises a picture; e <- e - lr sign(g)."""

    def __init__(
        self, prompt: TokenPrompt, predict: NoiseModel, latents: torch.Tensor, seed: int, p: UnlearnDiffAtkParameters
    ) -> None:
        self.p = p
        super().__init__(
            prompt, predict, latents, seed,
            total=p.timesteps * p.iterations, check_every=p.iterations, held_out=p.held_out,
        )  # fmt: skip

    def made_optimiser(self, embeddings: torch.Tensor) -> torch.optim.Optimizer:
        """Return plain gradient descent."""
        return torch.optim.SGD([embeddings], self.p.learning_rate)

    def direction(self, gradient: torch.Tensor) -> torch.Tensor:
        """Return the gradient's sign."""
        return gradient.sign()

    def timestep(self, step: int, generator: torch.Generator) -> int:
        """Return the step's timestep: they are taken one after another, evenly spread, each several times."""
        place = step // self.p.iterations
        return int((place + 0.5) / self.p.timesteps * len(self.levels))

    def target(self, noised: Noised) -> torch.Tensor:
        """Return what the network would predict if it drew the picture."""
        return target_of(self.prompt.pipeline.kind, noised.signal, noised.level, noised.clean, noised.noise)


def run(search: Search) -> Found:
    """Search tokens for each item, and draw random ones for each control; a failed item keeps its row, with the reason."""
    return run_searches(search, UnlearnDiffAtkParameters.model_validate(search.parameters), search_of)


def search_of(search: Search, number: int) -> DenoisingSearch:
    """Return the search of one number at its beginning."""
    p = UnlearnDiffAtkParameters.model_validate(search.parameters)
    reader, text = search.models.reader(search.model), p.prompt_of(search.concept.phrase)
    return DenoisingSearch(
        TokenPrompt(reader, prefixed(reader, text, p.tokens), text),
        search.models.noise_model(search.model, "float32", [text]),
        picture_latents(search, number, reader),
        identity.int_key({"seed": search.seed, "number": number}),
        p,
    )
