"""Guards that cannot work: each is refused when the run is planned, with one message that says what and what next."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from audit import guards
from audit.errors import AuditError
from audit.plan.preflight.guards import check_energy_prompts, check_guards, check_stacks
from audit.plan.preflight.prompts import usable_prompt_sets
from audit.plan.resolve import resolve
from audit.plan.resolved import Missing
from audit.plan.samplers import timesteps
from audit.spec.document import Spec, parse_spec
from audit.spec.sampler import Sampler
from audit.spec.sections import Guard
from audit.weights.references import ModelRef, resolve_model
from audit.weights.schedulers import own_scheduler

BASE: dict[str, Any] = {
    "name": "guarded",
    "backbone": "testbed",
    "concepts": [{"name": "ring", "phrase": "ring", "synonyms": ["hoop"], "neighbours": ["circle"]}],
    "scenarios": [{"name": "text", "cases": 2, "sampler": {"steps": 10, "guidance": 5.0}}],
    "detectors": [
        {"name": "judge", "kind": "clip-zero-shot", "model": "testbed/judge", "background": ["a photo of a square"]},
        {"name": "shapes", "kind": "classifier", "model": "testbed/classifier"},
    ],
    "gate": {"version": "1", "limits": [{"crr_max": 0.1}], "judges": ["judge"]},
}


def spec_of(listed: list[dict[str, Any]], **changes: Any) -> Spec:
    return parse_spec({**BASE, "defences": [{"name": "x", "guards": listed}], **changes}, "test")


def check(spec: Spec, backbone: ModelRef) -> None:
    """Look up what the spec's guards name, and ask what they are asked before it is planned."""
    resolved = resolve(spec)
    for energy in resolved.energies.values():
        if isinstance(energy, Missing):
            raise energy.error
    check_stacks(resolved)
    check_guards(resolved, backbone)


@pytest.fixture(scope="module")
def backbone() -> ModelRef:
    return resolve_model("testbed")


def one(name: str, **parameters: Any) -> list[dict[str, Any]]:
    return [{"name": name, "parameters": parameters}]


REFUSED: dict[str, tuple[list[dict[str, Any]], str]] = {
    "an unknown guard": (one("magic"), "guard 'magic' is not known.*use one of"),
    "an unknown parameter": (one("irece", speed=9), "irece parameter speed.*guard irece takes: t_star"),
    "an empty negative prompt": (one("negative-prompt", text=" "), "text must not be empty"),
    "t* beyond the schedule": (one("irece", t_star=950), "t_star 950 is outside the schedule.*from 901 to 1"),
    "t* of 1000": (one("irece", t_star=1000), "t_star: .*less than or equal to 999"),
    "t* of zero": (one("irece", t_star=0), "t_star: .*greater than or equal to 1"),
    "tau of zero": (one("irece", tau=0), "tau: .*greater than 0"),
    "tau of one": (one("irece", tau=1.0), "tau: .*less than 1"),
    "tau that is no number": (one("irece", tau=float("nan")), "tau: .*finite"),
    "an unknown reading of the noise": (one("irece", noise="blur"), "noise: .*'replace', 'add' or 'level'"),
    "an empty range of areas": (one("irece", area_min=0.5, area_max=0.5), "area_min 0.5 is not below area_max"),
    "blocks without attention": (one("irece", sides=[7]), "no cross-attention layer has 7 x 7 queries.*4, 8, 16"),
    "a template without the phrase": (one("irece", template="a photo"), "must contain {phrase} once"),
    "a template that the phrase melts into": (one("irece", template="a{phrase}"), "'ring' melts into other words"),
    "a template too long": (one("irece", template="a {phrase}" + " a star" * 30), "irece: its text .* tokens, and testbed"),
    "an unknown preset": (one("sld", preset="mild"), "preset: .*'weak', 'weak-200', 'medium'"),
    "SLD switched off": (one("sld", scale=1.0), "scale: .*greater than 1"),
    "a warm-up that never ends": (one("sld", preset="weak"), "warm-up of 15 steps leaves nothing of the 10"),
    "latent re-attention": (one("safree", latent_re_attention=True), "changes nothing in the released code"),
    "a concept without tokens for SAFREE": (one("safree", concepts=["θθ"]), "'θθ' is no word of"),
    "a safety concept without tokens": (one("sld", text="θθ", warmup_steps=1), "concept has no tokens"),
    "no iterations": (one("egloce", iterations=0), "iterations: .*greater than or equal to 1"),
    "a window the wrong way round": (one("egloce", window=[201, 801]), "must run from noisy to clean"),
    "a window between two steps": (one("egloce", window=[460, 410]), "no timestep of the schedule lies in"),
    "an energy model that judges": (one("egloce", energy="testbed/judge"), "'judge' scores with the same weights"),
    "an energy model that is no CLIP": (one("egloce", energy="testbed/classifier"), "is not a CLIPModel"),
    "an energy model that is not there": (one("egloce", energy="./nowhere"), "no such model folder"),
    "one guard twice": (one("irece") * 2, "'irece' is listed twice in one defence"),
    "SLD before its negative prompt": (one("sld", warmup_steps=1) + one("negative-prompt"), "list negative-prompt before"),
    "IRECE over EGLOCE": (one("egloce") + one("irece"), "list irece before egloce"),
}  # fmt: skip


@pytest.mark.parametrize(("listed", "message"), [pytest.param(*rest, id=name) for name, rest in REFUSED.items()])
def test_a_guard_that_cannot_work_is_refused_at_plan_time(
    backbone: ModelRef, listed: list[dict[str, Any]], message: str
) -> None:
    with pytest.raises(AuditError) as caught:
        check(spec_of(listed), backbone)
    import re

    assert re.search(message, str(caught.value), re.DOTALL), str(caught.value)
    assert caught.value.next_step


@pytest.mark.parametrize(
    "listed",
    [
        one("safree") + one("negative-prompt") + one("sld", warmup_steps=2) + one("irece") + one("egloce"),
        one("irece", layers="up", sides=[8, 16], localisation="contrast-neighbours"),
        one("egloce", energy="testbed/energy"),
    ],
)
def test_guards_that_fit_are_let_through(backbone: ModelRef, listed: list[dict[str, Any]]) -> None:
    check(spec_of(listed), backbone)


def test_a_copy_of_a_judge_is_still_a_judge(backbone: ModelRef, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(resolve_model("testbed/judge").path, tmp_path / "copy"))
    (copy / "added.json").write_text("{}")
    with pytest.raises(AuditError, match="scores with the same weights"):
        check(spec_of(one("egloce", energy=str(copy))), backbone)


@pytest.mark.parametrize("kind", ["clip-score", "features"])
def test_an_energy_model_measures_no_quality_either(backbone: ModelRef, kind: str) -> None:
    for model, refused in (("testbed/energy", True), ("testbed/judge", False)):
        quality = [{"name": "psnr", "kind": "psnr"}, {"name": "look", "kind": kind, "model": model}]
        spec = spec_of(one("egloce"), quality=quality)
        if not refused:
            check(spec, backbone)
            continue
        with pytest.raises(AuditError, match="the quality instrument 'look' scores with the same weights"):
            check(spec, backbone)


def test_another_backbone_has_no_energy_model_of_its_own(backbone: ModelRef) -> None:
    with pytest.raises(AuditError, match="names no energy model"):
        check(spec_of(one("egloce")), dataclasses.replace(backbone, source="local"))


def test_a_concept_that_the_energy_model_cannot_read(backbone: ModelRef) -> None:
    concepts = [{"name": "ring", "phrase": "θθ"}]
    with pytest.raises(AuditError, match=r"concept has no tokens: 'θθ' is no word of testbed/energy"):
        check(spec_of(one("egloce"), concepts=concepts), backbone)


def test_a_prompt_that_the_energy_model_would_cut(backbone: ModelRef) -> None:
    spec = spec_of(one("egloce"))
    check_energy_prompts(resolve(spec), ["a photo of a ring"])
    with pytest.raises(AuditError, match="the energy model testbed/energy reads 32"):
        check_energy_prompts(resolve(spec), ["a ring " * 30])


def test_a_backbone_without_cross_attention(backbone: ModelRef, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(backbone.path, tmp_path / "plain"))
    path = folder / "unet" / "config.json"
    config = json.loads(path.read_text())
    kinds = {
        "down_block_types": ["DownBlock2D"] * 3,
        "mid_block_type": "UNetMidBlock2D",
        "up_block_types": ["UpBlock2D"] * 3,
    }
    path.write_text(json.dumps({**config, **kinds}))
    with pytest.raises(AuditError, match="needs cross-attention, and this backbone has none"):
        check(spec_of(one("irece")), dataclasses.replace(backbone, path=folder))
    part = {"mid_block_type": "UNetMidBlock2D"}
    path.write_text(json.dumps({**config, **part}))
    with pytest.raises(AuditError, match="this backbone's network has no mid blocks with cross-attention") as caught:
        check(spec_of(one("irece", layers="mid")), dataclasses.replace(backbone, path=folder))
    assert "all, down, up" in str(caught.value.next_step)


def test_contrast_needs_neighbours(backbone: ModelRef) -> None:
    concepts = [{"name": "ring", "phrase": "ring"}]
    with pytest.raises(AuditError, match="needs a concept with neighbours"):
        check(spec_of(one("irece", localisation="contrast-neighbours"), concepts=concepts), backbone)


def test_neighbours_that_make_a_text_longer_than_the_encoder(backbone: ModelRef) -> None:
    others = [f"{colour}-square-and-a-{colour}-star" for colour in ("red", "green", "blue", "yellow")]
    concepts = [{"name": "ring", "phrase": "ring", "neighbours": others}]
    listed = one("irece", localisation="contrast-neighbours")
    with pytest.raises(AuditError, match=r"guard irece: its text 'a photo of a ring and a .* tokens") as caught:
        check(spec_of(listed, concepts=concepts), backbone)
    assert "fewer neighbours" in str(caught.value.next_step)
    check(spec_of(one("irece"), concepts=concepts), backbone)


def test_a_row_of_a_size_at_which_irece_has_no_such_layer(backbone: ModelRef, tmp_path: Path) -> None:
    """What a model cannot do costs that row, never the run."""
    path = tmp_path / "rows.csv"
    path.write_text("prompt,w,h\na ring,64,64\na ring,128,128\na ring,128,64\n")
    prompts = {"file": str(path), "columns": {"prompt": "prompt", "width": "w", "height": "h"}}
    scenario = {**BASE["scenarios"][0], "cases": 3, "prompts": prompts}
    for sides, expected in (
        ([4], "irece looks at layers of 4 x 4 queries, and at this size they have 8, 16, 32"),
        ([8], ""),
    ):
        spec = spec_of(one("irece", sides=sides), scenarios=[scenario])
        check(spec, backbone)
        own, larger, oblong = (str(row.problem or "") for row in usable_prompt_sets(resolve(spec))["text"].rows)
        assert own == "" and "square pictures only" in oblong
        assert expected in larger and bool(larger) is bool(expected)


def test_the_schedule_is_the_samplers_own(backbone: ModelRef, testbed: Any) -> None:
    for steps in (10, 25, 50):
        assert timesteps(Sampler(steps=steps), own_scheduler(backbone.path)) == testbed.schedule(steps).timesteps[::-1]


def test_the_energy_model_is_in_the_key_by_digest_and_not_by_name() -> None:
    concept = spec_of(one("egloce")).concepts[0]
    values = guards.resolve(Guard(name="egloce"), concept)["parameters"]
    assert values["energy_sha256"] == resolve_model("testbed/energy").sha256 and "energy" not in values


def test_calls_that_guards_add_are_forecast() -> None:
    concept = spec_of(one("irece")).concepts[0]
    grid = list(range(901, 0, -100))

    def calls(name: str, guidance: float, **parameters: Any) -> int:
        return guards.extra_calls([guards.resolve(Guard(name=name, parameters=parameters), concept)], grid, guidance)

    assert calls("negative-prompt", 5.0) == calls("safree", 5.0) == calls("sld", 1.0) == 0
    assert calls("sld", 5.0) == 10
    assert calls("irece", 1.0) == 1 and calls("irece", 1.0, localisation="contrast-null") == 2
    assert calls("egloce", 5.0) == 7 * 3 * 2 and calls("egloce", 1.0, iterations=1) == 7
