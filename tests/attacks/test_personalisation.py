"""Personalisations as attack inputs: what a LoRA or DreamBooth adds, on top of every kind of defence, from plan to picture."""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load, save_file

from audit import guards, run
from audit.backbones import Pipeline, load_pipeline, noise_model
from audit.checkpoints.apply import apply_artefact, with_changes
from audit.checkpoints.personal import Change, read_change
from audit.checkpoints.tensors import backbone_modules
from audit.drafting import draft_plan
from audit.errors import CheckpointError, SpecError
from audit.guards.irece import Irece
from audit.journal import Journal
from audit.model_refs import resolve_model
from audit.models import Models
from audit.personalisation import resolve_personalisation
from audit.plan import KINDS, Plan, read_plan
from audit.pricing import calls_of
from audit.spec import Guard, load_spec
from tests.attacks import loras
from tests.attacks.loras import State
from tests.checkpoints import files
from tests.flows.audits import finish_run, plan_run, tiny_spec

SAMPLER = {"steps": 2, "guidance": 3.0}


@pytest.fixture(scope="module")
def pipeline(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


@pytest.fixture(scope="module")
def unet(pipeline: Pipeline) -> State:
    return {name: tensor.clone() for name, tensor in pipeline.unet.state_dict().items()}


def change_of(path: Path, pipeline: Pipeline) -> Change:
    return read_change(resolve_personalisation(str(path)), backbone_modules(pipeline.unet, pipeline.text_encoder))


def written(path: Path, state: State, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path, metadata)
    return path


@pytest.mark.parametrize(
    "name", [loras.diffusers_name, loras.peft_name, loras.processor_name, loras.bare_name, loras.kohya_name]
)
def test_every_layout_adds_up_times_down_whatever_the_order_of_its_names(
    tmp_path: Path, pipeline: Pipeline, unet: State, name: loras.Name
) -> None:
    state = loras.lora_state(unet, name)
    path = written(tmp_path / "a.safetensors", dict(reversed(state.items())))
    change = change_of(path, pipeline)
    expected = {f"{module}.weight": up @ down for module, (down, up) in loras.pairs(unet).items()}
    assert set(change.unet) == set(expected) and not change.text
    assert all(torch.allclose(change.unet[n](), expected[n], atol=1e-6) for n in expected)
    torch.save(state, tmp_path / "a.bin")
    pickled = change_of(tmp_path / "a.bin", pipeline)
    assert all(torch.equal(change.unet[n](), pickled.unet[n]()) for n in expected)


def test_alpha_scales_by_layer_or_by_metadata_or_not_at_all(tmp_path: Path, pipeline: Pipeline, unet: State) -> None:
    plain = change_of(written(tmp_path / "plain.safetensors", loras.lora_state(unet)), pipeline).unet
    module = loras.attention_modules(unet)[0]
    by_layer = {**loras.lora_state(unet), f"unet.{module}.alpha": torch.tensor(6.0)}
    own = change_of(written(tmp_path / "own.safetensors", by_layer), pipeline).unet
    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1, "unet.r": loras.RANK, "unet.use_dora": False})}
    told = change_of(written(tmp_path / "said.safetensors", loras.lora_state(unet), said), pipeline).unet
    for name, delta in plain.items():
        assert torch.allclose(own[name](), delta() * (6.0 / loras.RANK if name == f"{module}.weight" else 1.0))
        assert torch.allclose(told[name](), delta() / loras.RANK)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("text_encoder.text_model.{}.q_proj.lora_linear_layer.down.weight",
         "text_encoder.text_model.{}.q_proj.lora_linear_layer.up.weight"),
        ("text_encoder.{}.q_proj.lora_A.weight", "text_encoder.{}.q_proj.lora_B.weight"),
        ("text_encoder.text_model.{}.to_q_lora.down.weight", "text_encoder.text_model.{}.to_q_lora.up.weight"),
        ("lora_te_text_model_{}_q_proj.lora_down.weight", "lora_te_text_model_{}_q_proj.lora_up.weight"),
    ],
    ids=["diffusers", "peft", "2023", "kohya"],
)  # fmt: skip
def test_the_text_encoder_changes_with_its_layers(tmp_path: Path, pipeline: Pipeline, down: str, up: str) -> None:
    layer = "encoder.layers.0.self_attn"
    layer = layer.replace(".", "_") if down.startswith("lora_te") else layer
    halves = {down.format(layer): torch.ones(1, 16), up.format(layer): torch.full((16, 1), 0.5)}
    change = change_of(written(tmp_path / "te.safetensors", halves), pipeline)
    assert not change.unet and list(change.text) == ["encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(change.text["encoder.layers.0.self_attn.q_proj.weight"](), torch.full((16, 16), 0.5))


def peft_halves(unet: State) -> State:
    """A LoRA of the UNet by the names that it has in a model which PEFT has wrapped."""
    return {n.removeprefix("unet."): tensor for n, tensor in loras.lora_state(unet, loras.peft_name).items()}


def test_pefts_own_folder_acts_as_its_configuration_says(tmp_path: Path, pipeline: Pipeline, unet: State) -> None:
    plain = change_of(written(tmp_path / "plain.safetensors", loras.lora_state(unet)), pipeline).unet
    folder = loras.write_peft(tmp_path / "peft", peft_halves(unet), lora_alpha=6)
    for named in (folder, folder / "adapter_model.safetensors"):
        found = change_of(named, pipeline)
        assert set(found.unet) == set(plain) and not found.text
        assert all(torch.allclose(found.unet[n](), delta() * (6 / loras.RANK)) for n, delta in plain.items())
    digest = resolve_personalisation(str(folder)).files.sha256
    loras.write_peft(folder, peft_halves(unet), lora_alpha=3)
    assert resolve_personalisation(str(folder)).files.sha256 != digest  # the strength is part of what it is
    torch.save(load((folder / "adapter_model.safetensors").read_bytes()), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    pickled = change_of(folder, pipeline).unet
    assert all(torch.allclose(pickled[n](), delta() * (3 / loras.RANK)) for n, delta in plain.items())


@pytest.mark.parametrize("prefix", ["text_model.", ""], ids=["transformers 4", "transformers 5"])
def test_pefts_folder_of_a_text_encoder_changes_the_text_encoder(
    tmp_path: Path, pipeline: Pipeline, prefix: str
) -> None:
    layer = f"{prefix}encoder.layers.0.self_attn.q_proj"
    halves = {f"{layer}.lora_A.weight": torch.ones(1, 16), f"{layer}.lora_B.weight": torch.full((16, 1), 0.5)}
    change = change_of(loras.write_peft(tmp_path / "te", halves, r=1, lora_alpha=1), pipeline)
    assert not change.unet and list(change.text) == ["encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(change.text["encoder.layers.0.self_attn.q_proj.weight"](), torch.full((16, 16), 0.5))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora = True"),
        ({"use_rslora": True}, "use_rslora = True"),
        ({"alpha_pattern": {"to_q": 4}}, "alpha_pattern"),
        ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
        ({"bias": "lora_only"}, "bias = 'lora_only'"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights = 'pissa"),
        ({"peft_type": "LOHA"}, "type 'LOHA'"),
        ({"lora_alpha": None}, "no lora_alpha"),
        ({"lora_alpha": 0}, "no positive number"),
        ({"r": 4}, "says r = 4"),
        (None, "is not beside it"),
    ],
    ids=lambda value: None if isinstance(value, str) else next(iter(value or {"absent": 0})),
)
def test_what_pefts_configuration_asks_beyond_a_plain_lora_is_refused(
    tmp_path: Path, pipeline: Pipeline, unet: State, config: dict[str, Any] | None, message: str
) -> None:
    folder = loras.write_peft(tmp_path / "peft", peft_halves(unet), **(config or {}))
    if config is None:
        (folder / "adapter_config.json").unlink()
    with pytest.raises(CheckpointError, match=message) as caught:
        change_of(folder, pipeline)
    assert caught.value.next_step and caught.value.where


def scenario(path: Path | str, box: str = "blackbox", **fields: Any) -> dict[str, Any]:
    given = {"name": f"embedding-{box}", "cases": 2, "personalisation": str(path), "sampler": SAMPLER}
    return {**given, **fields}


def spec_with(folder: Path, pipeline: Path, path: Path | str, **fields: Any) -> Path:
    text = {"name": "text", "cases": 2, "sampler": SAMPLER, "templates": ["a photo of a {phrase}"]}
    return tiny_spec(folder, pipeline, scenarios=[text, scenario(path, **fields)])


def draft(path: Path) -> Plan:
    return draft_plan(load_spec(path), dt.datetime.now(dt.UTC)).plan


def planned(path: Path, root: Path) -> Plan:
    return read_plan(run.open_journal(str(root)), plan_run(path, root))


Change_ = Callable[[State, str], State]


def _without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


BAD: dict[str, tuple[Change_, str]] = {
    "unknown layer": (
        lambda s, m: {**s, "unet.mid_block.new.lora.down.weight": torch.ones(2, 8)},
        "belongs to no layer",
    ),
    "not a half": (lambda s, m: {**s, f"unet.{m}.lora.side.weight": torch.ones(2, 8)}, "belongs to no layer"),
    "dora": (lambda s, m: {**s, f"unet.{m}.lora_magnitude_vector": torch.ones(8)}, "belongs to no layer"),
    "half a pair": (lambda s, m: _without(s, f"unet.{m}.lora.up.weight"), "lacks its up half"),
    "rank": (lambda s, m: {**s, f"unet.{m}.lora.up.weight": torch.ones(8, 5)}, "has shapes"),
    "width": (lambda s, m: {**s, f"unet.{m}.lora.down.weight": torch.ones(2, 9)}, "has shapes"),
    "nan": (lambda s, m: {**s, f"unet.{m}.lora.up.weight": torch.full((8, 2), float("nan"))}, "NaN"),
    "untrained": (lambda s, m: {n: t * (".down." in n) for n, t in s.items()}, "changes nothing"),
    "alpha": (lambda s, m: {**s, f"unet.{m}.alpha": torch.tensor(-1.0)}, "alpha"),
    "twice": (lambda s, m: {**s, f"unet.{m}.lora_A.weight": torch.ones(2, 8)}, "the same of one layer"),
    "integers": (lambda s, m: {n: (t * 9).long() for n, t in s.items()}, "floating-point"),
    "other prefix": (lambda s, m: {f"transformer.{n}": t for n, t in s.items()}, "belongs to no layer"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_lora_is_refused_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path, unet: State, bad: str
) -> None:
    change, message = BAD[bad]
    path = written(tmp_path / "bad.safetensors", change(loras.lora_state(unet), loras.attention_modules(unet)[0]))
    with pytest.raises(CheckpointError, match=message) as caught:
        planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    assert caught.value.next_step and caught.value.where


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path, unet: save_file(unet, path), "adds nothing"),
        (lambda path, unet: save_file({"conv_in.weight": unet["conv_in.weight"] + 1}, path), "no set that a known"),
        (lambda path, unet: save_file({n: t + 1 for n, t in unet.items() if "attn2" in n}, path), "not a whole UNet"),
        (lambda path, unet: save_file({**unet, "more.weight": torch.ones(2)}, path), "does not have"),
        (lambda path, unet: save_file({n: t * float("nan") for n, t in unet.items()}, path), "NaN"),
        (lambda path, unet: path.write_bytes(b"no tensors at all"), "safetensors"),
        (lambda path, unet: torch.save({"lora_unet_x": Path("x")}, path.with_suffix(".bin")), "could run code"),
        (lambda path, unet: torch.save({"lora_unet_x": 1}, path.with_suffix(".bin")), "no flat set"),
        (lambda path, unet: save_file(
            loras.lora_state(unet, loras.kohya_name), path, {"prompts": "ring", "rank": "2"}), "is an SPM"),
        (lambda path, unet: save_file(
            loras.lora_state(unet), path, {"lora_adapter_metadata": '{"unet.use_dora": true}'}), "use_dora"),
        (lambda path, unet: None, "no such checkpoint"),
    ],
    ids=["same", "part", "attn2", "unexpected", "nan", "garbage", "code", "number", "spm", "dora", "absent"],
)  # fmt: skip
def test_other_bad_files_are_refused_too(
    tmp_path: Path, tiny_folder: Path, unet: State, save: Any, message: str
) -> None:
    path = tmp_path / "bad.safetensors"
    save(path, unet)
    given = path.with_suffix(".bin") if path.with_suffix(".bin").exists() else path
    with pytest.raises(CheckpointError, match=message) as caught:
        planned(spec_with(tmp_path, tiny_folder, given), tmp_path / "runs")
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"templates": ["a photo of {attack}"]}, "its own token is written as it is"),
        ({"templates": ["{phrase} {phrase}"]}, "once and no other braces"),
        ({"preset": "testbed"}, "takes no preset"),
        ({"embedding": "x.safetensors"}, "either an embedding or a personalisation"),
        ({"personalisation": {"disc": "x"}}, "no file for 'ring'"),
        ({"templates": ["a photo of a very long phrase {phrase}"]}, "tokens"),
    ],
    ids=["mark", "twice", "preset", "both", "concept", "too long"],
)
def test_mistakes_of_the_spec_are_refused(
    tmp_path: Path, tiny_folder: Path, unet: State, fields: dict[str, Any], message: str
) -> None:
    path = loras.write_lora(tmp_path / "lora.safetensors", unet)
    with pytest.raises(SpecError, match=message) as caught:
        planned(spec_with(tmp_path, tiny_folder, path, **fields), tmp_path / "runs")
    assert caught.value.next_step


def test_a_file_that_is_not_there_is_a_gap_of_the_forecast(tmp_path: Path, tiny_folder: Path) -> None:
    found = draft_plan(
        load_spec(spec_with(tmp_path, tiny_folder, tmp_path / "no.safetensors")), dt.datetime.now(dt.UTC)
    )
    assert [gap.kind for gap in found.gaps] == ["checkpoint"]
    assert len(list(found.plan.units_of("attack"))) == 1


def test_identity_follows_the_content_and_never_the_path(tmp_path: Path, tiny_folder: Path, unet: State) -> None:
    def keys(path: Path) -> set[str]:
        return set(draft(spec_with(tmp_path, tiny_folder, path)).units["key"].to_pylist())

    first = keys(loras.write_lora(tmp_path / "one.safetensors", unet))
    assert keys(loras.write_lora(tmp_path / "folder" / "pytorch_lora_weights.safetensors", unet)) == first
    assert keys(tmp_path / "folder") == first
    other = keys(loras.write_lora(tmp_path / "two.safetensors", unet, seed=1))
    assert len(other) == len(first)
    # one attack unit, the pictures of two cells and their scores change; erasing and the text scenario do not
    assert len(other - first) == 5


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path, unet: State) -> tuple[Plan, Journal]:
    folder = tmp_path_factory.mktemp("personal")
    path = loras.write_lora(folder / "lora.safetensors", unet)
    run_id = finish_run(spec_with(folder, tiny_folder, path, templates=["a photo of a {phrase}"]), folder / "runs")
    journal = run.open_journal(str(folder / "runs"))
    return read_plan(journal, run_id), journal


def pictures(plan: Plan, journal: Journal, scenario: str, defence: str) -> list[str]:
    cell = next(c.cell.cell_id for c in plan.cells if (c.cell.scenario, c.cell.defence) == (scenario, defence))
    found = []
    for case in (row for row in plan.cases.to_pylist() if row["cell_id"] == cell):
        rows = {row["image_id"]: row for row in journal.read("generate", case["unit_key"]).to_pylist()}
        assert rows[case["image_id"]]["status"] == "ok"
        found.append(rows[case["image_id"]]["pixel_sha256"])
    return found


def test_the_same_prompt_and_seed_give_other_pictures_with_it_on_the_defence_and_on_the_backbone(
    finished: tuple[Plan, Journal],
) -> None:
    plan, journal = finished
    (unit,) = plan.units_of("attack")
    assert unit.identity["model"] is None and calls_of(unit).high == 0
    assert not any(plan.pending(kind, journal) for kind in KINDS)
    made = {
        (box, defence): pictures(plan, journal, box, defence)
        for box in ("text", "embedding-blackbox")
        for defence in ("none", "uce")
    }
    assert len({picture for found in made.values() for picture in found}) == 8
    report = json.loads(journal.read("attack", unit.key).to_pylist()[0]["report"])
    assert (
        report["summary"].startswith("a LoRA of rank 2 on")
        and report["sha256"] == unit.identity["parameters"]["sha256"]
    )


def test_a_resumed_run_makes_what_is_missing_and_a_changed_file_is_refused(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    path = loras.write_lora(tmp_path / "lora.safetensors", unet)
    plan = planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    journal = run.open_journal(str(tmp_path / "runs"))
    worker = run.worker(plan, journal, device="cpu")
    for kind in ("erase", "attack"):
        for unit in plan.pending(kind, journal):
            worker.run(unit)
    assert not plan.pending("attack", journal)
    waiting = [u for u in plan.pending("generate", journal) if u.identity.get("personalisation")]
    assert len(waiting) == 2
    assert run.worker(plan, journal, device="cpu").run(waiting[0]).unassessed == 0
    loras.write_lora(path, unet, seed=1)
    with pytest.raises(CheckpointError, match="changed since this run was planned"):
        run.worker(plan, journal, device="cpu").run(waiting[1])
    loras.write_lora(path, unet)
    assert run.worker(plan, journal, device="cpu").run(waiting[1]).unassessed == 0
    assert not [u for u in plan.pending("generate", journal) if u.identity.get("personalisation")]


def noise(pipeline: Pipeline, model: Any) -> torch.Tensor:
    latents = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found: torch.Tensor = model(latents, 501, pipeline.encode_text(["a ring", "star"]))
    return found


@pytest.mark.parametrize("write", [files.receler, files.spm])
def test_modules_that_a_defence_adds_go_on_acting(
    tmp_path: Path, pipeline: Pipeline, unet: State, write: files.Writer
) -> None:
    erased = apply_artefact(pipeline, str(write(tmp_path, unet, dict(pipeline.text_encoder.state_dict()))))
    deltas = change_of(loras.write_lora(tmp_path / "own" / "lora.safetensors", unet), pipeline).unet
    personal = dataclasses.replace(erased, unet=with_changes(erased.unet, deltas))
    texts = ["a ring", "star"]
    alone = noise(pipeline, erased.noise_model(texts))
    together = noise(pipeline, personal.noise_model(texts))
    bare = with_changes(pipeline.unet, deltas)
    without = noise(pipeline, noise_model(bare))
    assert not torch.allclose(together, alone, atol=1e-4) and not torch.allclose(together, without, atol=1e-4)
    # the same modules on a backbone that had the LoRA before
    twin = apply_artefact(dataclasses.replace(pipeline, unet=bare), str(erased.artefact.where))
    assert torch.allclose(together, noise(pipeline, twin.noise_model(texts)), atol=1e-5)
    assert torch.equal(alone, noise(pipeline, erased.noise_model(texts)))


def weights(models: Models, key: str | None, name: str) -> torch.Tensor:
    return models._unet(key, "float32").state_dict()[name]


def test_dreambooth_adds_its_difference_to_the_model_it_was_trained_from(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    trained = {name: tensor + 0.1 * ("attn2" in name) for name, tensor in unet.items()}
    black = written(tmp_path / "black.safetensors", trained)
    root = tmp_path / "runs"
    plan = planned(spec_with(tmp_path, tiny_folder, black), root)
    journal = run.open_journal(str(root))
    worker = run.worker(plan, journal, device="cpu")
    (erase,) = plan.units_of("erase")
    worker.run(erase)
    (attack,) = plan.units_of("attack")
    assert attack.identity["model"] is None and worker.run(attack).unassessed == 0
    changed = next(iter(load(journal.blob("erase", erase.key))))
    personal = worker.models.personalised({**attack.identity["parameters"], "base": None})
    erased = weights(worker.models, erase.key, changed)
    assert not torch.equal(erased, unet[changed])
    assert torch.allclose(weights(personal, erase.key, changed), erased + 0.1, atol=1e-6)
    assert torch.allclose(weights(personal, None, changed), unet[changed] + 0.1, atol=1e-6)
    assert torch.equal(weights(worker.models, None, changed), unet[changed])

    started = {name: tensor.clone() for name, tensor in worker.models._unet(erase.key, "float32").state_dict().items()}
    white = written(tmp_path / "white.safetensors", {**started, changed: started[changed] + 0.2})
    plan = planned(spec_with(tmp_path, tiny_folder, white, box="whitebox"), root)
    worker = run.worker(plan, journal, device="cpu")
    (attack,) = plan.units_of("attack")
    assert attack.identity["model"] == erase.key and attack.depends == (erase.key,)
    assert worker.run(attack).unassessed == 0
    personal = worker.models.personalised({**attack.identity["parameters"], "base": erase.key})
    assert torch.allclose(weights(personal, erase.key, changed), started[changed] + 0.2, atol=1e-6)
    assert torch.allclose(weights(personal, None, changed), unet[changed] + 0.2, atol=1e-6)

    written(white, started)
    plan = planned(spec_with(tmp_path, tiny_folder, white, box="whitebox"), root)
    (attack,) = plan.units_of("attack")
    with pytest.raises(CheckpointError, match="adds nothing"):
        run.worker(plan, journal, device="cpu").run(attack)


def test_a_white_box_unet_has_one_erased_model_to_start_from_and_a_lora_needs_none(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    defences = [{"name": "one", "eraser": {"method": "uce"}},
                {"name": "two", "eraser": {"method": "uce", "parameters": {"erase_scale": 2.0}}}]  # fmt: skip
    whole = written(tmp_path / "whole.safetensors", {name: tensor + 1 for name, tensor in unet.items()})

    def spec(path: Path) -> Path:
        return tiny_spec(tmp_path, tiny_folder, scenarios=[scenario(path, "whitebox")], defences=defences)

    with pytest.raises(SpecError, match="have different ones") as caught:
        draft(spec(whole))
    assert caught.value.next_step
    assert len(list(draft(spec(loras.write_lora(tmp_path / "lora.safetensors", unet))).units_of("attack"))) == 1


def test_a_personalised_text_encoder_reads_the_prompts_and_the_backbone_stays_as_it_is(
    tmp_path: Path, tiny_folder: Path, unet: State
) -> None:
    module = "text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer"
    down, up = loras.pairs({"encoder.to_q.weight": torch.empty(16, 16)})["encoder.to_q"]
    halves = {f"{module}.down.weight": down, f"{module}.up.weight": up}
    path = written(tmp_path / "lora.safetensors", {**loras.lora_state(unet), **halves})
    plan = planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    (attack,) = plan.units_of("attack")
    models = run.worker(plan, run.open_journal(str(tmp_path / "runs")), device="cpu").models
    personal = models.personalised({**attack.identity["parameters"], "base": None})
    assert personal is models.personalised({**attack.identity["parameters"], "base": None})
    assert models.personalised(None) is models
    before = models.states(["a ring"])
    assert not torch.allclose(personal.states(["a ring"]), before, atol=1e-4)
    assert torch.equal(models.reader(None).encode_text(["a ring"])[0], before[0])
    guard = {"name": "irece", "parameters": {}}
    (made,) = personal.guards([guards.resolve(Guard.model_validate(guard), plan.spec.concept("ring"))])
    assert isinstance(made, Irece)
    assert made._localiser._unet is models._unet(None, "float32")  # the defender's own standard model
    assert torch.equal(made._localiser._encode(["a ring"]), before)
