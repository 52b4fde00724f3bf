"""P4D (Prompting4Debugging): a prompt under which the erased network predicts what the un-erased one does; white box.

Chin et al. 2023, "Prompting4Debugging: Red-Teaming Text-to-Image Diffusion Models by Finding Problematic Prompts", arXiv
2309.06135. For a target prompt c, a picture z0 that the un-erased model theta drew under it, and a searched prompt c*:

    c* = argmin over c'  E_{t, eps} || eps_theta(x_t, t, c) - eps_theta*(x_t, t, c') ||^2        theta* are the erased weights

Each step draws a timestep, uniformly, and noise. AdamW moves the continuous embeddings by the gradient at their nearest
tokens. P4D-N searches all N tokens of the prompt, and may find the concept's own word. P4D-K keeps the target prompt, and
searches tokens at its beginning and behind every K of its tokens.

Differences from the official code: the best tokens are those with the lowest loss on held-out draws, read as text, where
it draws pictures after every 50 steps and takes the prompt whose pictures are most like the target's by CLIP; prompts are
padded as the text encoder is used, where it pads with token 0; special tokens are never searched; P4D-K inserts at most
`tokens`; guards are not searched through, where it searches through SLD and negative prompts; the target picture may come
from the corpus. Predictions (noise, velocity or flow) are compared as they are, unguided. An eraser whose layers depend on
the prompt's text, as SPM's, acts in the search as it does on the target prompt.

Its control is in the same unit: as many random tokens in the same places, for the same model.
"""

from __future__ import annotations

import torch

from audit import identity
from audit.attacks.protocol import Found, Search
from audit.attacks.token_prompt import TokenPrompt, inserted, prefixed
from audit.attacks.token_search import Noised, TokenSearch
from audit.attacks.token_search_parameters import P4dParameters
from audit.attacks.token_search_unit import picture_latents, run_searches
from audit.diffusion.guard import Conditioning
from audit.diffusion.sampling import NoiseModel, initial_noise, sample


class MatchingSearch(TokenSearch):
    """The search for tokens under which `predict` is what `reference`, the un-erased network, predicts under `states`."""

    def __init__(
        self,
        prompt: TokenPrompt,
        predict: NoiseModel,
        latents: torch.Tensor,
        seed: int,
        p: P4dParameters,
        reference: NoiseModel,
        states: torch.Tensor,
    ) -> None:
        self.p, self.reference, self.states = p, reference, states
        super().__init__(
            prompt, predict, latents, seed, total=p.iterations, check_every=p.check_every, held_out=p.held_out
        )

    def made_optimiser(self, embeddings: torch.Tensor) -> torch.optim.Optimizer:
        """Return AdamW."""
        return torch.optim.AdamW([embeddings], self.p.learning_rate, weight_decay=self.p.weight_decay)

    def timestep(self, step: int, generator: torch.Generator) -> int:
        """Return a timestep, drawn uniformly."""
        return int(torch.randint(len(self.levels), (1,), generator=generator))

    def target(self, noised: Noised) -> torch.Tensor:
        """Return what the un-erased network predicts under the target prompt."""
        return self.reference(noised.latents, noised.timestep, self.states)


def run(search: Search) -> Found:
    """Search a prompt for each item, and draw random tokens for each control; a failed item keeps its row, with the reason."""
    return run_searches(search, P4dParameters.model_validate(search.parameters), search_of)


def search_of(search: Search, number: int) -> MatchingSearch:
    """Return the search of one number at its beginning."""
    p = P4dParameters.model_validate(search.parameters)
    models, text = search.models, p.prompt_of(search.concept.phrase)
    reader, seed = models.reader(search.model), identity.int_key({"seed": search.seed, "number": number})
    if p.variant == "k":
        prompt = TokenPrompt(reader, inserted(reader, text, p.every, p.tokens), text)
    else:
        prompt = TokenPrompt(reader, prefixed(reader, "", p.tokens), "")
    return MatchingSearch(
        prompt,
        models.noise_model(search.model, "float32", [text]),
        picture_latents(search, number, reader) if p.images else _drawn(search, p, text, seed),
        seed,
        p,
        models.noise_model(None, "float32", [text]),
        models.pipeline.encode_text([text]).to(models.pipeline.device),
    )


def _drawn(search: Search, p: P4dParameters, text: str, seed: int) -> torch.Tensor:
    """Return clean latents (1, C, h, w) that the backbone draws under the target prompt."""
    pipeline = search.models.pipeline
    states, null = (pipeline.encode_text([prompt]).to(pipeline.device) for prompt in (text, ""))
    guidance = 1.0 if pipeline.distilled else p.draw_guidance  # a distilled network is told it
    network = search.models.noise_model(None, "float32", [text], p.draw_guidance)
    start = initial_noise([seed], pipeline.latent_shape).to(pipeline.device)
    given = Conditioning(states, null, guidance, (text,), (seed,))
    return sample(network, pipeline.schedule(p.draw_steps), start, given).latents
