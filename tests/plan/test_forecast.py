"""The forecast of a plan: UNet calls by kind, what the journal already has, and rates of earlier units."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from audit.erasers import resolve_parameters
from audit.plan import forecast
from audit.plan.backbone_shape import Shape, shape_of
from audit.plan.document import Plan
from audit.plan.erasure_costs import stored_bytes
from audit.plan.forecast import Calls, Rates, calls_of, price
from audit.plan.identities import EraseIdentity, Unit, as_json
from audit.plan.resolved import CorpusItem
from audit.records import Instrument
from audit.spec.document import parse_spec
from audit.spec.sections import Eraser
from audit.storage.journal import SCHEMAS, Journal
from audit.weights.references import ModelRef, resolve_model
from tests import synthetic
from tests.plan.resolved import resolved_of, stated_plan
from tests.tiny_families import write_flux, write_sd3

UNET = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k.weight": (32, 32),  # 1,024
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_q.weight": (32, 32),  # 1,024
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (32, 16),  # 512
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_v.weight": (32, 16),  # 512
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.weight": (32, 32),  # 1,024
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_out.0.bias": (32,),
    "down_blocks.0.attentions.0.transformer_blocks.0.norm2.weight": (32,),
    "conv_in.weight": (32, 4, 3, 3),  # 1,152
}
SHAPE = Shape(resolution=64, latent_bytes=4096, unet=UNET)


def unit(kind: str, rows: int, identity: Mapping[str, Any]) -> Unit:
    return synthetic.unit(kind, rows, **identity)


def generate(steps: int, guidance: float, rows: int = 1) -> Unit:
    return unit("generate", rows, {"source": "prompt", "sampler": {"steps": steps, "guidance": guidance}})


def make_plan(tmp_path: Path, method: str = "uce", further: Sequence[dict[str, Any]] = (), **parameters: Any) -> Plan:
    spec = parse_spec(
        {
            "name": "priced",
            "backbone": "testbed",
            "concepts": [{"name": "ring", "phrase": "ring"}],
            "corpus": [{"url": str(tmp_path), "concept": "ring"}],
            "defences": [{"name": method, "eraser": {"method": method, "preset": "testbed", "parameters": parameters}}],
            "scenarios": [
                {"name": "text", "cases": 8, "sampler": {"steps": 10, "guidance": 5.0}},
                {"name": "latent-whitebox", "cases": 4, "sampler": {"steps": 10, "guidance": 1.0}},
                *further,
            ],
            "detectors": [{"name": "judge", "kind": "classifier", "model": "testbed/classifier"}],
            "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.3}]},
            "controls": {"cases": 4},
            "unit_size": 4,
        },
        "test",
    )
    ref = ModelRef("testbed", "testbed", tmp_path, None, {}, "b" * 64)
    instrument = Instrument(7, "judge", "classifier", "1", "x", "w", "p", ("ring",), 0.0, 0.5, "{}")
    items = {"ring": [CorpusItem(f"{n:064x}", f"file:///ring/{n}.png") for n in range(4)]}
    return stated_plan(resolved_of(spec, ref, items=items, instrument=instrument))


def test_sampling_costs_two_calls_a_step_under_guidance_and_one_without() -> None:
    assert calls_of(generate(25, 5.0, rows=3)) == Calls(150, 150, 150)
    assert calls_of(generate(25, 1.0, rows=3)) == Calls(75, 75, 75)
    assert calls_of(generate(25, 5.0, rows=3), distilled=True) == Calls(75, 75, 75)


def test_a_network_that_takes_guidance_as_an_input_is_told_by_its_folder(tmp_path: Path) -> None:
    assert shape_of(resolve_model(str(write_flux(tmp_path / "flux")))).distilled
    assert not shape_of(resolve_model(str(write_sd3(tmp_path / "sd3", t5=False)))).distilled


@pytest.mark.parametrize("source", ["image", "vae", "black"])
def test_pictures_that_are_not_sampled_cost_nothing(source: str) -> None:
    assert calls_of(unit("generate", 9, {"source": source, "sampler": None})) == forecast.NO_CALLS


def test_inversion_lies_between_one_evaluation_and_all_passes_a_step() -> None:
    described = {"steps": 10, "passes": 5, "tolerance": 1e-4}
    calls = calls_of(unit("invert", 1, described))
    assert (calls.low, calls.expected, calls.high) == (21, 40, 61)
    assert calls_of(unit("invert", 1, described), evaluations_per_step=2.0).expected == 30
    assert calls_of(unit("invert", 2, {**described, "passes": 0})) == Calls(60, 60, 60)


def test_the_price_of_inversion_holds_for_the_real_inversion() -> None:
    torch = pytest.importorskip("torch")
    from audit.diffusion.inversion import invert
    from audit.diffusion.schedule import make_schedule
    from tests.tiny import SD14_SCHEDULER

    schedule = make_schedule(SD14_SCHEDULER, 10)
    clean, states = torch.randn(2, 4, 4, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(2, 1, 1)
    for passes, tolerance in ((0, 1e-4), (3, 1e-12), (3, 1e3)):
        made = invert(lambda x, t, s: 0.3 * x.sin(), schedule, clean, states, passes=passes, tolerance=tolerance)
        bounds = calls_of(unit("invert", 1, {"steps": 10, "passes": passes}))
        with_round_trip = made.calls + schedule.steps
        assert bounds.low <= int(with_round_trip.min()) and int(with_round_trip.max()) <= bounds.high


def erase(method: str, preset: str = "official", **parameters: Any) -> Unit:
    resolved = resolve_parameters(Eraser(method=method, preset=preset, parameters=parameters), "testbed")
    concept = {"name": "ring", "phrase": "ring", "synonyms": ["hoop", "annulus"]}
    return unit("erase", 1, {"method": method, "parameters": resolved, "concept": concept})


@pytest.mark.parametrize(
    ("made", "calls"),
    [
        # 200 iterations: 0 to 49 guided steps of 2, the frozen model's 2, forward 1, backward 2
        (erase("esd-x"), Calls(200 * 5, 200 * 54, 200 * 103)),
        (erase("esd-x", erase_from="shape"), Calls(200 * 6, 200 * 55, 200 * 104)),
        (erase("esd-u", batch_size=2, iterations=10), Calls(20 * 5, 20 * 54, 20 * 103)),
        # 3 templates x 8 trajectories x 25 steps x 2, then 200 iterations of 8 pictures x 3
        (erase("esd-x", "testbed"), Calls(6000, 6000, 6000)),
        # 9 texts share 24 trajectories, so each takes 3: 27 x 25 x 2 + 7200
        (erase("esd-x", "testbed", synonyms=True), Calls(6150, 6150, 6150)),
        (erase("esd-x", "testbed", sampler="pndm"), Calls(6048, 6048, 6048)),
        # 500 iterations: 0 to 49 steps of 2, the frozen model's 2, 50 adversarial steps of 3, one more backward pass
        (erase("receler", "paper"), Calls(500 * 154, 500 * 203, 500 * 252)),
        (erase("receler", "paper", adversarial_tokens=0), Calls(500 * 5, 500 * 54, 500 * 103)),
        # 1 to 49 steps of 2, the last two draws 49: 49 / 2 + 49 / 50 on average
        (erase("receler", "official"), Calls(500 * 7, 500 * 5 + 1000 * 25.48, 500 * 103)),
        (erase("esd-u", "official-2023"), Calls(1000 * 7, 1000 * 5 + 2000 * 25.48, 1000 * 103)),
        # 24 x 25 x 2, then 200 iterations of 4 pictures x (4 x 3 + 2)
        (erase("receler", "testbed"), Calls(12400, 12400, 12400)),
        (erase("uce"), forecast.NO_CALLS),
        (erase("rece"), forecast.NO_CALLS),
        (erase("speed"), forecast.NO_CALLS),
        # 200 pictures x 51 steps of PNDM x 2, then 100 iterations of 8 pictures x (the anchor's 1 + 3)
        (erase("concept-ablation"), Calls(23600, 23600, 23600)),
        (erase("concept-ablation", variant="noise-based", prior_weight=1.0), Calls(25200, 25200, 25200)),
        # 12 templates share 8 pictures, so each has one: 12 x 50 x 2, 3 masks each, then 50 x 3
        (erase("mace"), Calls(1386, 1386, 1386)),
        # as esd-x with 30 steps, and 4 anchors x (the frozen model's 1 + 3)
        (erase("spm"), Calls(3000 * (5 + 16), 3000 * (34 + 16), 3000 * (63 + 16))),
        # 1000 + 800 x 30 + 5000 latents, each 2 for the frozen model, 0 to 49 steps of 2, and 3 to learn from
        (erase("advunlearn", "paper"), Calls(30000 * 5, 30000 * 54, 30000 * 103)),
        (unit("erase", 1, {"checkpoint": "a" * 64, "claim": "esd-x"}), forecast.NO_CALLS),
    ],
)
def test_training_costs_what_its_parameters_say(made: Unit, calls: Calls) -> None:
    assert calls_of(made) == calls


@pytest.mark.parametrize(
    ("made", "stored"),
    [
        (erase("uce"), 4 * 1024),
        (erase("esd-x-strict"), 2 * 1024),  # bfloat16
        (erase("esd-x"), 2 * (1024 + 1024 + 1024 + 32)),
        (erase("esd-x", stored="float32"), 4 * 3104),
        (erase("esd-u"), 2 * (1024 + 1152)),
        (erase("esd-all"), 2 * (3104 + 2176)),
        (erase("esd-all", "official-2023"), 4 * sum(math.prod(shape) for shape in UNET.values())),
        (erase("receler", rank=8), 4 * (2 * 32 * 8 + 32 + 8)),
        (erase("rece"), 4 * 1024),
        (erase("spm"), 4 * (3 * 65 + 2 * 49)),  # on each of the five matrices a pair of rank 1, and its alpha
        (erase("mace"), 4 * 1024),
        (erase("speed", matrices="keys-and-values"), 4 * 1024),
        (erase("concept-ablation"), 4 * 1024),
        (erase("concept-ablation", parameter_group="full-weight"), 4 * sum(math.prod(s) for s in UNET.values())),
        (erase("advunlearn", "paper"), 0),  # of a UNet that is not Stable Diffusion's
    ],
)
def test_an_erased_model_takes_the_bytes_of_what_its_method_changes(made: Unit, stored: int) -> None:
    assert isinstance(made.identity, EraseIdentity)
    assert stored_bytes(made.identity.method, made.identity.parameters, UNET) == stored


def test_a_plan_that_trains_says_what_a_backward_pass_counts(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "runs"))
    closed, trained = (price(make_plan(tmp_path, method), journal, SHAPE) for method in ("uce", "esd-x"))
    assert trained.calls.expected - closed.calls.expected == 6000
    assert any("backward pass counts as two" in said for said in trained.assumptions)
    assert not any("backward" in said for said in closed.assumptions)


@pytest.mark.parametrize(
    ("method", "emulated", "warned"), [("esd-x", True, True), ("esd-x", False, False), ("uce", True, False)]
)
def test_a_plan_says_that_bfloat16_would_be_emulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str, emulated: bool, warned: bool
) -> None:
    monkeypatch.setattr(forecast, "emulates_bfloat16", lambda: emulated)
    plan = make_plan(tmp_path, method, compute="bfloat16") if method == "esd-x" else make_plan(tmp_path, method)
    found = price(plan, Journal(str(tmp_path / "runs")), SHAPE)
    assert any("in which 1 of the units compute, is emulated" in said for said in found.assumptions) is warned


def test_a_plan_is_priced_by_kind(tmp_path: Path) -> None:
    plan = make_plan(tmp_path)
    found = {work.kind: work for work in price(plan, Journal(str(tmp_path / "runs")), SHAPE).work}
    # text: 2 defences x 8 x 10 x 2; white-box latents: none, their round trips denoised them; random latents: 2 x 4 x 10
    assert found["generate"].calls.expected == 320 + 0 + 80
    assert found["invert"].units == found["invert"].pending == 2
    assert found["erase"].storage == 4 * 2 * 512 + forecast.ROW
    assert found["erase"].calls == forecast.NO_CALLS
    assert found["detect"].rows == found["generate"].rows


def test_latents_of_another_model_are_denoised_anew(tmp_path: Path) -> None:
    black = {"name": "latent-blackbox", "cases": 4, "sampler": {"steps": 10, "guidance": 1.0}}
    plan = make_plan(tmp_path, further=[black])
    found = {work.kind: work for work in price(plan, Journal(str(tmp_path / "runs")), SHAPE).work}
    assert found["generate"].calls.expected == 320 + 80 + 4 * 10  # the backbone's latents through the erased model


def test_time_is_unknown_until_a_rate_is_known(tmp_path: Path) -> None:
    plan, journal = make_plan(tmp_path), Journal(str(tmp_path / "runs"))
    assert price(plan, journal, SHAPE).seconds is None
    measured = price(plan, journal, SHAPE, Rates(seconds_per_call=0.5, basis="measured"))
    assert measured.seconds is not None
    assert measured.seconds.expected == pytest.approx(0.5 * measured.calls.expected)


def test_each_kind_of_detector_has_a_rate_of_its_own(tmp_path: Path) -> None:
    plan, journal = make_plan(tmp_path), Journal(str(tmp_path / "runs"))
    rows = next(work.rows for work in price(plan, journal, SHAPE).work if work.kind == "detect")
    other = price(plan, journal, SHAPE, Rates(0.5, {"clip-zero-shot": 9.0}))
    assert other.seconds is not None and other.seconds.expected == pytest.approx(0.5 * other.calls.expected)
    assert any("detectors classifier are not in it" in said for said in other.assumptions)
    known = price(plan, journal, SHAPE, Rates(0.5, {"clip-zero-shot": 9.0, "classifier": 2.0}))
    assert known.seconds is not None
    assert known.seconds.expected == pytest.approx(0.5 * known.calls.expected + 2.0 * rows)
    assert not any("detectors" in said for said in known.assumptions)


def test_the_journal_says_how_long_each_kind_of_detector_takes(tmp_path: Path) -> None:
    plan, journal = make_plan(tmp_path), Journal(str(tmp_path / "runs"))
    done = next(plan.units_of("detect"))
    rows = [
        {**dict.fromkeys(SCHEMAS["detect"].names), "image_id": n, "instrument_id": 7, "status": "ok"}
        for n in range(done.rows)
    ]
    runtime = {"seconds": 3.0 * done.rows, "device": "cpu"}
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["detect"])
    journal.write("detect", done.key, table, {"identity": as_json(done.identity), "runtime": runtime})
    found = forecast.journal_rates(journal, plan.backbone["sha256"])
    assert found.seconds_per_detection == {"classifier": pytest.approx(3.0)} and found.seconds_per_call is None


def search_unit(**parameters: Any) -> Unit:
    items = [f"{kind}-{number}" for number in range(2) for kind in ("prompt", "random")]
    return unit("attack", 4, {"method": "ring-a-bell", "parameters": parameters, "items": items})


@pytest.mark.parametrize("evaluations", [None, 500])
def test_the_price_of_a_search_holds_for_the_real_search(evaluations: int | None) -> None:
    torch = pytest.importorskip("torch")
    from audit.attacks.parameters import RingABellParameters
    from audit.attacks.registry import text_calls
    from audit.attacks.ring_a_bell import Space, search

    settings = {"population": 40, "generations": 60, "tokens": 4, "evaluations": evaluations}
    states = torch.randn(50, 8, generator=torch.Generator().manual_seed(0))
    space = Space(torch.arange(3, 50), 0, 1, 2, 8, 4)
    made = search(lambda ids: states[ids], torch.zeros(8, 8), space, RingABellParameters(**settings), 0)
    assert text_calls(as_json(search_unit(**settings).identity)) == pytest.approx(2 * made.evaluations, rel=0.1)


def test_a_search_is_priced_in_texts_and_named(tmp_path: Path) -> None:
    search = {"name": "adversarial-text", "cases": 4, "found": 2, "preset": "testbed", "sampler": {"steps": 10}}
    plan = make_plan(tmp_path, further=[search])
    found = price(plan, Journal(str(tmp_path / "runs")), SHAPE)
    each = 64 + 59 * (2 * 32 * 0.5 + 31 * 0.25) + 1  # and one of the control
    assert found.texts == pytest.approx(2 * each)
    assert any(f"about {2 * each:,.0f} evaluations of the text encoder" in said for said in found.assumptions)
    assert price(make_plan(tmp_path), Journal(str(tmp_path / "runs")), SHAPE).texts == 0


def test_done_units_cost_nothing_and_set_the_rate(tmp_path: Path) -> None:
    plan, journal = make_plan(tmp_path), Journal(str(tmp_path / "runs"))
    before = price(plan, journal, SHAPE)
    done = next(u for u in plan.units_of("generate") if u.identity.source == "prompt")
    empty = dict.fromkeys(SCHEMAS["generate"].names)
    rows = [
        {**empty, "image_id": n, "status": "ok", "image": {"bytes": bytes(500), "path": "x"}, "unet_calls": 20}
        for n in range(done.rows)
    ]
    runtime = {"seconds": 8.0, "unet_calls": 20 * done.rows, "device": "cpu"}
    table = pa.Table.from_pylist(rows, schema=SCHEMAS["generate"])
    journal.write("generate", done.key, table, {"identity": as_json(done.identity), "runtime": runtime})

    after = price(plan, journal, SHAPE)

    assert after.calls.expected == before.calls.expected - calls_of(done).expected
    assert after.rates.seconds_per_call == pytest.approx(8.0 / (20 * done.rows))
    assert after.rates.bytes_per_picture is not None and after.rates.bytes_per_picture > 500
    assert "cpu" in after.rates.basis and after.seconds is not None
    assert forecast.journal_rates(journal, "another backbone") == Rates()


def test_shape_comes_from_configuration_and_weight_headers(tiny_folder: Path) -> None:
    shape = shape_of(resolve_model(str(tiny_folder)))
    assert (shape.resolution, shape.latent_bytes) == (16, 4 * 8 * 8 * 4)
    assert shape.unet["conv_in.weight"] == (8, 4, 3, 3)
    assert "__metadata__" not in shape.unet


def test_pricing_loads_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, audit.plan.forecast, audit.locations, audit.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
