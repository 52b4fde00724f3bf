"""run, resume, work: the commands that compute."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from audit import locations
from audit.errors import EXIT_INCONCLUSIVE, AuditError, EnvironmentProblem, Interrupted
from audit.machine import garbage
from audit.plan.preflight.compiler import require_compiler
from audit.spec.document import load_spec
from flows import environment
from flows.commands import options
from flows.commands.options import Where
from flows.console import Format, emit_json, progress_bars, say
from flows.notify import notifying
from flows.verdicts import print_result

if TYPE_CHECKING:
    from audit.spec.document import Spec
    from audit.verdict.results import RunResult
    from tasks.context import Settings
    from tasks.units import StageReport

SHOWN_FAILURES = 5


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("run")(run)
    app.command("resume")(resume)
    app.command("work")(work)


def run(
    spec: Annotated[Path, typer.Argument(help="YAML file that says what to audit.")],
    root: options.Root = None,
    database: options.Database = None,
    reports: options.Reports = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    compile_with: options.Compile = None,
    gpu_slot: options.GpuSlot = None,
    runner: options.Runner = Where.INLINE,
    address: options.Address = None,
    workers: options.Workers = None,
    cpus_per_unit: options.CpusPerUnit = 1.0,
    gpus_per_unit: options.GpusPerUnit = None,
    share_weights: options.ShareWeights = False,
    show_sensitive: options.ShowSensitive = False,
    output: options.OutputFormat = Format.TERMINAL,
    as_json: options.Json = False,
    exit_zero: options.ExitZero = False,
    verbose: options.Verbose = False,
    notify: options.Notify = None,
    notify_shut: options.NotifyShut = False,
) -> int:
    """Audit SPEC from corpus to verdict and reports."""
    parsed = load_spec(spec)
    chosen = _settings(
        device=device, batch_size=batch_size, compile_with=compile_with, gpu_slot=gpu_slot, runner=runner,
        address=address, workers=workers, cpus_per_unit=cpus_per_unit, gpus_per_unit=gpus_per_unit,
        share_weights=share_weights, database=database, reports=reports, show_sensitive=show_sensitive,
    )  # fmt: skip
    from audit.run import new_run_id

    run_id = new_run_id(parsed.name, dt.datetime.now(dt.UTC))
    form = Format.JSON if as_json else output
    with notifying(notify, run_id, only_shut=notify_shut) as tell:
        return _audit(str(spec), root, run_id, chosen, form, exit_zero, verbose, tell, parsed)


def resume(
    run_id: Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")],
    root: options.Root = None,
    database: options.Database = None,
    reports: options.Reports = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    compile_with: options.Compile = None,
    gpu_slot: options.GpuSlot = None,
    runner: options.Runner = Where.INLINE,
    address: options.Address = None,
    workers: options.Workers = None,
    cpus_per_unit: options.CpusPerUnit = 1.0,
    gpus_per_unit: options.GpusPerUnit = None,
    share_weights: options.ShareWeights = False,
    show_sensitive: options.ShowSensitive = False,
    output: options.OutputFormat = Format.TERMINAL,
    as_json: options.Json = False,
    exit_zero: options.ExitZero = False,
    verbose: options.Verbose = False,
    notify: options.Notify = None,
    notify_shut: options.NotifyShut = False,
) -> int:
    """Compute what RUN_ID lacks, then conclude and report it again."""
    chosen = _settings(
        device=device, batch_size=batch_size, compile_with=compile_with, gpu_slot=gpu_slot, runner=runner,
        address=address, workers=workers, cpus_per_unit=cpus_per_unit, gpus_per_unit=gpus_per_unit,
        share_weights=share_weights, database=database, reports=reports, show_sensitive=show_sensitive,
    )  # fmt: skip
    form = Format.JSON if as_json else output
    with notifying(notify, run_id, only_shut=notify_shut) as tell:
        return _audit(None, root, run_id, chosen, form, exit_zero, verbose, tell)


def work(
    run_id: Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")],
    root: options.Root = None,
    device: options.Device = None,
    batch_size: options.BatchSize = None,
    compile_with: options.Compile = None,
    gpu_slot: options.GpuSlot = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> int:
    """Help with the units of RUN_ID; any number of processes on any machines may do so at once."""
    locations.storage_root(root)
    chosen = _settings(
        device=device, batch_size=batch_size, compile_with=compile_with, gpu_slot=gpu_slot, runner=Where.INLINE
    )
    with flow_of(run_id, root, verbose):
        from flows.work import work as flow

        stages = flow(run_id, root=root, settings=chosen())
    computed = sum(stage.computed for stage in stages)
    failed = _tell_failures(stages)
    if as_json:
        emit_json({"run_id": run_id, "computed": computed, "failed": failed})
    else:
        print(f"computed {computed} units of {run_id}; {failed} failed")
    return EXIT_INCONCLUSIVE if failed else 0


def _settings(**values: object) -> Callable[[], Settings]:
    """Return what makes the settings, once Prefect may be imported. Raises `EnvironmentProblem` for a runner that cannot run."""
    given = {name: value for name, value in values.items() if value is not None}
    values = {name: value.value if isinstance(value, Enum) else value for name, value in given.items()}
    if values.get("compile_with") is not None and values.get("runner") != "ray":  # whose nodes are asked themselves
        require_compiler()
    if values.get("runner", "inline") != "inline":
        from tasks.context import Settings
        from tasks.runners import require_runner

        require_runner(Settings.model_validate(values))  # mistakes are told before Prefect starts

    def make() -> Settings:
        from tasks.context import Settings

        return Settings.model_validate(values)

    return make


def _audit(
    spec: str | None,
    root: str | None,
    run_id: str,
    settings: Callable[[], Settings],
    output: Format,
    exit_zero: bool,
    verbose: bool,
    tell: Callable[[RunResult], None],
    parsed: Spec | None = None,
) -> int:
    place = locations.storage_root(root)
    say(f"run {run_id} in {place}")
    with flow_of(run_id, root, verbose):
        from flows.audit import Finished, audit
        from tasks.context import keep_spec

        if parsed is not None:
            keep_spec(place, run_id, parsed)
        finished = audit(spec, root=root, run_id=run_id, settings=settings())
    assert isinstance(finished, Finished)  # the data of the flow's state
    _tell_failures(finished.stages)
    tell(finished.result)
    print_result(finished.result, finished.reports, output, root)
    return 0 if exit_zero else finished.result.verdict.status.exit_code


@contextlib.contextmanager
def flow_of(run_id: str, root: str | None, verbose: bool) -> Iterator[None]:
    """Run a flow inside the block: progress on stderr, stdout kept clean, and a way on after an interruption."""
    if not verbose:
        environment.quiet()
    from prefect.exceptions import TerminationSignal

    from flows.prefect_check import prefect_failure, require_prefect
    from flows.temporary_server import prefect_api

    require_prefect()
    where = f" --root {shlex.quote(root)}" if root else ""
    try:
        with (
            contextlib.redirect_stdout(sys.stderr),
            prefect_api(meanwhile=_import_what_flows_need),
            progress_bars() as reporter,
        ):
            from tasks.progress import reporting_to

            with reporting_to(reporter):
                yield
    except (KeyboardInterrupt, TerminationSignal):
        message = f"interrupted; what is computed is kept\nresume with: erasure-audit resume {run_id}{where}"
        raise Interrupted(message) from None
    except AuditError as error:
        if error.next_step:
            error.next_step = error.next_step.replace("resume RUN_ID", f"resume {run_id}{where}")
        raise
    except Exception as error:
        if (failure := prefect_failure(error)) is None:
            raise
        raise EnvironmentProblem(
            f"the Prefect server failed: {failure}; what is computed is kept",
            where="PREFECT_API_URL",
            next_step=f"look at the server's log, then: erasure-audit resume {run_id}{where}",
        ) from error


@functools.cache  # once is enough, and what is alive at a later run is not what imports left
def _import_what_flows_need() -> None:
    """Import what takes seconds and nearly every run uses."""
    with garbage.lasting():
        import flows.audit
        import flows.work  # noqa: F401
        from audit.compute import worker  # noqa: F401
        from audit.index import expectations  # noqa: F401


def _tell_failures(stages: Sequence[StageReport]) -> int:
    """Print what failed on stderr; return the number of failed units."""
    failures = [failure for stage in stages for failure in stage.failures]
    for failure in failures[:SHOWN_FAILURES]:
        say(f"{failure.kind} unit {failure.key[:12]}: {failure.message}")
    if len(failures) > SHOWN_FAILURES:
        say(f"and {len(failures) - SHOWN_FAILURES} more failed units")
    return len(failures)
