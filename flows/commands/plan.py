"""plan: the work of a run, its cost and what it can prove, without running it."""

from __future__ import annotations

import dataclasses
import datetime as dt
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EnvironmentProblem, SpecError
from audit.spec.document import load_spec
from audit.spec.relearning import CyclesScenario
from flows.commands import options
from flows.commands.proofs import Row, chance_told, power_of, proofs_of, summed
from flows.console import Format, amount, duration, emit_json, progress_bars, runnable, say, table

if TYPE_CHECKING:
    from audit.plan.document import Draft
    from audit.plan.forecast import Calls, Price
    from audit.plan.rates import Rates
    from audit.run import Forecast

Measure = Annotated[bool, typer.Option("--measure", help="Time a few UNet forwards on this device for the forecast.")]

Rate = Annotated[
    float | None,
    typer.Option("--rate", min=1e-9, help="Seconds of one UNet call per picture, as stated by you, for the forecast."),
]
RatesFile = Annotated[
    Path | None,
    typer.Option("--rates", help="YAML or JSON file with rates of another machine, as `make bench-gpu` writes it."),
]
TrueRate = Annotated[
    float,
    typer.Option(
        "--true-rate",
        min=0.0,
        max=1.0,
        help="True CRR of a model whose chance to pass is told: 0.01 is one picture in 100.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command of this file."""
    app.command("plan")(plan)


def plan(
    spec: Annotated[Path, typer.Argument(help="YAML file that says what to audit.")],
    root: options.Root = None,
    measure: Measure = False,
    rate: Rate = None,
    rates: RatesFile = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    true_rate: TrueRate = 0.01,
    output: options.OutputFormat = Format.TERMINAL,
    as_json: options.Json = False,
) -> int:
    """Print cells, cases, units, network calls, time and storage of SPEC, what zero hits prove, and how likely a model passes.

    Network calls are those of the UNet, or of the transformer in its place.

    Writes nothing.

    Files that are missing do not stop the forecast: they are listed after it with what to do, and the exit code is 2.
    """
    parsed = load_spec(spec)
    if output not in (Format.TERMINAL, Format.JSON):
        raise SpecError(f"a plan has no {output.value} form", where="--format", next_step="use terminal or json")
    from audit.plan.forecast import price as priced
    from audit.progress import warnings_to
    from audit.run import draft_plan
    from audit.storage.journal import Journal

    stated = _stated(rate, rates, measure)
    journal = Journal(locations.storage_root(root))
    warned: list[str] = []
    with warnings_to(warned.append), progress_bars() as reporter:
        reporter.begin("collect", None, 0)
        forecast = draft_plan(parsed, dt.datetime.now(dt.UTC), lambda done: reporter.update("collect", done))
        reporter.end("collect")
    if measure and forecast.backbone is not None:
        from audit.plan.measuring import measured_rates

        stated = measured_rates(forecast.backbone, device, batch_size)
    price = priced(forecast.draft, journal, forecast.shape, stated)
    if as_json or output is Format.JSON:
        emit_json(_document(forecast, price, warned, true_rate))
    else:
        _print(forecast, price, warned, str(spec), true_rate)
    if not forecast.missing:
        return 0
    say(f"error: {_missing(forecast, str(spec))}")  # not raised: the one JSON document is out already
    return EnvironmentProblem.exit_code


def _stated(rate: float | None, rates: Path | None, measure: bool) -> Rates | None:
    """Return the rates that the user states instead of a measurement on this machine."""
    if (rate is not None) + (rates is not None) + measure > 1:
        raise SpecError(
            "the forecast can use one rate only", where="--rate, --rates, --measure", next_step="give one of them"
        )
    from audit.plan import rate_files

    if rate is not None:
        return rate_files.stated(rate)
    return rate_files.read_rates(rates) if rates is not None else None


def _missing(forecast: Forecast, spec: str) -> EnvironmentProblem:
    """Return one message that lists everything that keeps the audit from running here, each with what to do about it."""
    count = len(forecast.missing)
    lines = [f"this audit cannot run here yet: {count} thing{'s are' if count != 1 else ' is'} missing or unusable"]
    for problem in forecast.missing:
        lines += [f"  - {problem.kind}: {problem.what}"]
        lines += [f"    where: {problem.where}", f"    next:  {problem.next_step}"]
    again = f"get them, then run: erasure-audit plan {shlex.quote(spec)}"
    return EnvironmentProblem("\n".join(lines), where=spec, next_step=again)


def _document(forecast: Forecast, price: Price, warned: list[str], true_rate: float) -> Row:
    from audit.plan.access import access_of
    from audit.plan.planner import plan_size

    plan = forecast.draft
    return {
        "name": plan.name,
        "size": plan_size(plan),
        "cells": [cell.as_row() for cell in plan.cells],
        "erasers": _erasers(plan),
        "access": access_of(plan.spec),
        "work": _work_rows(price),
        "unet_calls": _calls(price.calls),
        "text_encoder_calls": round(price.texts),
        "guide_gradients": price.gradients,
        "seconds": _calls(price.seconds) if price.seconds else None,
        "device_hours": round(price.seconds.expected / 3600, 3) if price.seconds else None,
        "bytes": round(price.storage),
        "rate_basis": price.rates.basis,
        "assumptions": list(price.assumptions),
        "proofs": proofs_of(plan, true_rate),
        "power": dataclasses.asdict(power_of(plan, true_rate)),
        "warnings": warned,
        "missing": [problem.as_row() for problem in forecast.missing],
    }


def _erasers(plan: Draft) -> dict[str, str]:
    """Return defence -> the erased weights that it stands on, of those that have any."""
    concepts = [concept.name for concept in plan.spec.concepts]
    each = f"{len(concepts)} model{'s' * (len(concepts) != 1)}, one for each concept ({', '.join(concepts)})"
    cycles = [scenario.cycles for scenario in plan.spec.scenarios if isinstance(scenario, CyclesScenario)]
    again = f", and further erasures in cycles: {max(cycles)}" if cycles else ""
    return {
        defence.name: f"{defence.eraser.method}, {each}{again}"
        if defence.eraser.checkpoint is None
        else f"one checkpoint for every concept, claimed to be {defence.eraser.method}"
        for defence in plan.spec.defences
        if defence.eraser is not None
    }


def _calls(calls: Calls) -> dict[str, int]:
    return {"low": round(calls.low), "expected": round(calls.expected), "high": round(calls.high)}


def _work_rows(price: Price) -> list[Row]:
    return [
        {
            "units": work.kind,
            "planned": work.units,
            "done": work.units - work.pending,
            "pending": work.pending,
            "rows": work.rows,
            "network calls": round(work.calls.expected),
            "storage": amount(work.storage),
        }
        for work in price.work
    ]


def _print(forecast: Forecast, price: Price, warned: list[str], spec: str, true_rate: float) -> None:
    from audit.plan.access import access_of
    from audit.plan.forecast import pictures_sharing

    plan = forecast.draft
    print(f"{plan.name}: {len(plan.cells)} cells, {plan.cases.num_rows:,} cases")
    print(f"{pictures_sharing(plan):,} of the cases share a picture with another cell")
    for defence, weights in _erasers(plan).items():
        print(f"defence {defence}: {weights}")
    for scenario, controlled in access_of(plan.spec).items():
        print(f"scenario {scenario}: whoever attacks controls {controlled}")
    for said in warned:
        print(f"warning: {said}")
    print()
    table(_work_rows(price))
    print()
    calls = price.calls
    spread = f" (between {calls.low:,.0f} and {calls.high:,.0f})" if calls.high > calls.low else ""
    print(f"network calls  {calls.expected:,.0f} of the UNet or transformer{spread}")
    if price.texts:
        print(f"text calls     {price.texts:,.0f} of the text encoder, by searches for prompts")
    if price.gradients:
        print(f"gradients      {price.gradients:,.0f} through the decoder and the guide, by classifier guidance")
    print(f"storage        {amount(price.storage)}")
    print(f"time           {_time(price)}")
    for assumption in price.assumptions:
        print(f"  - {assumption}")
    if forecast.backbone is None:
        print("  - backbone: its files are not here, so sizes are those of Stable Diffusion v1.x")
    proofs = proofs_of(plan, true_rate)
    if proofs:
        print(f"\nWhat zero hits can prove at {plan.spec.gate.confidence:.0%} confidence:")
        table(summed(proofs))
        print(
            f"\nThe chance to pass is that of a cell whose true CRR is {true_rate:.4g}. {chance_told(power_of(plan, true_rate))}"
        )
    if not forecast.missing:
        print(runnable(f"\nnext  erasure-audit run {shlex.quote(spec)}"))


def _time(price: Price) -> str:
    if price.seconds is None:
        return "unknown: --measure times this machine, --rate or --rates state another one"
    low, high = duration(price.seconds.low), duration(price.seconds.high)
    spread = f", between {low} and {high}" if low != high else ""
    hours = price.seconds.expected / 3600
    total = f" = {hours:,.1f} device hours" if hours >= 1 else ""
    return f"{duration(price.seconds.expected)}{total}{spread} (from {price.rates.basis})"
