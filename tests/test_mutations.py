"""The fuzz harness's damage: the same every time, and damage at all."""

import random

from tests.mutations import MAX_BYTES, mutate, mutations

SEEDS = (b'{"name": "Paris", "steps": 10}\n', b"\x89PNG\r\n\x1a\n" + bytes(64), b"")


def test_the_same_seed_gives_the_same_mutations_and_another_seed_gives_others() -> None:
    first = list(mutations(SEEDS, 200, 7))
    assert first == list(mutations(SEEDS, 200, 7))
    assert first[:50] == list(mutations(SEEDS, 50, 7)), "a mutation depends on its index, not on how many are asked for"
    assert first != list(mutations(SEEDS, 200, 8))


def test_nearly_every_mutation_is_damage() -> None:
    changed = [mutated for index, mutated in enumerate(mutations(SEEDS[:2], 400, 1)) if mutated != SEEDS[index % 2]]
    assert len(changed) > 340
    assert len(set(changed)) > 300


def test_a_mutation_never_grows_past_its_limit() -> None:
    data, rng = b"[" * 1000, random.Random(3)
    for _ in range(200):
        data = mutate(data, rng) or b"["
        assert len(data) <= MAX_BYTES
