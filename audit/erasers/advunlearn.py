"""AdvUnlearn: an adversarially trained text encoder (Zhang et al. 2024, arXiv 2405.15234; code OPTML-Group/AdvUnlearn).

The text encoder E is trained, with the UNet eps frozen, against an attacker that puts k input embeddings a before the
prompt (numbers in brackets are this file's own; eps_0, eps_p: predictions with the first encoder E_0):

(1) a = argmin || eps(x_t, E([a; c])) - eps_p ||^2                     a few steps of Adam, each on latents of its own
(2) L_erase  = || eps(x_t, E([a; c])) - (eps_0 - eta (eps_p - eps_0)) ||^2
(3) L_retain = || eps(x_t', E(r)) - eps(x_t', E_0(r)) ||^2             r: prompts to retain
(4) L        = L_erase + w L_retain
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import nn
from transformers import CLIPTextModel

from audit.diffusion.pipeline import Pipeline
from audit.diffusion.placeholder_tokens import encode_embeddings
from audit.diffusion.training import Training
from audit.erasers.advunlearn_parameters import METHOD, AdvUnlearnParameters
from audit.erasers.base import Made, training_key
from audit.erasers.latents import Latents, Noisy, predict
from audit.erasers.phrases import Prompt, prompts, slug
from audit.erasers.produce import TEXT_PREFIX
from audit.erasers.token_states import preserved
from audit.errors import EraserError
from audit.methods.parameters import Values
from audit.progress import Session
from audit.spec.sections import Concept

NAME = METHOD.name


def erase(pipeline: Pipeline, concepts: Sequence[Concept], parameters: Values, session: Session) -> Made:
    """Return the whole text encoder, by its names in transformers 4. Each iteration erases one prompt drawn at random.

    Raises `SpecError` for a phrase that the text encoder cannot read, and `EraserError` when training diverges or the
    attack has no room before the prompt.
    """
    options = AdvUnlearnParameters(**parameters)
    key = training_key(pipeline, NAME, concepts, options)
    targets = prompts(pipeline, concepts, options.templates, options.synonyms)
    kept = preserved(concepts, options.preserve_neighbours)
    retained = _retained(
        pipeline, [*kept.values(), *(Concept(name=f"r{i}", phrase=p) for i, p in enumerate(options.retain))], options
    )
    encoder = copy.deepcopy(pipeline.text_encoder).requires_grad_(False)
    trained = {name: p.requires_grad_(True) for name, p in encoder.named_parameters() if "embeddings." not in name}
    step = _Step(pipeline, encoder, targets, retained, options, list(trained.values()))
    training = Training(
        NAME,
        key,
        {**trained, **{f"attack.{i}": one for i, one in enumerate(step.attacks)}},
        {"weights": step.optimiser},
        iterations=options.iterations,
        seed=options.seed,
        session=session,
    )
    step.latents.fill_pool(f"{key[:8]}-erased", session)
    step.others.fill_pool(f"{key[:8]}-kept", session)
    training.run(lambda generator: step(generator, training.done))
    state = {name.removeprefix(TEXT_PREFIX): tensor for name, tensor in encoder.state_dict().items()}
    return Made(
        layout="text-encoder",
        tensors={
            f"{TEXT_PREFIX}{name}": tensor.detach().float().cpu().contiguous()
            for name, tensor in state.items()
            if not name.endswith("position_ids")
        },
        filename=f"advunlearn-{slug(concepts)}-text-encoder.safetensors",
        prompts=tuple(target.text for target in targets),
        preserved=tuple(kept),
        curve=training.curve,
        seconds=training.seconds,
    )


def _retained(pipeline: Pipeline, kept: Sequence[Concept], options: AdvUnlearnParameters) -> tuple[Prompt, ...]:
    """Return the prompts that are retained; always the null prompt among them."""
    named = prompts(pipeline, kept, ("{phrase}", *options.retain_templates), False) if kept else ()
    return (Prompt("", "", pipeline.encode_text([""]), range(0)), *named)


class _Step:
    """One iteration: an attack where one is due, then one step of the text encoder."""

    def __init__(
        self,
        pipeline: Pipeline,
        encoder: CLIPTextModel,
        targets: Sequence[Prompt],
        retained: Sequence[Prompt],
        options: AdvUnlearnParameters,
        trained: Sequence[nn.Parameter],
    ) -> None:
        self.pipeline, self.encoder, self.targets, self.options = pipeline, encoder, targets, options
        self.retained = retained
        self.optimiser = torch.optim.Adam(trained, lr=options.learning_rate)
        self.latents = Latents(pipeline, self.frozen, self.frozen, options, concepts=targets)
        others = options.model_copy(update={"batch_size": options.retain_batch, "seed": (options.seed + 1) % 2**31})
        self.others = Latents(pipeline, self.frozen, self.frozen, others, concepts=retained)
        self.attacks = self._first_attacks()

    def frozen(self, latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """Return the UNet's prediction."""
        return predict(self.pipeline.unet, latents, timesteps, states, self.options.compute)

    def __call__(self, generator: torch.Generator, done: int) -> torch.Tensor:
        options = self.options
        which, noisy = self.latents.draw(generator)
        attacking = self.attacks and done >= options.warm_up
        if attacking and (done - options.warm_up) % options.adversarial_every == 0:
            self._attack(which, generator)
        states = self.states(self.targets[which].text, self.attacks[which].detach() if attacking else None)
        wanted = noisy.null - options.negative_guidance * (noisy.prompt - noisy.null)
        loss = nn.functional.mse_loss(self._predicted(noisy, states), wanted)  # (2)
        if options.preserve_scale:
            other, kept = self.others.draw(generator)
            held = self._predicted(kept, self.states(self.retained[other].text, None))
            loss = loss + options.preserve_scale * nn.functional.mse_loss(held, kept.prompt)  # (4)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss

    def states(self, text: str, attack: torch.Tensor | None) -> torch.Tensor:
        """Return the trained encoder's states (1, L, D) of a prompt, with the attack (k, D) before its first word."""
        ids = self.pipeline.tokens([text]).ids.to(self.pipeline.device)
        embeddings = self.encoder.embeddings.token_embedding(ids)
        if attack is not None:
            length, count = ids.shape[1], len(attack)
            embeddings = torch.cat([embeddings[:, :1], attack[None], embeddings[:, 1:]], 1)[:, :length]
            ids = torch.cat([ids[:, :1], ids[:, 1:2].expand(-1, count), ids[:, 1:]], 1)[:, :length]
        return encode_embeddings(self.encoder, ids, embeddings).last_hidden_state

    def _predicted(self, noisy: Noisy, states: torch.Tensor) -> torch.Tensor:
        return self.frozen(noisy.latents, noisy.timesteps, states.expand(len(noisy.latents), -1, -1))

    def _attack(self, which: int, generator: torch.Generator) -> None:
        """Take the attack's steps (1), in place."""
        options, attack = self.options, self.attacks[which]
        if options.adversarial_init == "random":
            with torch.no_grad():
                attack.copy_(self._words(generator))
        optimiser, gradient = torch.optim.Adam([attack], lr=options.adversarial_learning_rate), torch.zeros_like(attack)
        for _ in range(options.adversarial_iterations):
            _, noisy = self.latents.draw(generator, which)
            fooled = nn.functional.mse_loss(
                self._predicted(noisy, self.states(self.targets[which].text, attack)), noisy.prompt
            )
            (new,) = torch.autograd.grad(fooled, [attack])
            gradient = gradient + new if options.accumulate else new
            if options.attack == "fast_at":
                gradient = gradient.sign()
            attack.grad = gradient
            optimiser.step()
        attack.grad = None

    def _words(self, generator: torch.Generator) -> torch.Tensor:
        """Return the input embeddings (k, D) of words drawn from the vocabulary."""
        table = self.encoder.embeddings.token_embedding.weight
        rows = torch.randint(len(table), (self.options.adversarial_tokens,), generator=generator)
        return table[rows.to(table.device)].detach().clone()

    def _first_attacks(self) -> list[nn.Parameter]:
        if not self.options.adversarial_tokens:
            return []
        for target in self.targets:
            tokens = self.pipeline.tokens([target.text])
            room = tokens.ids.shape[1] - tokens.lengths[0]
            if room < self.options.adversarial_tokens:
                raise EraserError(
                    f"before {target.text!r} the text encoder has room for {room} more tokens",
                    where="adversarial_tokens",
                    next_step=f"lower it to {room}, or shorten the template",
                )
        generator = torch.Generator().manual_seed(2**45 + self.options.seed)
        return [nn.Parameter(self._words(generator)) for _ in self.targets]
