"""RECE and SPEED against plain loops written from their papers' formulas."""

from __future__ import annotations

import pytest
import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers import rece, speed, uce
from audit.erasers.rece_parameters import METHOD as RECE
from audit.erasers.speed_parameters import METHOD as SPEED
from audit.erasers.speed_parameters import SpeedParameters
from audit.erasers.token_states import Edit
from audit.errors import EraserError
from audit.progress import Session
from tests.erasers.conftest import CONCEPT, same, weights


def test_rece_is_uces_edit_followed_by_rounds_that_erase_what_revives_the_concept(pipeline: Pipeline) -> None:
    parameters = RECE.resolve("official", {"rounds": 2})
    before = weights(pipeline)
    made = rece.erase(pipeline, [CONCEPT], parameters, Session())
    assert same(before, weights(pipeline))
    assert made.preserved == ("xyz",) and made.filename == "rece-abc.safetensors"
    names = [name for name in before if "attn2.to_k" in name or "attn2.to_v" in name]
    assert set(made.tensors) == set(names)

    concept, null, kept = (pipeline.encode_text([text])[0].double() for text in ("abc", "", "xyz"))
    start = uce.erase(pipeline, [CONCEPT], uce.METHOD.resolve("official-2023", {}), Session()).tensors
    old = {name: before[name].double() for name in names}
    new = {name: start[name].double() for name in names}
    width = concept.shape[1]
    for _ in range(2):
        left = 0.1 * torch.eye(width, dtype=torch.float64)
        right = torch.zeros(width, width, dtype=torch.float64)
        for name in names:
            left += new[name].T @ new[name]
            right += new[name].T @ old[name]
        derived = torch.stack([left.inverse() @ right @ state for state in concept])
        for name in names:
            w = new[name].clone()
            top, bottom = 0.1 * w, 0.1 * torch.eye(width, dtype=torch.float64)
            for state, guide in zip(derived, null, strict=True):
                top, bottom = top + torch.outer(w @ guide, state), bottom + torch.outer(state, state)
            for state in (*null, *kept):
                top, bottom = top + 0.1 * torch.outer(w @ state, state), bottom + 0.1 * torch.outer(state, state)
            new[name] = (top @ bottom.inverse()).float().double()
    for name in names:
        torch.testing.assert_close(made.tensors[name].double(), new[name], rtol=1e-4, atol=1e-5)


def test_a_derived_state_is_what_comes_nearest_to_the_concept_through_the_edited_matrices() -> None:
    generator = torch.Generator().manual_seed(0)
    old, new = ({str(i): torch.randn(5, 4, generator=generator) for i in range(3)} for _ in range(2))
    state = torch.randn(4, generator=generator, dtype=torch.float64)
    derived = (rece.reviving(old, new, 0.2) @ state).requires_grad_()
    loss = 0.2 * derived.pow(2).sum()
    for name, matrix in new.items():
        loss = loss + (matrix.double() @ derived - old[name].double() @ state).pow(2).sum()
    loss.backward()
    assert derived.grad is not None and derived.grad.abs().max() < 1e-10


def random_moments(retained: int = 6) -> tuple[torch.Tensor, Edit, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(14, 12, generator=generator)
    edit = Edit(*(torch.randn(n, 12, generator=generator) for n in (2, 2, retained)))
    return weight, edit, torch.randn(5, 12, generator=generator)


def test_speed_is_its_published_closed_form() -> None:
    weight, edit, null = random_moments()
    options = SpeedParameters(augmentations=3, clusters=1, seed=5, invariant_regularisation=0.25)
    found = speed.edited_matrix("a", weight, speed.gathered(edit, 2, null, options), options).double()

    w, erase, guide, retain, unit = (
        *(t.double() for t in (weight, edit.erase, edit.guide, edit.preserve)),
        torch.eye(12),
    )
    unit = unit.double()
    gram = sum(torch.outer(c, c) for c in erase) / 2
    cross = sum(torch.outer(g, c) for g, c in zip(guide, erase, strict=True)) / 2
    alone = w @ (cross - gram) @ (unit + gram).inverse()
    influence = torch.stack([(alone @ c).norm() for c in retain])
    retain = retain[influence > influence.mean()]
    copies = speed.refined("a", w, alone, edit.preserve.double(), options)
    assert torch.equal(copies[: len(retain)], retain) and len(copies) > len(retain)
    least = torch.linalg.svd(w.T @ w)[0][:, -1]
    noise = copies[len(retain) :]
    for copy in noise:  # each is a retained state moved along the direction that the matrix sees least
        gaps = copy - retain
        across = gaps - torch.outer(gaps @ least, least)
        assert across.norm(dim=1).min() < 1e-6
    vectors, values, _ = torch.linalg.svd(copies.T @ copies / len(copies))
    free = vectors[:, values < 0.1]
    p = free @ free.T
    keys = torch.stack([null[0], null[1:].mean(0)]).double().T
    m = (gram @ p + unit).inverse()
    inner = (keys.T @ p @ m @ keys + 0.25 * torch.eye(2).double()).inverse()
    expected = w + w @ (cross - gram) @ p @ (unit - m @ keys @ inner @ keys.T @ p) @ m
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_speed_keeps_retained_and_invariant_states_and_moves_the_erased_ones() -> None:
    weight, edit, null = random_moments(retained=3)
    options = SpeedParameters(filtering=False, augmentations=0, clusters=0, threshold=1e-6)
    new = speed.edited_matrix("a", weight, speed.gathered(edit, 2, null, options), options)
    for states in (edit.preserve, null[:1]):
        torch.testing.assert_close(new @ states.T, weight @ states.T, rtol=0, atol=1e-4)
    before, after = ((matrix @ edit.erase.T - weight @ edit.guide.T).norm() for matrix in (weight, new))
    assert after < 0.7 * before


def test_speed_says_what_leaves_it_nothing_to_change() -> None:
    weight, edit, null = random_moments(retained=40)
    options = SpeedParameters(filtering=False, augmentations=0, threshold=1e-6)
    with pytest.raises(EraserError, match="nothing is free to change in a") as caught:
        speed.edited_matrix("a", weight, speed.gathered(edit, 2, null, options), options)
    assert "threshold" in str(caught.value)


@pytest.mark.parametrize(("preset", "parts"), [("official", ("to_v",)), ("testbed", ("to_k", "to_v"))])
def test_speed_edits_the_chosen_projections_of_a_backbone(
    pipeline: Pipeline, preset: str, parts: tuple[str, ...]
) -> None:
    before = weights(pipeline)
    parameters = SPEED.resolve(preset, {"threshold": 10.0, "invariant_regularisation": 0.5})
    made = speed.erase(pipeline, [CONCEPT], parameters, Session())
    again = speed.erase(pipeline, [CONCEPT], parameters, Session())
    assert same(before, weights(pipeline)) and same(made.tensors, again.tensors)
    assert set(made.tensors) == {n for n in before if any(f"attn2.{part}.weight" in n for part in parts)}
    assert all(not torch.equal(before[name], tensor) for name, tensor in made.tensors.items())


def test_cluster_centres_are_the_means_of_what_lies_nearest() -> None:
    states = torch.tensor([[0.0, 0], [0, 1], [9, 9], [9, 10], [-9, 5]])
    found = speed.centres(states, 3)
    expected = {(0.0, 0.5), (9.0, 9.5), (-9.0, 5.0)}
    assert {tuple(map(float, centre)) for centre in found} == expected
    assert len(speed.centres(states[:1].repeat(4, 1), 3)) == 3 and len(speed.centres(states, 0)) == 0
