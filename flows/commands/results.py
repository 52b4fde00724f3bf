"""report, gate: commands that read a finished or half-finished run again. No model is loaded."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
import yaml
from pydantic import ValidationError

from audit import locations
from audit.errors import SpecError
from audit.files import ForeignError
from audit.spec.base import extreme_numbers
from audit.spec.policy import Policy
from audit.verdict.comparison import MARGIN
from audit.verdict.decisions import VerdictStatus
from audit.verdict.regression import decided
from audit.yaml_files import read_yaml, reason
from flows.commands import options
from flows.commands.keys import Trusted, trusted_keys
from flows.console import Format
from flows.verdicts import print_result

if TYPE_CHECKING:
    from audit.index.baselines import Baseline
    from audit.plan.document import Outline
    from audit.storage.journal import Journal
    from audit.verdict.regression import Comparison
    from audit.verdict.results import RunResult

RunId = Annotated[str, typer.Argument(help="Run id, as `erasure-audit db runs` lists it.")]
HonourWaivers = Annotated[
    bool, typer.Option("--honour-waivers", help="Exit 0 when waivers cover every decision that is not PASS.")
]
Waivers = Annotated[list[Path] | None, typer.Option("--waiver", help="Waiver file; may be given several times.")]
NoRecord = Annotated[
    bool,
    typer.Option(
        "--no-record",
        help="Do not put this decision on record.",
    ),
]
Against = Annotated[
    str | None,
    typer.Option("--against", help="A baseline or a run: what came back since decides too, and the worse one counts."),
]
SpecFile = Annotated[
    str | None, typer.Option("--spec-file", help="Path of the spec in the repository, where SARIF places its findings.")
]
PolicyFile = Annotated[Path | None, typer.Option("--policy", help="YAML policy instead of the stored one.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("report")(report)
    app.command("gate")(gate)


def report(
    run_id: RunId,
    root: options.Root = None,
    database: options.Database = None,
    reports: options.Reports = None,
    show_sensitive: options.ShowSensitive = False,
    output: options.OutputFormat = Format.TERMINAL,
    as_json: options.Json = False,
) -> int:
    """Write the reports of RUN_ID again and print its verdict."""
    from audit import run as steps
    from audit.storage.disclosure import record_disclosure

    place = locations.storage_root(root)
    result = _conclude(run_id, place, database, None)
    folder = locations.report_folder(place, run_id, reports)
    journal = steps.open_journal(place)
    if show_sensitive:
        record_disclosure(journal, run_id, str(folder), dt.datetime.now(dt.UTC))
    files = steps.report(journal, result, folder, show_sensitive=show_sensitive)
    print_result(result, files, Format.JSON if as_json else output, root)
    return result.verdict.status.exit_code


def gate(
    run_id: RunId,
    root: options.Root = None,
    database: options.Database = None,
    policy: PolicyFile = None,
    no_record: NoRecord = False,
    output: options.OutputFormat = Format.TERMINAL,
    as_json: options.Json = False,
    honour_waivers: HonourWaivers = False,
    waivers: Waivers = None,
    keys: Trusted = None,
    against: Against = None,
    margin: options.Margin = None,
    reports: options.Reports = None,
    spec_file: SpecFile = None,
) -> int:
    """Decide RUN_ID again from its stored numbers, under its own policy or another one, and put the decision on record.

    Waivers change no status; with --honour-waivers the exit code is 0 when they cover every decision that is not PASS. They
    cover no regression: with --against, the worse of gate and regression gives the exit code.
    """
    from audit import run as steps
    from audit.index.baselines import resolve
    from flows.commands import waiving

    waiving.require_complete(honour_waivers, waivers, keys)
    trusted, used = trusted_keys(keys or ()), share(margin)
    place = locations.storage_root(root)
    journal, index = steps.open_journal(place), locations.database_path(place, database)
    earlier = resolve(journal, against) if against is not None else None
    replacing = load_policy(policy) if policy else None
    while True:
        result = _conclude(run_id, place, database, replacing)
        honoured = waiving.honour(result, waivers, trusted, place) if waivers else None
        opened_by = tuple(map(str, honoured.waived)) if honoured and honour_waivers and honoured.opens else ()
        comparison, fields = _against(journal, result, *earlier, index, used) if earlier is not None else (None, None)
        if no_record:
            break
        steps.record_decision(journal, result, index, "gate", opened_by, fields)
        if not steps.overtaken(journal, result):
            break
    files = _write(journal, result, reports, comparison, spec_file) if reports else {}
    print_result(result, files, Format.JSON if as_json else output, root, comparison, spec_file)
    if honoured:
        waiving.print_honoured(honoured, honour_waivers)
    return decided(VerdictStatus.PASS if opened_by else result.verdict.status, comparison).exit_code


def share(margin: float | None) -> float:
    """Return the margin of a comparison, by default 5 %. Raises `SpecError` for one outside [0, 1)."""
    if margin is None:
        return MARGIN
    if not 0 <= margin < 1:
        raise SpecError(
            f"a margin of {margin:g} means nothing", where="--margin", next_step="give a share from 0 to below 1"
        )
    return margin


def load_policy(path: Path) -> Policy:
    """Read the policy in a YAML file: either the policy itself, or a spec whose `gate` it is. Raises `SpecError`."""
    try:
        document: object = read_yaml(path)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ForeignError) as error:
        raise SpecError(
            f"the policy cannot be read: {reason(error)}", where=str(path), next_step="name a YAML file with a policy"
        ) from None
    if isinstance(document, dict) and "gate" in document:
        document = document["gate"]
    if extreme := list(extreme_numbers(document)):
        raise SpecError(
            "the policy has mistakes:\n" + "\n".join(f"  - {line}" for line in extreme),
            where=str(path),
            next_step="write numbers of a size that means something",
        )
    try:
        return Policy.model_validate(document)
    except ValidationError as error:
        lines = [f"  - {'.'.join(map(str, d['loc'])) or 'policy'}: {d['msg']}" for d in error.errors(include_url=False)]
        raise SpecError(
            "the policy has mistakes:\n" + "\n".join(lines),
            where=str(path),
            next_step="mend these fields; the `gate` section of a spec shows the form",
        ) from None


def _conclude(run_id: str, root: str, database: str | None, policy: Policy | None) -> RunResult:
    """Return the result of a run from a fresh copy of the index, which holds what was journalled since."""
    from audit import run as steps
    from audit.index.integrity import require_intact
    from audit.plan.document import read_outline

    journal = steps.open_journal(root)
    stored = read_outline(journal, run_id)
    stored.require_own_pictures()
    if policy is not None:
        require_answerable(policy, stored)
    require_intact(journal, run_id)
    published = steps.consolidate(journal, run_id, locations.database_path(root, database))
    return steps.conclude(journal, run_id, published, policy)


def _against(
    journal: Journal, result: RunResult, old: str, baseline: Baseline | None, database: Path, margin: float
) -> tuple[Comparison, dict[str, object]]:
    """Return the comparison with an earlier run, by the policy of the result, and what the record holds of it."""
    from audit.index.folded_files import on_record
    from audit.index.run_comparison import compare_runs
    from audit.verdict.record import regression_fields

    policy = Policy.model_validate(result.spec["gate"])
    comparison = compare_runs(journal, old, result.run_id, database, policy=policy, margin=margin, baseline=baseline)
    folded = on_record(journal, old).sha256
    return comparison, regression_fields(comparison, folded, baseline.sha256 if baseline else None)


def _write(
    journal: Journal, result: RunResult, reports: str, comparison: Comparison | None, spec_file: str | None
) -> dict[str, Path]:
    from audit import run as steps

    return steps.report(journal, result, Path(reports), comparison=comparison, spec_file=spec_file)


def require_answerable(policy: Policy, plan: Outline) -> None:
    """Return when the run can answer the policy; raises `SpecError` or `DetectorError`."""
    from audit.instruments.detectors.base import check_threshold

    unknown = plan.unknown_names(policy)
    if unknown:
        raise SpecError(
            "the policy names what the run does not have:\n" + "\n".join(f"  - {problem}" for problem in unknown),
            where=f"run {plan.run_id}",
            next_step="use the names of the run's spec; erasure-audit report shows it",
        )
    for instrument in plan.instruments:
        check_threshold(instrument, policy.thresholds.get(instrument.detector, instrument.threshold))
