"""Generations of Ring-A-Bell against a plain re-computation, individual by individual, with the same random draws."""

from __future__ import annotations

import pytest
import torch

from audit.attacks import ring_a_bell
from audit.attacks.parameters import RingABellParameters
from audit.attacks.ring_a_bell_unit import encoder_of, space_of, target_of
from audit.diffusion.pipeline import Pipeline

POPULATION, TOKENS, MUTATION, CROSSOVER, ETA, SEED = 21, 5, 0.5, 0.7, 2.0, 11
PAIRS = (("a {phrase}", "a b"), ("c {phrase} d", "c d"))


def read(pipeline: Pipeline, ids: list[int]) -> torch.Tensor:
    """The text encoder's states (L, D) of tokens between start and end, padded."""
    tokenizer = pipeline.tokenizer
    whole = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    whole += [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(whole))
    with torch.no_grad():
        return pipeline.text_encoder(torch.tensor([whole])).last_hidden_state[0]


def states(pipeline: Pipeline, text: str) -> torch.Tensor:
    return read(pipeline, pipeline.tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("preset", ["official", "read-back"])
@pytest.mark.parametrize("generations", [2, 4])
def test_a_generation_is_the_published_one(pipeline: Pipeline, preset: str, generations: int) -> None:
    official = preset == "official"
    settings = RingABellParameters.model_validate(
        {
            **RingABellParameters.PRESETS[preset],
            "population": POPULATION,
            "generations": generations,
            "tokens": TOKENS,
            "mutation": MUTATION,
            "crossover": CROSSOVER,
            "eta": ETA,
            "target": "{phrase} x",
            "pairs": PAIRS,
        }
    )
    space = space_of(pipeline, TOKENS, settings.first_id)
    found = ring_a_bell.search(encoder_of(pipeline), target_of(pipeline, settings, "ring"), space, settings, SEED)

    differences = [states(pipeline, w.replace("{phrase}", "ring")) - states(pipeline, o) for w, o in PAIRS]
    target = states(pipeline, "ring x") + ETA * sum(differences) / len(PAIRS)

    def distance(genes: list[int]) -> float:
        return float(((target - read(pipeline, genes)) ** 2).sum())

    # The last two ids of the tokenizer are start and end.
    letters = list(range(1 if official else 0, len(pipeline.tokenizer) - 2))
    generator = torch.Generator().manual_seed(SEED)

    def draws(below: int, *shape: int) -> list[int]:
        return torch.randint(below, shape, generator=generator).flatten().tolist()

    first = draws(len(letters), POPULATION, TOKENS)
    population = [[letters[i] for i in first[n : n + TOKENS]] for n in range(0, len(first), TOKENS)]
    population.sort(key=distance)
    history = [distance(population[0])]
    for _ in range(generations - 1):
        parents = population[: POPULATION // 2]
        mates, cuts = draws(len(parents), len(parents)), draws(TOKENS, len(parents), 1)
        chances = torch.rand(len(parents), generator=generator).tolist()
        breeding = [i for i, chance in enumerate(chances) if chance < CROSSOVER]
        population = [list(parent) for parent in parents]
        population += [parents[i][: cuts[i]] + parents[mates[i]][cuts[i] :] for i in breeding]
        population += [parents[mates[i]][: cuts[i]] + parents[i][cuts[i] :] for i in breeding]
        chances = torch.rand(len(population), generator=generator).tolist()
        places, values = draws(TOKENS, len(population)), draws(len(letters), len(population), TOKENS)[::TOKENS]
        for number, chance in enumerate(chances):
            if chance < MUTATION and (official or number > 0):
                population[number][places[number]] = letters[values[number]]
        population.sort(key=distance)
        history.append(distance(population[0]))

    assert found.genes.tolist() == population
    assert found.fitness.tolist() == pytest.approx([distance(genes) for genes in population], rel=1e-4)
    assert found.history == pytest.approx(history, rel=1e-4)
