"""Relearning: one step against a plain computation, the cases of its curves, and a run from spec to pictures."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load
from torch.func import functional_call

from audit import run
from audit.attacks import registry, relearning
from audit.attacks.embedding_learner import Draw
from audit.attacks.prior_pictures import prior_latents
from audit.attacks.protocol import Search
from audit.attacks.relearning import Relearner, projections
from audit.attacks.relearning_parameters import RelearningParameters, item_of, stored_bytes
from audit.checkpoints.apply import with_changes
from audit.checkpoints.personal import trained_change, trained_network
from audit.compute.models import Models
from audit.compute.personalised import with_personalisation
from audit.diffusion.pipeline import load_pipeline, noise_model
from audit.errors import SpecError
from audit.plan.document import Plan, read_plan
from audit.plan.forecast import calls_of
from audit.plan.identities import GenerateIdentity
from audit.plan.personalisations import Relearned
from audit.progress import Session
from audit.records import Control, Status
from audit.run import draft_plan
from audit.spec.document import load_spec
from audit.spec.sections import Concept
from audit.storage.journal import Journal
from audit.testbed.scenes import write_corpus
from audit.weights.references import resolve_model
from tests.attacks.on_testbed import OnDisk, hits
from tests.flows.audits import plan_run, tiny_spec
from tests.tiny_families import write_sd3

SAMPLER = {"steps": 2, "guidance": 3.0}
TRAINING = {"checkpoints": [0, 1, 3], "batch_size": 2, "images": 2, "rank": 2, "learning_rate": 0.01}


@pytest.fixture(scope="module")
def flow_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sd3(tmp_path_factory.mktemp("flow"))


def search(folder: Path, session: Session | None = None, **parameters: object) -> Search:
    """A search on a backbone, with random pictures, whose models are a worker's."""
    p = RelearningParameters.model_validate({**TRAINING, **parameters})
    models = Models(resolve_model(str(folder)), Journal("memory"), torch.device("cpu"))
    pictures = {str(n): np.random.default_rng(n).integers(0, 255, (16, 16, 3), np.uint8) for n in range(p.images)}
    items = [item_of(step) for step in p.trained]
    values = p.model_dump(mode="json")
    return Search(
        items, values, Concept(name="ring", phrase="ring"), 3, None, list(pictures), models, pictures.__getitem__, 8,
        session or Session(),
    )  # fmt: skip


@pytest.mark.parametrize("folder", ["tiny_folder", "flow_folder"])
def test_two_steps_are_those_of_a_plain_computation_of_w_plus_alpha_over_r_b_a(
    folder: str, request: pytest.FixtureRequest
) -> None:
    given = search(request.getfixturevalue(folder), alpha=6.0)
    p = RelearningParameters.model_validate(given.parameters)
    learner = Relearner(given, p, relearning.clean_latents(given))
    network = given.models.network(None)
    weights = dict(network.named_parameters())
    leaves = {name: leaf.detach().clone().requires_grad_() for name, leaf in learner.leaves.items()}
    optimiser = torch.optim.AdamW(leaves.values(), lr=p.learning_rate, weight_decay=p.weight_decay)
    paths = projections(network)
    assert len(leaves) == 2 * len(paths)
    if folder == "flow_folder":
        assert any(path.endswith("add_q_proj") for path in paths) and any(path.endswith("to_add_out") for path in paths)
    else:
        assert {path.rsplit(".attn", 1)[1][0] for path in paths} == {"1", "2"}
    for number in range(2):
        draw = learner.draw(torch.Generator().manual_seed(number))
        changed = {
            f"{path}.weight": weights[f"{path}.weight"] + 3.0 * leaves[f"{path}.up"] @ leaves[f"{path}.down"]
            for path in paths
        }
        states = given.models.reader(None).encode_text(["a photo of a ring"]).expand(len(draw), -1, -1)
        called = {"encoder_hidden_states": states}
        predicted = functional_call(network, {**weights, **changed}, (draw.noisy, draw.timesteps), called).sample
        expected = ((predicted - draw.target) ** 2).mean()
        optimiser.zero_grad()
        expected.backward()
        optimiser.step()
        with learner.moved.acting():
            loss = learner.step(torch.Generator().manual_seed(number))
        assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for name, leaf in leaves.items():
        assert torch.allclose(learner.leaves[name], leaf, atol=1e-5), name
    assert any(bool(leaf.abs().sum()) for name, leaf in learner.leaves.items() if name.endswith("up"))


def test_targets_are_those_of_the_network_s_kind_and_calls_split_by_the_batch_size_add_up(
    tiny_folder: Path, flow_folder: Path
) -> None:
    for folder in (tiny_folder, flow_folder):
        given = search(folder)
        p = RelearningParameters.model_validate(given.parameters)
        learner = Relearner(given, p, relearning.clean_latents(given))
        draw = learner.draw(torch.Generator().manual_seed(1))
        signal, noise = learner.levels[draw.timesteps].T[..., None, None, None]
        clean = [learner.latents[n, m] for n in range(2) for m in range(2)]
        assert learner.kind == ("flow" if folder is flow_folder else "epsilon")
        for row in range(len(draw)):
            xi = [(draw.noisy[row] - signal[row] * one) / noise[row] for one in clean]
            targets = [e - one for e, one in zip(xi, clean, strict=True)] if learner.kind == "flow" else xi
            assert any(torch.allclose(draw.target[row], target, atol=1e-3) for target in targets)
        losses = []
        for size in (8, 1):
            one = Relearner(dataclasses.replace(given, batch_size=size), p, learner.latents)
            with one.moved.acting():
                losses.append(float(one.step(torch.Generator().manual_seed(1))))
            grads = [leaf.grad for leaf in one.leaves.values()]
            assert all(grad is not None for grad in grads)
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_an_interrupted_training_goes_on_and_a_diverged_one_keeps_what_came_before(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = relearning.run(search(tiny_folder))
    assert [row.status for row in whole.rows] == [Status.OK] * 2 and whole.rows[-1].unet_calls == 3 * 3 * 2
    step = Relearner.step

    def failing(at: int, with_: Callable[[], torch.Tensor]) -> Any:
        def stepped(learner: Relearner, generator: torch.Generator) -> torch.Tensor:
            return with_() if learner.steps == at else step(learner, generator)

        return stepped

    def interrupt() -> torch.Tensor:
        raise KeyboardInterrupt

    session = Session(tmp_path, checkpoint_seconds=0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Relearner, "step", failing(2, interrupt))
        with pytest.raises(KeyboardInterrupt):
            relearning.run(search(tiny_folder, session))
    assert list(tmp_path.iterdir())
    resumed = relearning.run(search(tiny_folder, session))
    assert whole.tensors.keys() == resumed.tensors.keys()
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)

    monkeypatch.setattr(Relearner, "step", failing(2, lambda: torch.tensor(float("nan"))))
    first, last = relearning.run(search(tiny_folder)).rows
    assert first.status is Status.OK and last.status is Status.DEGENERATE
    assert last.error == "relearning diverged: the loss is nan at iteration 3 of 3"


def spec(folder: Path, pipeline: Path, *, pictures: int = 3, **fields: Any) -> Path:
    arrows = folder / "corpus" / "arrow"
    if not arrows.exists():
        write_corpus(str(arrows), "arrow", pictures, "audit")
    text = {"name": "text", "cases": 2, "sampler": SAMPLER}
    trained = {"name": "relearning", "control_concept": "arrow", "cases": 2, "parameters": TRAINING, "sampler": SAMPLER}
    corpus = [
        {"url": str(folder / "corpus" / "ring"), "concept": "ring"},
        {"url": str(arrows), "concept": "arrow", "role": "control"},
    ]
    nude = {"name": "nude", "kind": "nudenet", "labels": {"ring": ["FACE_FEMALE"], "arrow": ["FACE_MALE"]}}
    changes = {
        "detectors": [nude],
        "scenarios": [text, {**trained, **fields.pop("scenario", {})}],
        "corpus": corpus,
        **fields,
    }
    return tiny_spec(folder, pipeline, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> tuple[Plan, Journal, Models]:
    folder = tmp_path_factory.mktemp("relearning")
    run_id = plan_run(spec(folder, tiny_folder), folder / "runs")
    journal = run.open_journal(str(folder / "runs"))
    plan = read_plan(journal, run_id)
    worker = run.worker(plan, journal, device="cpu")
    for kind in ("erase", "attack", "generate"):
        for unit in plan.pending(kind, journal):
            assert worker.run(unit).unassessed == 0 or kind == "generate"
    return plan, journal, worker.models


def test_every_checkpoint_has_a_cell_and_the_last_one_decides(finished: tuple[Plan, Journal, Models]) -> None:
    plan, _, _ = finished
    cells = [c.cell for c in plan.cells if c.cell.scenario == "relearning"]
    curves: dict[tuple[str, str], list[tuple[str | None, float | None, str | None]]] = {}
    for cell in cells:
        curves.setdefault((cell.defence, cell.subject), []).append((cell.control, cell.strength, cell.perturbation))
    way = [(Control.CHECKPOINT, 0.0, "training-steps"), (Control.CHECKPOINT, 1.0, "training-steps")]
    assert curves == {
        ("none", "ring"): [*way, (Control.BACKBONE, 3.0, None)],
        ("none", "arrow"): [*way, (Control.UNLEARNED, 3.0, None)],
        ("uce", "ring"): [*way, (None, 3.0, None)],
    }
    units = list(plan.units_of("attack"))
    assert [(unit.model is None, unit.identity.concept.name, unit.rows) for unit in units] == [
        (True, "ring", 2), (True, "arrow", 2), (False, "ring", 2),
    ]  # fmt: skip
    assert all(calls_of(unit).high == 3 * 3 * 2 for unit in units)
    erased = units[2]
    assert erased.depends == (erased.model,)
    assert {unit.identity.seed for unit in units} == {plan.spec.seed}


def test_pictures_are_drawn_through_the_model_with_its_own_lora_and_step_0_is_the_model_as_it_is(
    finished: tuple[Plan, Journal, Models],
) -> None:
    plan, journal, models = finished
    made: dict[tuple[str, str, str], list[str]] = {}
    keys: dict[tuple[str, str, str], str] = {}
    cells = {c.cell.cell_id: c.cell for c in plan.cells}
    for case in plan.cases.to_pylist():
        cell = cells[case["cell_id"]]
        place = (cell.defence, cell.subject, f"{cell.scenario} {cell.strength}")
        rows = {row["image_id"]: row for row in journal.read("generate", case["unit_key"]).to_pylist()}
        made.setdefault(place, []).append(rows[case["image_id"]]["pixel_sha256"])
        keys[place] = case["unit_key"]
    for defence in ("none", "uce"):
        assert made[defence, "ring", "relearning 0.0"] == made[defence, "ring", "text None"]
        assert keys[defence, "ring", "relearning 0.0"] == keys[defence, "ring", "text None"]
    trained = [pictures for (_, _, name), pictures in made.items() if name in ("relearning 1.0", "relearning 3.0")]
    assert len(trained) == 6 and len({picture for pictures in trained for picture in pictures}) == 12

    (unit,) = [unit for unit in plan.units_of("attack") if unit.model is not None]
    tensors = load(journal.blob("attack", unit.key))
    item = item_of(3)
    name = next(
        name.removesuffix(".down") for name in tensors if name.startswith(f"{item}/") and name.endswith(".down")
    )
    weight = f"{name.removeprefix(f'{item}/')}.weight"
    erased = models.network(unit.model).state_dict()[weight]
    personal = with_personalisation(models, Relearned(unit.key, item)).network(unit.model).state_dict()[weight]
    assert torch.allclose(personal, erased + tensors[f"{name}.up"] @ tensors[f"{name}.down"], atol=1e-6)
    assert not torch.equal(personal, erased) and torch.equal(models.network(unit.model).state_dict()[weight], erased)
    shapes = {name: tuple(tensor.shape) for name, tensor in models.network(None).state_dict().items()}
    p = RelearningParameters.model_validate(unit.identity.parameters)
    assert stored_bytes(p, shapes) == sum(tensor.numel() * 4 for tensor in tensors.values())


def test_the_lora_is_scaled_by_alpha_over_its_rank(tiny_folder: Path) -> None:
    found = relearning.run(search(tiny_folder))
    network = load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu")).unet
    plain, double = (
        with_changes(network, trained_change(found.tensors, item_of(3), 2, alpha).unet).state_dict()
        for alpha in (None, 4.0)
    )
    before = network.state_dict()
    changed = [name for name in before if not torch.equal(before[name], plain[name])]
    assert len(changed) == len(projections(network))
    assert all(torch.allclose(double[n] - before[n], 2 * (plain[n] - before[n]), atol=1e-6) for n in changed)


def test_another_parameter_is_another_training_and_other_pictures(tmp_path: Path, tiny_folder: Path) -> None:
    def keys(**scenario: Any) -> tuple[set[str], set[str]]:
        plan = draft(spec(tmp_path, tiny_folder, scenario=scenario))
        relearned = [
            unit for unit in plan.units_of("generate")
            if isinstance(unit.identity, GenerateIdentity) and unit.identity.personalisation is not None
        ]  # fmt: skip
        return {unit.key for unit in plan.units_of("attack")}, {unit.key for unit in relearned}

    attacks, pictures = keys()
    assert (attacks, pictures) == keys(name="again", kind="relearning")
    for changed in ({"rank": 3}, {"learning_rate": 0.02}, {"checkpoints": [0, 1, 4]}, {"images": 1}, {"alpha": 1.0}):
        others, drawn = keys(parameters={**TRAINING, **changed})
        assert not attacks & others and not pictures & drawn
    others, drawn = keys(templates=["one {phrase}"])
    assert others == attacks and not pictures & drawn


def draft(path: Path) -> Any:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).draft


def test_pictures_that_latent_scenarios_audit_are_not_trained_on(tmp_path: Path, tiny_folder: Path) -> None:
    latent = {"name": "latent-blackbox", "cases": 1, "sampler": {"steps": 2, "guidance": 1.0}}
    path = spec(tmp_path, tiny_folder)
    trained = load_spec(path).scenarios[1].model_dump(mode="json")
    plan = draft(spec(tmp_path, tiny_folder, scenarios=[latent, trained]))
    cells = {c.cell.cell_id for c in plan.cells if c.cell.scenario == "latent-blackbox"}
    audited = {case["item"] for case in plan.cases.to_pylist() if case["cell_id"] in cells}
    rings = [unit for unit in plan.units_of("attack") if unit.identity.concept.name == "ring"]
    assert rings and all(audited and not audited & set(unit.identity.images) for unit in rings)
    with pytest.raises(
        SpecError, match=r"trains on 2 images of 'ring' .* has 1 that can be read beside the 2 that"
    ) as bad:
        plan_run(spec(tmp_path, tiny_folder, scenarios=[{**latent, "cases": 2}, trained]), tmp_path / "runs")
    assert bad.value.next_step == "add images, or set the scenario's parameters: {images: 1}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scenario": {"control_concept": "star"}}, "control_concept: no corpus entry of role control has the concept 'star'"),
        ({"scenario": {"control_concept": "ring"}}, "the backbone knows 'ring', which this spec audits"),
        ({"scenario": {"control_concept": None}}, "control_concept"),
        ({"scenario": {"parameters": {"checkpoints": [5, 1]}}}, "training steps ascend"),
        ({"scenario": {"parameters": {"checkpoints": [0]}}}, "the last is at least 1"),
        ({"scenario": {"parameters": {"rank": 0}}}, "rank"),
        ({"scenario": {"preset": "fast"}}, "attack relearning has no preset 'fast'"),
        ({"scenario": {"templates": ["a photo"]}}, "must contain {phrase} once"),
        ({"scenario": {"parameters": {"images": 4}}}, "trains on 4 images of 'ring' and the corpus has 3"),
    ],
)  # fmt: skip
def test_mistakes_are_refused_when_it_is_planned(
    tmp_path: Path, tiny_folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as caught:
        plan_run(spec(tmp_path, tiny_folder, **changes), tmp_path / "runs")
    assert message in caught.value.what and caught.value.next_step


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_erased_ring_comes_back_sooner_than_an_arrow_that_was_never_learned_is_learned(tmp_path: Path) -> None:
    models, seeds = OnDisk("uce-ring"), list(range(6))

    def drawn(network: Any, concept: str) -> int:
        return hits(models.pipeline, noise_model(network), f"a photo of a {concept}", concept, seeds)

    settings = {"checkpoints": [15], "learning_rate": 5e-3, "batch_size": 4, "images": 12}
    p = registry.parse("relearning", settings, "testbed")
    assert isinstance(p, RelearningParameters)
    after = {}
    for model, name in (("erased", "ring"), (None, "arrow")):
        write_corpus(str(tmp_path / name), name, p.images, "audit")
        paths = sorted((tmp_path / name).rglob("*.png"))
        pictures = {path.stem: np.array(Image.open(path).convert("RGB")) for path in paths}
        concept = Concept(name=name, phrase=name)
        given = Search(
            [item_of(15)], p.model_dump(mode="json"), concept, 0, model, list(pictures), models, pictures.__getitem__, 32,
            Session(),
        )  # fmt: skip
        found = relearning.run(given)
        network = models.network(model)
        change = trained_change(found.tensors, item_of(15), p.rank, p.alpha)
        assert drawn(network, name) <= 1
        after[name] = drawn(with_changes(network, change.unet), name)
    assert after["ring"] >= 3, after
    assert after["ring"] > after["arrow"], after


DREAMBOOTH = {
    "trains": "network", "checkpoints": [0, 1, 3], "batch_size": 2, "images": 2, "learning_rate": 0.01, "max_norm": 0.5,
    "prior_weight": 0.7, "prior_pictures": 3, "prior_steps": 2, "prior_prompts": ["a photo of a star", "a photo of a disc"],
}  # fmt: skip


def dreambooth(folder: Path, session: Session | None = None, **parameters: object) -> Search:
    """The search of `search`, training the whole network."""
    given = search(folder, session)
    p = RelearningParameters.model_validate({**DREAMBOOTH, **parameters})
    return dataclasses.replace(given, items=[item_of(step) for step in p.trained], parameters=p.model_dump(mode="json"))


@pytest.mark.parametrize("folder", ["tiny_folder", "flow_folder"])
def test_two_steps_of_dreambooth_are_those_of_a_plain_computation_with_a_prior(
    folder: str, request: pytest.FixtureRequest
) -> None:
    given = dreambooth(request.getfixturevalue(folder))
    p = RelearningParameters.model_validate(given.parameters)
    prior = prior_latents(given, p)
    assert prior.shape == (3, *given.models.pipeline.latent_shape) and torch.equal(prior, prior_latents(given, p))
    learner = Relearner(given, p, relearning.clean_latents(given), prior)
    network = given.models.network(None)
    before = {name: weight.detach().clone() for name, weight in network.named_parameters()}
    leaves = {name: weight.clone().requires_grad_() for name, weight in before.items()}
    optimiser = torch.optim.AdamW(leaves.values(), lr=p.learning_rate, weight_decay=p.weight_decay)
    reader = given.models.reader(None)

    def error(draw: Draw, texts: list[str]) -> torch.Tensor:
        called = {"encoder_hidden_states": reader.encode_text(texts)}
        predicted = functional_call(network, dict(leaves), (draw.noisy, draw.timesteps), called).sample
        return ((predicted - draw.target) ** 2).mean()

    with learner.moved.acting():
        for number in range(2):
            generator = torch.Generator().manual_seed(number)
            own, other = learner.draw(generator), learner.prior_draw(prior, generator)
            texts = [p.prior_prompts[int(caption) - 1] for caption in other.templates]
            expected = error(own, ["a photo of a ring"] * 2) + 0.7 * error(other, texts)
            optimiser.zero_grad()
            expected.backward()
            norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(w.grad) for w in leaves.values()]))  # type: ignore[arg-type]
            assert norm > p.max_norm  # so that the limit is tried
            for weight in leaves.values():
                assert weight.grad is not None
                weight.grad *= p.max_norm / norm
            optimiser.step()
            assert learner.step(torch.Generator().manual_seed(number)) == pytest.approx(
                float(expected.detach()), rel=1e-4
            )
        for name, leaf in leaves.items():
            assert torch.allclose(learner.leaves[name], leaf, atol=2e-5), name
            assert not torch.equal(leaf, before[name]), name
    assert all(torch.equal(weight, before[name]) for name, weight in network.named_parameters())
    assert not any(weight.requires_grad for weight in network.parameters())


def test_an_interrupted_dreambooth_leaves_the_network_as_it_was_and_goes_on(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = relearning.run(dreambooth(tiny_folder))
    assert [row.status for row in whole.rows] == [Status.OK] * 2
    assert "the whole network after 3 steps on 2 pictures" in str(whole.rows[-1].report["summary"])
    session, step = Session(tmp_path, checkpoint_seconds=0.0), Relearner.step

    def interrupted(learner: Relearner, generator: torch.Generator) -> torch.Tensor:
        if learner.steps == 2:
            raise KeyboardInterrupt
        return step(learner, generator)

    given = dreambooth(tiny_folder, session)
    before = {name: weight.clone() for name, weight in given.models.network(None).state_dict().items()}
    with monkeypatch.context() as patch:
        patch.setattr(Relearner, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            relearning.run(given)
    assert all(torch.equal(tensor, before[name]) for name, tensor in given.models.network(None).state_dict().items())
    assert (tmp_path / "prior.safetensors").exists() and list(tmp_path.glob("*.pt"))
    again = relearning.run(dreambooth(tiny_folder, session))
    assert again.tensors.keys() == whole.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())
    change = trained_network(whole.tensors, item_of(3))
    trained = with_changes(given.models.network(None), change.unet).state_dict()
    assert all(torch.equal(trained[name], before[name] + whole.tensors[f"{item_of(3)}/{name}"]) for name in change.unet)


def test_a_lora_s_parameters_are_stored_as_before_dreambooth_and_a_network_s_have_no_rank() -> None:
    plain = RelearningParameters().model_dump(mode="json")
    assert plain.keys() == {
        "checkpoints", "rank", "alpha", "learning_rate", "images", "templates", "batch_size", "weight_decay", "flip"
    }  # fmt: skip
    whole = registry.parse("relearning", {}, "dreambooth")
    assert not {"rank", "alpha"} & whole.model_dump(mode="json").keys()
    assert RelearningParameters.model_validate(whole.model_dump(mode="json")) == whole
    assert whole.unet_calls(1) == 200 * 50 * 2 + 2 * 3 * 800
    shapes = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,)}
    assert isinstance(whole, RelearningParameters) and stored_bytes(whole, shapes) == 4 * 4 * (108 + 4)
    for given, preset in (({"rank": 4}, None), ({}, "testbed")):
        with pytest.raises(SpecError, match=r"rank: only a LoRA .* or start from preset dreambooth"):
            registry.parse("relearning", {"trains": "network", **given}, preset)


def test_what_belongs_to_a_prior_is_refused_without_one_and_changes_no_key_where_its_weight_is_0() -> None:
    with pytest.raises(SpecError, match=r"prior_pictures: .* and prior_weight is 0"):
        registry.parse("relearning", {"prior_pictures": 8})
    stored = [
        registry.parse("relearning", {"prior_weight": 0, **given}, "dreambooth").model_dump(mode="json")
        for given in ({}, {"prior_pictures": 8, "prior_steps": 2})
    ]
    assert stored[0] == stored[1] and not any(name.startswith("prior_") for name in stored[0])
    assert stored[0] != registry.parse("relearning", {}, "dreambooth").model_dump(mode="json")
