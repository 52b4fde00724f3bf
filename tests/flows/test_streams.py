"""Standard output that is closed, full, or a pipe whose reader has gone: real processes and real files."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machines import REPOSITORY, fresh_environment

FULL = Path("/dev/full")
HELP, LISTING = ["--help"], ["db", "runs"]
DOCTOR = pytest.param(["doctor"], marks=pytest.mark.slow)


def shell(
    redirection: str, *arguments: str, tmp_path: Path, python: str = "-m flows.cli"
) -> subprocess.CompletedProcess[str]:
    """A finished command with its streams as `redirection` says, in bash, which reports the command's own code."""
    command = (
        f'set -o pipefail; "{sys.executable}" {python} {" ".join(arguments)} {redirection}; exit ${{PIPESTATUS[0]}}'
    )
    return subprocess.run(
        ["bash", "-c", command], env=fresh_environment(HOME=str(tmp_path), ERASURE_AUDIT_ROOT=str(tmp_path / "runs")),
        cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


def program(tmp_path: Path, body: str) -> str:
    """The path of a script that runs `body` as a command of the real command line; it returns 0 at its end."""
    script = tmp_path / "script.py"
    lines = "".join(f"    {line}\n" for line in [*body.splitlines(), "return 0"])
    script.write_text(
        "import os, sys\nfrom flows import cli\n"
        f"@cli.app.command('body')\ndef body() -> int:\n{lines}"
        "sys.argv = ['erasure-audit', 'body']\nsys.exit(cli.main())\n"
    )
    return str(script)


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [HELP, DOCTOR], ids=["help", "doctor"])
def test_output_that_does_not_fit_is_one_sentence_and_exit_1(arguments: list[str], tmp_path: Path) -> None:
    done = shell("> /dev/full", *arguments, tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output cannot be written: No space left on device\n"
        "  next:  free space there, or send the output elsewhere\n"
    )


@pytest.mark.parametrize("arguments", [HELP, LISTING, DOCTOR], ids=["help", "listing", "doctor"])
@pytest.mark.parametrize("redirection", [">&-", ">&- 2>&-", "<&- >&- 2>&-", "| head -1", "2>&1 | true"])
def test_streams_that_nobody_reads_change_no_exit_code(arguments: list[str], redirection: str, tmp_path: Path) -> None:
    done = shell(redirection, *arguments, tmp_path=tmp_path)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr and "error" not in done.stderr and "Exception ignored" not in done.stderr


@pytest.mark.parametrize("code", [3, 4])
@pytest.mark.parametrize("redirection", ["| head -1", ">&-", "| head -c 9000 | head -1"])
def test_a_verdict_whose_reader_has_gone_is_still_the_exit_code(code: int, redirection: str, tmp_path: Path) -> None:
    verdict = program(tmp_path, f"print('x' * 300000)\nfor n in range(50000): print(n)\nreturn {code}")
    done = shell(redirection, tmp_path=tmp_path, python=verdict)
    assert done.returncode == code
    assert done.stderr == ""


@pytest.mark.parametrize("redirection", ["2>&-", "2> /dev/full", ">&- 2>&-", "> /dev/full 2> /dev/full"])
def test_an_unexpected_error_with_broken_error_output_is_exit_1_and_nothing_more(
    redirection: str, tmp_path: Path
) -> None:
    script = program(tmp_path, "raise RuntimeError('unforeseen')")
    done = shell(redirection, tmp_path=tmp_path, python=script)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", "")


def test_a_closed_output_is_not_the_next_file_that_is_opened(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    script = program(tmp_path, f"with open({str(precious)!r}, 'w') as stream:\n    os.system('echo spilled')")
    done = shell(">&-", tmp_path=tmp_path, python=script)
    assert done.returncode == 0 and precious.read_text() == ""


def test_a_name_that_the_terminal_cannot_show_is_shown_escaped(tmp_path: Path) -> None:
    script = program(tmp_path, "print('ring \\u2014 \\udcff')")
    environment = fresh_environment(HOME=str(tmp_path), PYTHONIOENCODING="ascii")
    done = subprocess.run([sys.executable, script], env=environment, cwd=REPOSITORY, capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith(rb"ring \u2014 \udcff")


@pytest.mark.parametrize("flags", [[], ["-u"]])
def test_output_is_written_although_the_pipe_does_not_block(flags: list[str], tmp_path: Path) -> None:
    script = program(tmp_path, "print('x' * 500000)")
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    environment = fresh_environment(HOME=str(tmp_path))
    with subprocess.Popen([sys.executable, *flags, script], env=environment, cwd=REPOSITORY, stdout=writing) as child:
        os.close(writing)
        with open(reading, "rb") as stream:
            assert len(stream.read()) >= 500000
    assert child.returncode == 0
