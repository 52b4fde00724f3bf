"""The pictures of DreamBooth's prior-preservation loss: what the model itself draws before it is trained."""

from __future__ import annotations

import safetensors
import safetensors.torch
import torch

from audit import identity
from audit.attacks.protocol import Search
from audit.attacks.relearning_parameters import RelearningParameters
from audit.diffusion.guard import Conditioning
from audit.diffusion.sampling import sample
from audit.files import write_atomically


def prior_latents(search: Search, p: RelearningParameters) -> torch.Tensor:
    """Return the latents (N, C, h, w) of pictures of each of the prior's prompts in turn, on the CPU.

    The published code decodes and encodes them again; here they stay latents. An interrupted training finds them in the
    session's folder.
    """
    path = search.session.folder / "prior.safetensors" if search.session.folder else None
    if path and path.exists():
        try:
            stored: torch.Tensor = safetensors.torch.load_file(path)["latents"]
            return stored
        except (OSError, KeyError, safetensors.SafetensorError):
            pass
    latents = _sampled(search, p)
    if path:
        write_atomically(path, lambda partial: safetensors.torch.save_file({"latents": latents}, partial))
    return latents


def _sampled(search: Search, p: RelearningParameters) -> torch.Tensor:
    models, pipeline = search.models, search.models.pipeline
    reader, stage, made = models.reader(search.model), "pictures of the prior", list[torch.Tensor]()
    schedule, null = pipeline.schedule(p.prior_steps), reader.encode_text([""])
    search.session.listener.begin(stage, p.prior_pictures, 0)
    for start in range(0, p.prior_pictures, search.batch_size):
        numbers = range(start, min(start + search.batch_size, p.prior_pictures))
        texts = tuple(p.prior_prompts[number % len(p.prior_prompts)] for number in numbers)
        seeds = [identity.int_key({"prior": number, "seed": search.seed}) % 2**31 for number in numbers]
        noise = [
            torch.randn(pipeline.latent_shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds
        ]  # fmt: skip
        states = reader.encode_text(list(texts))
        guidance = 1.0 if pipeline.distilled else p.prior_guidance
        conditioning = Conditioning(states, null.expand(len(texts), -1, -1), guidance, texts, tuple(seeds))
        model = models.noise_model(search.model, "float32", texts, p.prior_guidance)
        made.append(sample(model, schedule, torch.stack(noise).to(pipeline.device), conditioning).latents.cpu())
        search.session.listener.update(stage, numbers.stop)
    search.session.listener.end(stage)
    return torch.cat(made)
