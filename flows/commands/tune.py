"""tune: a guard's parameters from a calibration split."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer
import yaml

from audit import locations
from audit.errors import EnvironmentProblem, SpecError
from audit.files import Document
from audit.spec.document import load_spec
from audit.yaml_files import load_yaml, reason
from flows.commands import options
from flows.commands.run import flow_of
from flows.console import emit_json, say, table

_LONGEST_NAME = 80  # characters of a parameter's name

app = typer.Typer(help="Choose a guard's parameters on pictures that the audit never sees.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Choose a guard's parameters on pictures that the audit never sees."""


@app.command("irece")
def irece(
    spec: Annotated[Path, typer.Argument(help="YAML file that says what to audit, with a section calibration.")],
    concept: Annotated[str, typer.Option("--concept", help="The concept, by its name in the spec.")],
    defence: Annotated[str, typer.Option("--defence", help="What IRECE joins, by its name; none is the backbone.")],
    out: Annotated[Path, typer.Option("--out", help="YAML file for the chosen parameters and their evidence.")],
    scenario: Annotated[str, typer.Option("--scenario", help="The attack to tune against.")] = "latent-whitebox",
    sweep: Annotated[
        list[str] | None, typer.Option("--sweep", help="One parameter's values, as tau=0.3,0.4; repeatable.")
    ] = None,
    cases: Annotated[int, typer.Option("--cases", min=2, help="Calibration cases for each candidate.")] = 24,
    crr_max: Annotated[float | None, typer.Option("--crr-max", help="CRR to reach; else the policy's limit.")] = None,
    root: options.Root = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """Sweep IRECE's parameters on the calibration split and write the best, with the frontier of CRR and quality."""
    from audit.tuning import candidates, choice

    parsed = load_spec(spec)
    request = candidates.Request("irece", concept, defence, scenario, _grid(sweep, candidates.DEFAULT_GRID), cases)
    trial, tried = candidates.calibration_spec(parsed, request)
    splits = candidates.splits_of(parsed)
    goal = candidates.target(parsed, request) if crr_max is None else crr_max
    place = locations.storage_root(root)
    trial_path = out.with_suffix(".audit.yaml")
    _write(trial_path, trial.model_dump(mode="json"))
    from audit.run import new_run_id

    run_id = new_run_id(trial.name, dt.datetime.now(dt.UTC))
    say(f"{len(tried)} candidates, run {run_id} in {place}")
    with flow_of(run_id, root, verbose):
        from flows.audit import Finished, audit
        from tasks.context import Settings

        settings = Settings(device=device, batch_size=batch_size)
        finished = audit(str(trial_path), root=root, run_id=run_id, settings=settings)
    assert isinstance(finished, Finished)  # the data of the flow's state
    from audit.plan.document import read_plan
    from audit.storage.journal import Journal

    journal = Journal(place)
    points = choice.points(finished.result, read_plan(journal, run_id), journal, tried)
    document = choice.evidence(request, points, goal, splits, run_id)
    _write(out, document)
    if as_json:
        emit_json(document)
        return
    table([_row(point, request.grid) for point in document["evidence"]["frontier"]])
    chosen = document["guard"]["parameters"]
    print(f"\nchosen     {', '.join(f'{name} {value}' for name, value in chosen.items())}")
    print(
        f"reached    {'yes' if document['evidence']['reached'] else 'no'}, a worst case of at most {goal:g} was asked for"
    )
    print(f"written    {out}")


def _grid(sweep: list[str] | None, default: Mapping[str, Sequence[object]]) -> dict[str, list[object]]:
    """Return parameter -> values, from `name=value,value`; the default sweep without any."""
    if not sweep:
        return {name: list(values) for name, values in default.items()}
    grid: dict[str, list[object]] = {}
    for text in sweep:
        name, equals, values = text.partition("=")
        name = name.strip()
        if not equals or not name.isidentifier() or len(name) > _LONGEST_NAME or not values.strip():
            shown = text if len(text) <= 80 else f"{text[:80]}..."
            what = f"{shown!r} is not name=value,value"
            raise SpecError(what, where="--sweep", next_step="write --sweep tau=0.3,0.4")
        try:
            grid[name] = [load_yaml(value) for value in values.split(",")]
        except yaml.YAMLError as error:
            what = f"the values of {name} are not valid YAML: {reason(error)}"
            raise SpecError(what, where="--sweep", next_step="write --sweep tau=0.3,0.4") from None
    return grid


def _row(point: Document, grid: Collection[str]) -> dict[str, object]:
    swept = {name: point["parameters"][name] for name in grid}
    interval = f"{point['low']:.2f}-{point['high']:.2f}"
    rate = f"{point['hits']}/{point['assessed']} ({interval})"
    return {
        **swept,
        "CRR": rate,
        "worst case": f"{point['worst_case']:.2f}",
        "judge": point["judge"],
        "PSNR dB": f"{point['psnr_db']:.1f}",
        "SSIM": f"{point['ssim']:.3f}",
    }


def _write(path: Path, document: Mapping[str, object]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(dict(document), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise EnvironmentProblem(
            f"the file cannot be written: {error.strerror or error}", where=str(path), next_step="name another --out"
        ) from None
