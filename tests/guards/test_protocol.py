"""What every guard promises: order of hooks, independence of the batch, a report that says what happened, and free absence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from audit.diffusion.guard import (
    Conditioning,
    Guard,
    Ledger,
    Predict,
    Prediction,
    Report,
    Step,
    as_json,
    case_generator,
)
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.weights.references import resolve_model
from tests.guards.making import conditioning, make, run

# On the trained testbed: its energy model reads 64 x 64 pictures and its vocabulary.
GUARDS: dict[str, tuple[str, dict[str, Any]]] = {
    "negative-prompt": ("negative-prompt", {}),
    "sld": ("sld", {"preset": "weak", "warmup_steps": 0}),
    "safree": ("safree", {}),
    "irece": ("irece", {"t_star": 501}),
    "irece, level": ("irece", {"noise": "level", "localisation": "contrast-null"}),
    "irece, shifted": ("irece", {"noise": "add", "mask": "shifted"}),
    "egloce": ("egloce", {"iterations": 1, "window": [601, 401]}),
    "egloce, views": ("egloce", {"iterations": 1, "window": [401, 401], "views": 2, "gradient": "stop"}),
}


CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")


@pytest.fixture(scope="module", params=["cpu", pytest.param("cuda", marks=CUDA)])
def testbed(request: pytest.FixtureRequest) -> Pipeline:
    """The testbed on every device that there is."""
    return load_pipeline(resolve_model("testbed"), torch.device(request.param))


class Recorder(Guard):
    """Writes down which hook was called when."""

    def __init__(self, name: str, seen: list[str]) -> None:
        self.name, self.seen = name, seen

    def begin(self, conditioning: Conditioning, timesteps: Sequence[int]) -> None:
        super().begin(conditioning, timesteps)
        self.seen.append(f"{self.name} begin {list(timesteps)}")

    def condition(self, conditioning: Conditioning, step: Step) -> Conditioning:
        self.seen.append(f"{self.name} condition")
        return conditioning

    def before_step(self, latents: torch.Tensor, step: Step, predict: Predict) -> torch.Tensor:
        self.seen.append(f"{self.name} before {step.timestep}")
        return latents

    def guide(self, noise: torch.Tensor, prediction: Prediction, step: Step) -> torch.Tensor:
        self.seen.append(f"{self.name} guide")
        return noise

    def after_step(self, latents: torch.Tensor, step: Step) -> torch.Tensor:
        self.seen.append(f"{self.name} after")
        return latents

    def finish(self, latents: torch.Tensor) -> None:
        self.seen.append(f"{self.name} finish")


def test_hooks_run_in_the_documented_order_over_all_guards(pipeline: Pipeline) -> None:
    seen: list[str] = []
    run(pipeline, [Recorder("a", seen), Recorder("b", seen)], ["x"], 1.0, steps=2)
    step = ["condition", "before {t}", "guide", "after"]
    expected = [f"{g} begin [501, 1]" for g in "ab"]
    expected += [f"{g} {hook.format(t=t)}" for t in (501, 1) for hook in step for g in "ab"]
    assert seen == [*expected, "a finish", "b finish"]


def test_a_branch_is_evaluated_with_the_others_in_one_call(pipeline: Pipeline) -> None:
    inputs: list[int] = []
    states = pipeline.encode_text(["abc"])

    class Branch(Guard):
        name = "branch"

        def branch(self) -> torch.Tensor:
            return states

        def guide(self, noise: torch.Tensor, prediction: Prediction, step: Step) -> torch.Tensor:
            return prediction.further["branch"]

    def counted(latents: torch.Tensor, timestep: int, given: torch.Tensor) -> torch.Tensor:
        inputs.append(len(latents))
        return noise_model(pipeline.unet)(latents, timestep, given)

    start = initial_noise([1], pipeline.latent_shape)
    made = sample(counted, pipeline.schedule(10), start, conditioning(pipeline, ["xyz"], 3.0), [Branch()])
    assert inputs == [3] * 10 and made.unet_calls == 30
    alone = sample(noise_model(pipeline.unet), pipeline.schedule(10), start, conditioning(pipeline, ["abc"], 1.0))
    torch.testing.assert_close(made.latents, alone.latents, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", GUARDS)
@pytest.mark.parametrize(("text", "guidance"), [("a photo of a ring and a square", 4.0), ("", 1.0)])
def test_a_case_does_not_depend_on_its_batch(testbed: Pipeline, name: str, text: str, guidance: float) -> None:
    kind, parameters = GUARDS[name]
    texts = [text, "" if not text else "a photo of a star", text]
    together = run(testbed, [make(testbed, kind, **parameters)], texts, guidance, seeds=[5, 6, 7], steps=5)
    alone = run(testbed, [make(testbed, kind, **parameters)], [text], guidance, seeds=[7], steps=5)
    torch.testing.assert_close(together.latents[2:], alone.latents, rtol=2e-3, atol=2e-3)
    assert together.reports[2][0].timesteps == alone.reports[0][0].timesteps


@pytest.mark.parametrize("name", GUARDS)
def test_every_guard_says_whether_it_acted(testbed: Pipeline, name: str) -> None:
    kind, parameters = GUARDS[name]
    plain = run(testbed, [], ["a photo of a ring"], 4.0, steps=5)
    guarded = run(testbed, [make(testbed, kind, **parameters)], ["a photo of a ring"], 4.0, steps=5)
    ((report,),) = guarded.reports
    assert report.guard == kind and report.version and report.timesteps and report.reason is None
    assert not torch.equal(plain.latents, guarded.latents)


@pytest.mark.parametrize("name", ["negative-prompt", "sld", "safree"])
def test_prompt_based_guards_say_that_they_have_nothing_to_hold_on_to(testbed: Pipeline, name: str) -> None:
    kind, parameters = GUARDS[name]
    plain = run(testbed, [], [""], 1.0, steps=5)
    guarded = run(testbed, [make(testbed, kind, **parameters)], [""], 1.0, steps=5)
    ((report,),) = guarded.reports
    assert torch.equal(plain.latents, guarded.latents)
    assert (report.timesteps == () and "guidance 1" in str(report.reason)) or "null prompt" in str(report.reason)
    assert json.loads(str(as_json(guarded.reports[0])))[0]["acted"] is False


@pytest.mark.parametrize("name", ["irece", "egloce"])
def test_picture_based_guards_act_without_prompt_and_guidance(testbed: Pipeline, name: str) -> None:
    kind, parameters = GUARDS[name]
    ((report,),) = run(testbed, [make(testbed, kind, **parameters)], [""], 1.0, steps=5).reports
    assert report.timesteps and report.unet_calls > 0


def test_all_guards_stack_and_each_reports(testbed: Pipeline) -> None:
    names = ["safree", "negative-prompt", "sld", "irece", "egloce"]
    stack = [make(testbed, *GUARDS[name][:1], **GUARDS[name][1]) for name in names]
    made = run(testbed, stack, ["a photo of a ring", "a photo of a star"], 4.0, steps=5)
    assert [[r.guard for r in row] for row in made.reports] == [names, names]
    assert torch.isfinite(made.latents).all()
    assert made.unet_calls == 15  # prompt, null and SLD's branch, five steps


def test_bfloat16_works_with_every_guard(testbed: Pipeline) -> None:
    import copy
    import dataclasses

    half = dataclasses.replace(testbed, unet=copy.deepcopy(testbed.unet).to(torch.bfloat16))
    stack = [make(half, GUARDS[n][0], **GUARDS[n][1]) for n in ("safree", "negative-prompt", "sld", "irece", "egloce")]
    made = run(half, stack, ["a photo of a ring"], 4.0, steps=5)
    assert made.latents.dtype == torch.float32 and torch.isfinite(made.latents).all()
    assert all(report.failure is None for report in made.reports[0])


@pytest.mark.parametrize("name", ["sld", "safree", "irece", "egloce, views"])
def test_a_case_does_not_depend_on_its_batch_in_bfloat16(testbed: Pipeline, name: str) -> None:
    """Up to bfloat16's rounding, which packing changes; another case's guard acting here would be far more."""
    import copy
    import dataclasses

    half = dataclasses.replace(testbed, unet=copy.deepcopy(testbed.unet).to(torch.bfloat16))
    kind, parameters = GUARDS[name]
    texts = ["a photo of a star", "a photo of a ring"]
    made = [make(half, kind, **{**parameters, **({"window": [501, 501]} if kind == "egloce" else {})}) for _ in "ab"]
    together = run(half, made[:1], texts, 4.0, seeds=[6, 7], steps=2)
    alone = run(half, made[1:], texts[1:], 4.0, seeds=[7], steps=2)
    apart = (together.latents[1] - alone.latents[0]).norm() / alone.latents[0].norm()
    assert float(apart) < 0.05
    assert together.reports[1][0].timesteps == alone.reports[0][0].timesteps


def test_a_guard_that_forgets_a_case_is_a_defect(pipeline: Pipeline) -> None:
    class Forgetful(Guard):
        def report(self) -> list[Report]:
            return []

    with pytest.raises(ValueError, match="reported 0 of 1 cases"):
        run(pipeline, [Forgetful()], ["x"], 1.0, steps=2)


def test_a_ledger_keeps_the_first_reason_and_counts_a_timestep_once() -> None:
    ledger = Ledger(Guard(), 2)
    ledger.act(0, 501)
    ledger.act(0, 501)
    ledger.idle(1, "first")
    ledger.idle(1, "second")
    acted, idle = ledger.reports()
    assert acted.timesteps == (501,) and acted.reason is None
    assert idle.timesteps == () and idle.reason == "first"
    ledger.measure(0, energy=float("nan"))
    assert json.loads(str(as_json(ledger.reports()[:1])))[0]["measures"] == {"energy": None}


def test_a_silent_guard_is_not_called_a_working_one() -> None:
    (report,) = Ledger(Guard(), 1).reports()
    assert report.reason == "it never had cause to act"


def test_guard_noise_is_not_the_initial_noise_and_differs_by_guard() -> None:
    initial = initial_noise([3], (1, 4, 4))[0]
    drawn = {name: torch.randn((1, 4, 4), generator=case_generator(name, 3)) for name in ("irece", "egloce")}
    assert not torch.equal(initial, drawn["irece"]) and not torch.equal(drawn["irece"], drawn["egloce"])
    assert torch.equal(drawn["irece"], torch.randn((1, 4, 4), generator=case_generator("irece", 3)))


def test_a_guard_that_draws_noise_needs_the_seeds(testbed: Pipeline) -> None:
    import dataclasses

    given = dataclasses.replace(conditioning(testbed, [""], 1.0), seeds=())
    for guard in (make(testbed, "irece"), make(testbed, "egloce", views=1)):
        with pytest.raises(ValueError, match="needs the cases' seeds"):
            guard.begin(given, [501, 1])
