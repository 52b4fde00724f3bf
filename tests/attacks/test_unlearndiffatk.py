"""The white-box search for tokens: its step, its states, its resumption, and its cases beside those of random tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from audit import run
from audit.attacks.token_prompt import Slots, TokenPrompt, prefixed
from audit.attacks.token_search import TokenSearch
from audit.attacks.token_search_parameters import UnlearnDiffAtkParameters
from audit.attacks.unlearndiffatk import DenoisingSearch
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.errors import SpecError
from audit.index.queries import read_result
from audit.index.store import latest
from audit.plan.document import KINDS, Plan, read_plan
from audit.plan.forecast import calls_of
from audit.records import Control
from audit.weights.references import resolve_model
from tests.attacks.searches import drafted, search_spec
from tests.flows.audits import finish_run
from tests.tiny_families import write_sd2, write_sd3, write_sdxl

TINY = {
    "tokens": 2, "timesteps": 3, "iterations": 2, "held_out": 2, "images": 2, "learning_rate": 0.05, "prompt": "a {phrase}",
}  # fmt: skip


def searching(pipeline: Pipeline, seed: int = 0) -> TokenSearch:
    latents = torch.randn(1, *pipeline.latent_shape, generator=torch.Generator().manual_seed(5))
    prompt = TokenPrompt(pipeline, prefixed(pipeline, "a ring", 2), "a ring")
    p = UnlearnDiffAtkParameters(timesteps=3, iterations=4, learning_rate=0.05, held_out=2)
    return DenoisingSearch(prompt, noise_model(pipeline.unet), latents, seed, p)


@pytest.mark.parametrize("family", ["sd1", "sd2"])
def test_a_step_is_the_published_formula(family: str, pipeline: Pipeline, tmp_path: Path) -> None:
    if family == "sd2":
        pipeline = load_pipeline(resolve_model(str(write_sd2(tmp_path / "sd2"))), torch.device("cpu"))
    one = searching(pipeline)
    before = one.embeddings.clone()

    tokenizer, encoder, unet = pipeline.tokenizer, pipeline.text_encoder, pipeline.unet
    table = next(value for name, value in encoder.named_parameters() if name.endswith("token_embedding.weight"))
    near = torch.stack([torch.cosine_similarity(row[None], table[: len(tokenizer)], dim=-1) for row in before])
    near[:, list(set(tokenizer.all_special_ids))] = -1
    tokens = near.argmax(1).tolist()
    ids = [tokenizer.bos_token_id, *tokens, *tokenizer("a ring", add_special_tokens=False)["input_ids"]]
    ids.append(tokenizer.eos_token_id)
    ids += [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(ids))

    generator = one.generator("train", 0)
    noise = torch.randn(one.latents.shape, generator=generator)
    timestep = 1000 // 6
    signal, level = pipeline.training_levels()[timestep]
    noisy = signal * one.latents + level * noise
    target = noise if family == "sd1" else signal * noise - level * one.latents
    table.requires_grad_()
    states = encoder(torch.tensor([ids])).last_hidden_state
    predicted = unet(noisy, timestep, encoder_hidden_states=states).sample
    (gradient,) = torch.autograd.grad(torch.nn.functional.mse_loss(predicted, target), table)
    table.requires_grad_(False)

    assert len({*tokens, *ids[3:5]}) == 4  # else one row of the table would be counted twice
    one.step()
    assert float(gradient[tokens].abs().min()) > 0
    assert torch.allclose(one.embeddings, before - 0.05 * gradient[tokens].sign(), atol=1e-6)


@pytest.mark.parametrize("write", [write_sdxl, lambda folder: write_sd3(folder, t5=False)], ids=["sdxl", "sd3"])
def test_two_encoders_read_one_token_sequence_as_they_read_its_text(write: Any, tmp_path: Path) -> None:
    backbone = load_pipeline(resolve_model(str(write(tmp_path / "model"))), torch.device("cpu"))
    ids = backbone.tokenizer("ring", add_special_tokens=False)["input_ids"]
    slots = prefixed(backbone, "no moon", len(ids))
    prompt = TokenPrompt(backbone, slots, "no moon")
    assert prompt.text(ids) == "ring no moon"
    assert prompt.nearest(prompt.table[ids]) == ids
    read = prompt.states(ids, prompt.table[ids])
    assert torch.allclose(read, backbone.encode_text(["ring no moon"]), atol=1e-5)
    one = searching(backbone)
    one.step()
    assert one.embeddings.shape == (2, 48) and torch.isfinite(one.embeddings).all()


def test_an_interrupted_search_goes_on_to_the_same_result(pipeline: Pipeline) -> None:
    whole, half, again = searching(pipeline), searching(pipeline), searching(pipeline)
    for _ in range(6):
        whole.step()
    whole.check(bool)
    for _ in range(3):
        half.step()
    again.restore(half.dump())
    for _ in range(3):
        again.step()
    again.check(bool)
    assert torch.equal(whole.embeddings, again.embeddings) and whole.best == again.best and again.done == 6
    assert not torch.equal(searching(pipeline, seed=1).embeddings, searching(pipeline).embeddings)
    with pytest.raises(KeyError):
        again.restore(safetensors.torch.save({"x": torch.zeros(1)}))


def test_more_tokens_than_are_read_are_refused(pipeline: Pipeline) -> None:
    assert prefixed(pipeline, "a ring", 2) == Slots(
        (0, 0, *pipeline.tokenizer("a ring", add_special_tokens=False)["input_ids"]), (0, 1)
    )
    with pytest.raises(ValueError, match="more than the text encoder's 14"):
        prefixed(pipeline, "a ring", 14)


def spec_of(folder: Path, pipeline: Path, **scenario: Any) -> Path:
    given = {"method": "unlearndiffatk", **scenario}
    return search_spec(folder, pipeline, **{**given, "parameters": {**TINY, **given.get("parameters", {})}})


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("unlearndiffatk")
    run_id = finish_run(spec_of(folder, tiny_folder), folder / "runs")
    return read_plan(run.open_journal(str(folder / "runs")), run_id), folder / "runs"


def test_every_defence_is_searched_through_its_own_model(finished: tuple[Plan, Path]) -> None:
    plan, root = finished
    journal = run.open_journal(str(root))
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    (erased,) = plan.units_of("erase")
    units = list(plan.units_of("attack"))
    assert sorted(str(unit.identity.model) for unit in units) == sorted([erased.key, "None"] * 2)
    assert all(unit.depends == ((erased.key,) if unit.identity.model else ()) for unit in units)
    for unit in units:
        rows = journal.read("attack", unit.key).to_pylist()
        assert [row["item"].partition("-")[0] for row in rows] == ["prompt", "random"]
        assert {row["status"] for row in rows} == {"ok"} and all(row["prompt"].endswith("a ring") for row in rows)
        assert calls_of(unit).expected == sum(row["unet_calls"] for row in rows)
        assert all(row["prompt"] not in json.loads(row["report"])["summary"] for row in rows)


def test_the_control_has_the_cases_seeds_and_random_tokens(finished: tuple[Plan, Path]) -> None:
    plan, root = finished
    cells = {
        p.cell.cell_id: p.cell for p in plan.cells if p.cell.scenario == "adversarial-text" and p.cell.defence == "uce"
    }
    rows = [row for row in plan.cases.to_pylist() if row["cell_id"] in cells]
    own = [row for row in rows if cells[row["cell_id"]].control is None]
    beside = [row for row in rows if cells[row["cell_id"]].control is Control.RANDOM_TOKENS]
    assert [row["attack_item"] for row in own] == ["prompt-0", "prompt-1", "prompt-0"]
    assert [row["attack_item"] for row in beside] == ["random-0", "random-1", "random-0"]
    for name in ("seed", "attack_key"):
        assert [row[name] for row in own] == [row[name] for row in beside]
    published = latest(root / "db" / "published")
    assert published is not None
    result = read_result(published, plan.run_id)
    assert [(row["items"], row["found"]) for row in result.attacks] == [(2, 2)] * 2
    assert {row.defence for row in result.crr if row.control == Control.RANDOM_TOKENS} == {"none", "uce"}


@pytest.mark.parametrize(
    ("scenario", "message"),
    [
        ({"parameters": {"images": 9}}, "searches with 9 images of 'ring' and the corpus has 3"),
        ({"parameters": {"tokens": 15}}, "asked for 15 tokens, and the backbone's text encoder reads 14"),
        ({"parameters": {"speed": 1}}, "takes: tokens"),
        ({"preset": "magic"}, "no preset 'magic'"),
        ({"parameters": {"tokens": 14}}, "tokens"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_before_compute(
    scenario: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        drafted(spec_of(tmp_path, tiny_folder, **scenario))
    assert message in f"{caught.value} {caught.value.next_step}"
