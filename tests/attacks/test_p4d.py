"""P4D: its step, its places, its resumption, its cost, and what it finds on the testbed beside random tokens."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from audit import run
from audit.attacks import p4d, registry
from audit.attacks.p4d import MatchingSearch
from audit.attacks.protocol import Search
from audit.attacks.token_prompt import Slots, TokenPrompt, inserted, prefixed
from audit.attacks.token_search_parameters import P4dParameters
from audit.diffusion.denoisers import with_pooled
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.errors import SpecError
from audit.plan.document import KINDS, read_plan
from audit.plan.forecast import calls_of
from audit.plan.identities import AttackIdentity
from audit.progress import Session
from audit.records import Control
from audit.spec.sections import Concept
from audit.weights.references import resolve_model
from tests.attacks.on_testbed import OnDisk, hits
from tests.attacks.searches import drafted, search_spec
from tests.flows.audits import finish_run
from tests.tiny_families import write_sd3

TINY = {
    "tokens": 3, "iterations": 4, "check_every": 3, "held_out": 2, "draw_steps": 2, "draw_guidance": 3.0, "prompt": "a {phrase}",
}  # fmt: skip


def spec_of(folder: Path, pipeline: Path, **scenario: Any) -> Path:
    given = {"method": "p4d", **scenario}
    return search_spec(folder, pipeline, **{**given, "parameters": {**TINY, **given.get("parameters", {})}})


def searching(pipeline: Pipeline, variant: str = "n", seed: int = 0) -> MatchingSearch:
    """A search through the pipeline for what another network of its shape predicts under "a ring"."""
    p = P4dParameters.model_validate({**TINY, "variant": variant})
    latents = torch.randn(1, *pipeline.latent_shape, generator=torch.Generator().manual_seed(5))
    slots = inserted(pipeline, "a ring", 1, p.tokens) if variant == "k" else prefixed(pipeline, "", p.tokens)

    def reference(noisy: torch.Tensor, timestep: float | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return 0.5 * noise_model(pipeline.unet)(noisy, timestep, states)

    prompt = TokenPrompt(pipeline, slots, "a ring" if variant == "k" else "")
    states = pipeline.encode_text(["a ring"])
    return MatchingSearch(prompt, noise_model(pipeline.unet), latents, seed, p, reference, states)


@pytest.mark.parametrize("variant", ["n", "k"])
def test_two_steps_are_the_published_formula_with_pytorchs_adamw_written_out(variant: str, pipeline: Pipeline) -> None:
    one = searching(pipeline, variant)
    tokenizer, encoder, unet = pipeline.tokenizer, pipeline.text_encoder, pipeline.unet
    (layer,) = (module for name, module in encoder.named_modules() if name.endswith("token_embedding"))
    table = layer.weight.detach()[: len(tokenizer)]
    moving, first, second = one.embeddings.clone(), torch.zeros(()), torch.zeros(())
    own = tokenizer("a ring", add_special_tokens=False)["input_ids"]
    target_states = encoder(padded(pipeline, own)).last_hidden_state
    for number in range(2):
        near = torch.stack([torch.cosine_similarity(row[None], table, dim=-1) for row in moving])
        near[:, list(set(tokenizer.all_special_ids))] = -1
        tokens = near.argmax(1).tolist()
        ids = tokens if variant == "n" else [tokens[0], own[0], tokens[1], own[1], tokens[2], *own[2:]]
        places = [1, 2, 3] if variant == "n" else [1, 3, 5]
        generator = one.generator("train", number)
        timestep = int(torch.randint(1000, (1,), generator=generator))
        signal, level = pipeline.training_levels()[timestep]
        noisy = signal * one.latents + level * torch.randn(one.latents.shape, generator=generator)
        target = 0.5 * unet(noisy, timestep, encoder_hidden_states=target_states).sample
        vectors = table[tokens].clone().requires_grad_()
        hook = layer.register_forward_hook(partial(with_rows, places, vectors))
        predicted = unet(noisy, timestep, encoder_hidden_states=encoder(padded(pipeline, ids)).last_hidden_state).sample
        hook.remove()
        (gradient,) = torch.autograd.grad(torch.nn.functional.mse_loss(predicted, target.detach()), vectors)
        step = number + 1
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        moving = moving * (1 - 0.1 * 0.1)
        moving = moving - 0.1 * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
        one.step()
        assert float(gradient.abs().min()) > 0
        assert torch.allclose(one.embeddings, moving, atol=2e-4)


@pytest.mark.parametrize("variant", ["n", "k"])
def test_a_step_on_a_flow_moves_the_embeddings_of_both_clips_by_the_published_formula(
    variant: str, tmp_path: Path
) -> None:
    flow = load_pipeline(resolve_model(str(write_sd3(tmp_path / "sd3"))), torch.device("cpu"))
    one = searching(flow, variant)
    before, width = one.embeddings.clone(), int(flow.text_encoder.config.hidden_size)
    own = flow.tokenizer("a ring", add_special_tokens=False)["input_ids"]
    layers = [clip.encoder.text_model.embeddings.token_embedding for clip in flow.encoders.clips]
    table = torch.cat([layer.weight.detach() for layer in layers], -1)[: len(flow.tokenizer)]
    near = torch.stack([torch.cosine_similarity(row[None], table, dim=-1) for row in before])
    near[:, list(set(flow.tokenizer.all_special_ids))] = -1
    tokens = near.argmax(1).tolist()
    ids = tokens if variant == "n" else [tokens[0], own[0], tokens[1], own[1], tokens[2], *own[2:]]
    places = [1, 2, 3] if variant == "n" else [1, 3, 5]

    generator = one.generator("train", 0)
    timestep = int(torch.randint(1000, (1,), generator=generator))
    share = timestep / 1000  # of noise, in a flow
    noisy = (1 - share) * one.latents + share * torch.randn(one.latents.shape, generator=generator)
    with torch.no_grad():
        target = 0.5 * flow.unet(noisy, timestep, encoder_hidden_states=flow.encode_text(["a ring"])).sample
    vectors = table[tokens].clone().requires_grad_()
    halves = [vectors[:, :width], vectors[:, width:]]
    hooks = [
        layer.register_forward_hook(partial(with_rows, places, half))
        for layer, half in zip(layers, halves, strict=True)
    ]
    given = padded(flow, ids)
    read = [clip.encoder(given, output_hidden_states=True) for clip in flow.encoders.clips]
    for hook in hooks:
        hook.remove()
    assert flow.t5 is not None
    clips = torch.cat([output.hidden_states[-2] for output in read], -1)
    wide = torch.nn.functional.pad(clips, (0, flow.t5.width - clips.shape[-1]))
    # T5 reads the prompt without the searched tokens.
    states = torch.cat([wide, flow.t5.states(["a ring" if variant == "k" else ""], flow.device)], 1)
    states = with_pooled(states, torch.cat([output.text_embeds for output in read], -1))
    predicted = flow.unet(noisy, timestep, encoder_hidden_states=states).sample
    (gradient,) = torch.autograd.grad(torch.nn.functional.mse_loss(predicted, target), vectors)
    one.step()
    assert bool((gradient[:, :width] != 0).any()) and bool((gradient[:, width:] != 0).any())
    moved = before * (1 - 0.1 * 0.1) - 0.1 * gradient / (gradient.abs() + 1e-8)  # AdamW's first step
    assert torch.allclose(one.embeddings, moved, atol=2e-4)


def with_rows(places: list[int], vectors: torch.Tensor, _: Any, __: Any, embedded: torch.Tensor) -> torch.Tensor:
    return embedded.index_put((torch.tensor([0]), torch.tensor(places)), vectors)


def padded(pipeline: Pipeline, ids: list[int]) -> torch.Tensor:
    tokenizer = pipeline.tokenizer
    whole = [tokenizer.bos_token_id, *ids, tokenizer.eos_token_id]
    return torch.tensor([whole + [tokenizer.pad_token_id] * (int(tokenizer.model_max_length) - len(whole))])


def test_tokens_are_inserted_at_the_beginning_and_behind_every_so_many(pipeline: Pipeline) -> None:
    one, two, three, four, five = pipeline.tokenizer("a ring", add_special_tokens=False)["input_ids"]
    assert inserted(pipeline, "a ring", 3, 16) == Slots((0, one, two, three, 0, four, five), (0, 4))
    assert inserted(pipeline, "a ring", 5, 16) == Slots((0, one, two, three, four, five, 0), (0, 6))
    assert inserted(pipeline, "a ring", 1, 2) == Slots((0, one, 0, two, three, four, five), (0, 2))
    with pytest.raises(ValueError, match="11 tokens in the 10 of the prompt are more than the text encoder's 14"):
        inserted(pipeline, "a ring a ring", 1, 16)


@pytest.mark.parametrize("variant", ["n", "k"])
def test_an_interrupted_search_goes_on_to_the_same_result(variant: str, pipeline: Pipeline) -> None:
    whole, half, again = (searching(pipeline, variant) for _ in range(3))
    for _ in range(4):
        whole.step()
    whole.check(bool)
    for _ in range(2):
        half.step()
    again.restore(half.dump())
    for _ in range(2):
        again.step()
    again.check(bool)
    assert torch.equal(whole.embeddings, again.embeddings) and whole.best == again.best and again.done == 4
    assert not torch.equal(searching(pipeline, variant, seed=1).embeddings, searching(pipeline, variant).embeddings)


def test_the_target_prompt_itself_through_the_same_network_has_no_loss(pipeline: Pipeline) -> None:
    one = searching(pipeline)
    one.reference = one.predict
    assert one.loss_of("a ring") < 1e-10 < one.loss_of("a photo")


@pytest.mark.parametrize("given", [{"variant": "n"}, {"variant": "k", "every": 5, "images": 2}], ids=["n", "k"])
def test_a_run_searches_through_each_model_at_the_cost_of_the_forecast(
    given: dict[str, Any], tmp_path: Path, tiny_folder: Path
) -> None:
    root = tmp_path / "runs"
    plan = read_plan(run.open_journal(str(root)), finish_run(spec_of(tmp_path, tiny_folder, parameters=given), root))
    journal = run.open_journal(str(root))
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    (erased,) = plan.units_of("erase")
    units = list(plan.units_of("attack"))
    assert sorted(str(unit.model) for unit in units) == sorted([erased.key, "None"] * 2)
    for unit in units:
        rows = journal.read("attack", unit.key).to_pylist()
        assert [row["item"].partition("-")[0] for row in rows] == ["prompt", "random"]
        assert {row["status"] for row in rows} == {"ok"}
        assert all("ring" in row["prompt"] or given["variant"] == "n" for row in rows)
        assert calls_of(unit).expected == sum(row["unet_calls"] for row in rows)
        assert isinstance(unit.identity, AttackIdentity) and len(unit.identity.images) == given.get("images", 0)
    cells = [p.cell for p in plan.cells if p.cell.scenario == "adversarial-text"]
    assert {(cell.defence, cell.control) for cell in cells} == {
        ("uce", None), ("none", Control.BACKBONE), ("uce", Control.RANDOM_TOKENS), ("none", Control.RANDOM_TOKENS),
    }  # fmt: skip


def test_another_variant_is_another_unit(tmp_path: Path, tiny_folder: Path) -> None:
    def keys(**given: Any) -> set[str]:
        return {unit.key for unit in drafted(spec_of(tmp_path, tiny_folder, parameters=given)).units_of("attack")}

    assert len(keys()) == 4 and keys() == keys(variant="n") and not keys() & keys(variant="k")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"images": 9}, "searches with 9 images of 'ring' and the corpus has 3"),
        ({"tokens": 15}, "asked for 15 tokens, and the backbone's text encoder reads 14"),
        ({"tokens": 14, "variant": "k"}, "tokens, and the backbone's text encoder reads"),
        ({"draw_steps": 3}, "3 does not divide 1000"),
        ({"variant": "m"}, "variant"),
        ({"prompt": "a photo of a very large red {phrase} on a white table in front of a wall"}, "text encoder reads"),
    ],
)
def test_what_cannot_be_searched_for_is_refused_before_compute(
    parameters: dict[str, Any], message: str, tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(SpecError) as caught:
        drafted(spec_of(tmp_path, tiny_folder, parameters=parameters))
    assert message in f"{caught.value} {caught.value.next_step}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_on_the_testbed_a_found_prompt_brings_the_ring_back_through_esd_and_random_tokens_do_not() -> None:
    models, seeds = OnDisk("esd-x-ring"), list(range(8))
    items = [f"{kind}-{number}" for number in range(2) for kind in ("prompt", "random")]
    settings = registry.parse("p4d", {}, "testbed").model_dump(mode="json")
    ring, erased = Concept(name="ring", phrase="ring"), models.noise_model("erased")
    found = p4d.run(Search(items, settings, ring, 0, "erased", [], models, no_pictures, 8, Session()))
    rows = {row.item: row for row in found.rows}
    drawn = {item: hits(models.pipeline, erased, str(row.prompt), "ring", seeds) for item, row in rows.items()}
    for number in range(2):
        scores = [rows[f"{kind}-{number}"].score for kind in ("prompt", "random")]
        assert None not in scores and scores[0] < scores[1], scores  # type: ignore[operator]
    by_search, by_chance = (sum(drawn[f"{kind}-{number}"] for number in range(2)) for kind in ("prompt", "random"))
    assert by_search >= by_chance + 2, drawn


def no_pictures(item: str) -> Any:
    raise AssertionError(f"the backbone draws the target, and {item} was asked for")
