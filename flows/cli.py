"""The command line `erasure-audit`. Prefect and torch are imported by the commands that need them, when they run."""

from __future__ import annotations

import json
import logging
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, NoReturn

import typer

from audit.errors import EXIT_CRASH, EXIT_INTERRUPTED, EXIT_USAGE, AuditError
from audit.machine import environment
from flows import ending, streams
from flows.commands import (
    compare,
    compliance,
    corpus,
    dashboard,
    db,
    doctor,
    erase,
    evidence_more,
    export,
    export_tables,
    init,
    inspect,
    labels,
    methods,
    plan,
    policy,
    results,
    retention,
    run,
    schema,
    status,
    testbed,
    tune,
    waiver,
)
from flows.console import progress_bars, runnable, say

app = typer.Typer(
    name="erasure-audit",
    help="Does an erased concept come back? Audits diffusion models and ends in PASS, FAIL or INCONCLUSIVE.",
    epilog="Exit codes: 0 PASS, 3 FAIL, 4 INCONCLUSIVE, 1 crash, 2 usage, 5 not verified, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run.register(app)
plan.register(app)
results.register(app)
erase.register(app)
doctor.register(app)
inspect.register(app)
init.register(app)
schema.register(app)
status.register(app)
methods.register(app)
export.register(app)
compare.register(app)
compliance.register(app)
app.add_typer(db.app, name="db")
app.add_typer(dashboard.app, name="dashboard")
app.add_typer(export_tables.app, name="export")
app.add_typer(testbed.app, name="testbed")
app.add_typer(corpus.app, name="corpus")
app.add_typer(tune.app, name="tune")
app.add_typer(policy.app, name="policy")
app.add_typer(waiver.app, name="waiver")
app.add_typer(evidence_more.app, name="evidence")
app.add_typer(labels.app, name="labels")
app.add_typer(retention.app, name="retention")


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of a crash. Works anywhere.")] = False,
) -> None:
    """Options of every command."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; return its exit code. Without `argv` it takes the process's and settles its streams, logging and signals.

    A command whose reader has gone (`| head -1`) ends with the code it would have had. Output that was lost for another
    reason, such as a full disk, is an error.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    as_json = "--json" in arguments or "--format=json" in arguments or ("--format", "json") in pairwise(arguments)
    if argv is None:
        _settle_process(debug)
        for line in environment.take_notices():
            say(line)
    try:
        with progress_bars():  # for the long steps of every command
            answer = app(args=arguments, prog_name="erasure-audit", standalone_mode=False)
        sys.stdout.flush()  # here, because Ctrl-C may come while a pager holds it up
        code = answer if isinstance(answer, int) else 0
        if code == EXIT_INTERRUPTED:  # what typer makes of Ctrl-C
            code = _fail("interrupted", EXIT_INTERRUPTED, as_json, False)
    except AuditError as error:
        code = _fail(str(error), error.exit_code, as_json, debug)
    except KeyboardInterrupt:
        code = _fail("interrupted", EXIT_INTERRUPTED, as_json, False)
    except Exception as error:  # the process boundary: one message and an exit code, the traceback with --debug
        code = _fail(*_unexpected(error, arguments), as_json, debug)
    if reason := streams.lost_output():
        lost = f"standard output cannot be written: {reason}\n  next:  free space there, or send the output elsewhere"
        return _fail(lost, EXIT_CRASH, as_json=False, debug=False)
    return code


def command() -> NoReturn:
    """Run the command of this process's arguments, and end the process with its exit code."""
    ending.run(main)


def _unexpected(error: Exception, arguments: Sequence[str]) -> tuple[str, int]:
    """Return message and exit code of what no command foresees: a mistake in the command line, or a crash."""
    if hasattr(error, "format_message"):
        command = " ".join(_command_words(arguments))
        return f"{error.format_message()}\n  next:  erasure-audit {command}--help", EXIT_USAGE
    line = (str(error).strip() or "no message").splitlines()[0]
    return f"unexpected {type(error).__name__}: {line}\n  next:  run with --debug for the traceback", EXIT_CRASH


def _fail(text: str, code: int, as_json: bool, debug: bool) -> int:
    text = runnable(text)
    if debug:
        traceback.print_exc()
    print(f"error: {text}" if code != EXIT_INTERRUPTED else text, file=sys.stderr, flush=True)
    if as_json:
        print(json.dumps({"error": text, "exit_code": code}), flush=True)
    return code


def _command_words(arguments: Sequence[str]) -> list[str]:
    """Return the command that was meant, as far as it exists, with a space to follow."""
    known: dict[str, set[str]] = {"": {c.name or "" for c in app.registered_commands}}
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    words = [a for a in arguments if not a.startswith("-")]
    if words and words[0] in known[""]:
        return [words[0], ""]
    group = groups.get(words[0]) if words else None
    if group is None:
        return [""]
    names = {c.name for c in group.registered_commands}
    return [words[0], *([words[1]] if len(words) > 1 and words[1] in names else []), ""]


def _settle_process(debug: bool) -> None:
    """Make SIGTERM end a run as Ctrl-C does, keep broken streams from ending anything, and hide libraries' warnings."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    streams.settle()
    signal.signal(signal.SIGTERM, stop)
    if not debug:
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        logging.getLogger().setLevel(logging.ERROR)
        logging.getLogger("audit").setLevel(logging.WARNING)


if __name__ == "__main__":
    command()
