"""Three steps of textual inversion against the script that it reproduces: AdamW on the whole table, other rows put back."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from audit import identity
from audit.attacks.embedding_learner import Learner, learn
from audit.attacks.parameters import TextualInversionParameters
from audit.attacks.training_prompts import Prompts
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.progress import Session
from audit.weights.references import resolve_model
from tests.tiny_families import write_sd2

RATES = (0.02, 0.1)
DECAY = 0.5  # strong enough to be seen in three steps
PARAMETERS = TextualInversionParameters(
    iterations=3,
    batch_size=4,
    learning_rates=RATES,
    weight_decay=DECAY,
    tokens=2,
    initial="o",
    images=3,
    templates=("a {attack}", "{attack} b c"),
)
SEED = 7


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_steps_are_those_of_the_published_script(family: str, pipeline: Pipeline, tmp_path: Path) -> None:
    if family == "sd2":
        pipeline = load_pipeline(resolve_model(str(write_sd2(tmp_path / "sd2"))), torch.device("cpu"))
    pictures = torch.randn(3, 2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(3))
    made = Learner(Prompts(pipeline, PARAMETERS), noise_model(pipeline.unet), pictures, PARAMETERS, SEED, 8)
    untouched = {name: tensor.clone() for name, tensor in pipeline.text_encoder.state_dict().items()}
    learn([made], [Session()])

    tokenizer = pipeline.tokenizer
    count = len(tokenizer)
    placeholders = [count, count + 1]
    o, a, b, c = (tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in "oabc")
    start, end, pad = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    templates = torch.tensor(
        [ids + [pad] * (16 - len(ids)) for ids in ([start, a, *placeholders, end], [start, *placeholders, b, c, end])]
    )
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    for number, rate in enumerate(RATES):
        encoder = copy.deepcopy(pipeline.text_encoder)
        encoder.resize_token_embeddings(count + 2, mean_resizing=False)
        table = encoder.get_input_embeddings().weight
        table.requires_grad_()
        with torch.no_grad():
            table[placeholders] = table[o].clone()
        before = table.detach().clone()
        optimiser = torch.optim.AdamW([table], lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
        for iteration in range(3):
            purpose = {"attack": "textual-inversion", "seed": SEED, "purpose": "train", "number": iteration}
            generator = torch.Generator().manual_seed(identity.int_key(purpose))
            which = torch.randint(3, (4,), generator=generator)
            mirrored = (torch.rand(4, generator=generator) < 0.5).long()
            timesteps = torch.randint(1000, (4,), generator=generator)
            texts = torch.randint(2, (4,), generator=generator)
            noise = torch.randn((4, *pipeline.latent_shape), generator=generator)
            share = kept[timesteps].float().view(4, 1, 1, 1)
            clean = pictures[which, mirrored]
            noisy = share.sqrt() * clean + (1 - share).sqrt() * noise
            target = noise if family == "sd1" else share.sqrt() * noise - (1 - share).sqrt() * clean

            states = encoder(templates[texts]).last_hidden_state
            predicted = pipeline.unet(noisy, timesteps, encoder_hidden_states=states).sample
            loss = ((predicted - target) ** 2).mean()
            (table.grad,) = torch.autograd.grad(loss, [table])
            optimiser.step()
            with torch.no_grad():
                table[:count] = before[:count]
            assert made.losses[iteration][number] == pytest.approx(float(loss.detach()), rel=1e-4)

        vector, gradient = made.vectors[number], made.vectors[number].grad
        assert gradient is not None and float(table.grad[[start, a, b, c]].abs().sum()) > 0  # others had one too
        assert float((gradient - table.grad[placeholders]).norm()) < 1e-4 * float(gradient.norm()) > 0
        moved, wanted = vector.detach() - before[o], table.detach()[placeholders] - before[o]
        assert float((moved - wanted).norm()) < 1e-4 * float(wanted.norm())
    assert all(torch.equal(untouched[name], tensor) for name, tensor in pipeline.text_encoder.state_dict().items())


def test_presets_have_the_published_values() -> None:
    """The example's README: base rate 5e-4, batches of 1 accumulated 4 times. Concept Inversion: 5e-3, 4 and 4 times."""
    names = ("iterations", "learning_rates", "batch_size", "tokens", "weight_decay", "flip")
    published = {
        "diffusers": (3000, (5e-4 * 1 * 4,), 1 * 4, 1, 1e-2, 0.5),
        "concept-inversion": (5000, (5e-3 * 4 * 4,), 4 * 4, 1, 1e-2, 0.5),
    }
    for preset, values in published.items():
        parameters = TextualInversionParameters.model_validate(TextualInversionParameters.PRESETS[preset])
        assert tuple(getattr(parameters, name) for name in names) == values
    assert parameters.images == 25
