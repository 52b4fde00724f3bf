"""README and docs/ say what the code does: commands can be typed and run, examples are specs, targets exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from audit.spec.document import load_spec, parse_spec
from audit.storage.journal import Journal
from flows.cli import app, main
from tests.synthetic import Run

ROOT = Path(__file__).parent.parent
# The fences of docs/extending.md belong to one example, which a test of its own installs and runs.
PAGES = [ROOT / "README.md", *(page for page in sorted((ROOT / "docs").glob("*.md")) if page.name != "extending.md")]
README = PAGES[0].read_text()


def fences(page: Path) -> list[tuple[str, str]]:
    """(language, text) of each fenced block of a page, in order."""
    return re.findall(r"^```(\S*)\n(.*?)^```$", page.read_text(), re.M | re.S)


def lines_of(page: Path) -> list[str]:
    """The lines of a page that a reader types, in order."""
    blocks = [text for language, text in fences(page) if language == "bash"]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


FENCED = lines_of(PAGES[0])
TYPED = list(dict.fromkeys(line for page in PAGES for line in lines_of(page)))
INLINE = sorted(
    {" ".join(line.split()) for page in PAGES for line in re.findall(r"`(erasure-audit [^`]+)`", page.read_text())}
)
EXAMPLES = [
    pytest.param(text, id=f"{page.stem}-{number}")
    for page in PAGES
    for number, (language, text) in enumerate(fences(page))
    if language == "yaml"
]
# The beginnings of lines, and the exit code that they end with here: no weights but the testbed's are at hand.
CHEAP = {
    "erasure-audit testbed scenes": 0,
    "erasure-audit corpus manifest demo/corpus": 0,
    "erasure-audit plan deployments/specs/demo.yaml": 0,
    "erasure-audit plan first.yaml": 0,
    "erasure-audit plan deployments/specs/m-erasurebench-sd14.yaml": 2,  # priced, and what it lacks is listed
    "erasure-audit doctor": 2,
    "erasure-audit inspect CHECKPOINT": 0,
    "erasure-audit erase --method uce": 0,
    "erasure-audit db rebuild": 0,
    "erasure-audit db sql": 0,
    "erasure-audit export marts": 0,
    "erasure-audit policy list": 0,
}
ELSEWHERE = {
    "make ": "its targets are looked up below",
    "source ": "the tests run in the environment that it switches on",
    "pip install 'erasure-audit[ray]'": "installs half a gigabyte: tests/flows/test_ray.py runs with it",
    "export ": "sets a variable of a server or worker: tests/flows/test_prefect.py",
    "pip install 'erasure-audit[telemetry]'": "comes with the development tools: tests/flows/test_telemetry.py",
    "prefect ": "needs a server: tests/flows/test_prefect.py",
    "python -m deployments.automations": "needs a server: tests/flows/test_automations.py",
    "CUDA_VISIBLE_DEVICES=0 prefect worker start": "needs a server: tests/flows/test_prefect.py",
    "erasure-audit run deployments/specs/demo.yaml": "takes minutes: tests/test_quickstart.py",
    "erasure-audit run first.yaml": "takes minutes, as the demo does",
    "erasure-audit plan deployments/specs/sd14.yaml --measure": "times Stable Diffusion's UNet on a corpus in a bucket",
    "erasure-audit run deployments/specs/sd14.yaml": "needs Stable Diffusion's weights",
    "erasure-audit tune irece deployments/specs/tune-testbed.yaml": "audits 18 candidates: tests/tuning",
    "erasure-audit compliance-report --month": "needs a month of runs: tests/compliance/test_bad_input.py",
    "erasure-audit export-embedding RUN_ID": "needs a run that learned one: tests/attacks",
    "erasure-audit evidence keygen seal.pem": "with the lines below: tests/evidence/test_commands.py",
    "erasure-audit evidence seal RUN_ID": "needs a decided run: tests/evidence/test_commands.py",
    "erasure-audit evidence sign bundle": "needs a bundle: tests/evidence/test_commands.py",
    "erasure-audit evidence verify bundle": "needs a bundle: tests/evidence/test_commands.py",
    "erasure-audit policy register first.yaml": "needs a key: tests/evidence/test_policy_command.py",
    "erasure-audit policy verify --key": "needs a ledger: tests/evidence/test_policy_command.py",
    "erasure-audit waiver create waiver.json": "needs a run: tests/evidence/test_waiver_commands.py",
    "erasure-audit gate RUN_ID --honour-waivers": "needs a waiver: tests/evidence/test_waiver_commands.py",
    "erasure-audit evidence replay RUN_ID": "needs a run with hits: tests/evidence/test_replay.py",
    "erasure-audit evidence purge RUN_ID": "needs a finished run: tests/evidence/test_purge.py",
    "erasure-audit retention apply": "needs old runs: tests/evidence/test_retention.py",
    "erasure-audit export dataset RUN_ID": "needs a run: tests/export/test_dataset.py",
    "erasure-audit evidence export bundle": "needs a bundle: tests/evidence/test_export_command.py",
    "erasure-audit db verify RUN_ID": "needs a run on record: tests/index/test_integrity.py",
    "erasure-audit labels export RUN_ID": "needs a finished run: tests/labels/test_export.py",
    "erasure-audit labels import RUN_ID": "needs two people's labels: tests/labels/test_import.py",
    "erasure-audit gate RUN_ID --policy": "needs a finished run: tests/test_cli.py",
    "erasure-audit compare": "needs two finished runs: tests/flows/test_compare.py",
    "erasure-audit baseline": "needs a decided run: tests/flows/test_compare.py",
    "erasure-audit gate RUN_ID --against": "needs a baseline: tests/flows/test_compare.py",
    "erasure-audit resume RUN_ID": "needs an interrupted run: tests/flows/test_kill.py",
    "erasure-audit status RUN_ID": "needs a run: tests/plan/test_status.py",
    "erasure-audit dashboard build site": "needs runs: tests/dashboard/test_command.py",
    "erasure-audit dashboard serve": "answers until it is stopped: tests/dashboard/test_browser.py",
    "erasure-audit work RUN_ID": "needs a bucket: tests/flows/test_prefect.py, test_end_to_end.py",
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))


def resolve(words: list[str]) -> tuple[Any, list[str]]:
    """The click command that `words` name, and the words that are left."""
    command: Any = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("line", [line for line in [*TYPED, *INLINE] if line.startswith("erasure-audit")])
def test_every_command_of_the_pages_can_be_typed(line: str) -> None:
    """Its options and its arguments are parsed as the command line parses them; nothing is run."""
    command, rest = resolve(shlex.split(line)[1:])
    assert not hasattr(command, "commands"), f"{line}: no such command"
    command.make_context(line, list(rest))


@pytest.mark.parametrize(
    "line", ["erasure-audit db publish here there", "erasure-audit run", "erasure-audit doctor --fast"]
)
def test_a_command_that_cannot_be_typed_is_noticed(line: str) -> None:
    command, rest = resolve(shlex.split(line)[1:])
    with pytest.raises(Exception, match=r"unexpected extra argument|Missing parameter|No such option"):
        command.make_context(line, list(rest))


@pytest.mark.parametrize("line", TYPED)
def test_every_line_of_the_pages_is_run_somewhere(line: str) -> None:
    assert len([start for start in (*CHEAP, *ELSEWHERE) if line.startswith(start)]) == 1


@pytest.mark.parametrize("start", ELSEWHERE)
def test_every_line_that_runs_elsewhere_is_still_on_a_page(start: str) -> None:
    assert any(line.startswith(start) for line in TYPED)
    for path in re.findall(r"tests/[\w/.]+", ELSEWHERE[start]):
        assert (ROOT / path).exists()


def test_the_lines_that_need_only_the_testbed_do_what_they_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One after the other in one folder, as a reader would type them."""
    shutil.copytree(ROOT / "deployments", tmp_path / "deployments")
    monkeypatch.chdir(tmp_path)
    Path("audit").symlink_to(ROOT / "audit")
    for page in PAGES:  # an example whose first line names a file is what the reader has saved there
        for name, text in re.findall(r"^```yaml\n# (\w+\.yaml)\n(.*?)^```$", page.read_text(), re.M | re.S):
            Path(name).write_text(text)
    Run().write(Journal("runs"))
    printed = {}
    for start, code in CHEAP.items():
        lines = [line for line in TYPED if line.startswith(start)]
        assert lines, start
        for line in lines:
            capsys.readouterr()
            words = shlex.split(line.replace("CHECKPOINT", str(ROOT / "audit/testbed/erased/esd-x-ring")))
            ended = main(words[1:])
            output = capsys.readouterr()
            assert ended == code, f"{line}\n{output.out}\n{output.err}"
            printed[line] = output.out
    assert len(list((tmp_path / "demo/corpus/ring").glob("*.png"))) == 32
    assert len(list((tmp_path / "demo/corpus/arrow").glob("*.png"))) == 16
    assert list((tmp_path / "erased/uce-ring-star").glob("*.safetensors"))
    for start in ("erasure-audit plan deployments/specs/demo.yaml", "erasure-audit plan deployments/specs/m-erasure"):
        (plan,) = [out for line, out in printed.items() if line.startswith(start)]
        assert re.search(r"^network calls +[\d,]+", plan, re.M), plan
    (doctor,) = [out for line, out in printed.items() if line.startswith("erasure-audit doctor")]
    assert re.search(r"PROBLEM +backbone", doctor)
    (inspected,) = [out for line, out in printed.items() if line.startswith("erasure-audit inspect")]
    assert "esd-x" in inspected


@pytest.mark.parametrize("text", EXAMPLES)
def test_every_example_of_a_spec_is_valid(text: str) -> None:
    """Sections of a spec, put over those of the demo, of which only the prompts are attacked."""
    base = yaml.safe_load((ROOT / "deployments/specs/demo.yaml").read_text())
    base["scenarios"] = [{"name": "text"}]
    base["gate"]["limits"] = [{"crr_max": 0.3}]
    document = {**base, **yaml.safe_load(text)}
    assert parse_spec(document, "an example").name == document["name"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_fence_is_of_a_kind_that_is_checked(page: Path) -> None:
    assert {language for language, _ in fences(page)} <= {"bash", "yaml", "text"}
    assert len(fences(page)) == page.read_text().count("\n```") // 2


def test_every_command_is_on_the_page_of_commands() -> None:
    page = (ROOT / "docs/commands.md").read_text()
    top: Any = typer.main.get_command(app)
    names = []
    for name, command in top.commands.items():
        names += [f"{name} {inner}" for inner in command.commands] if hasattr(command, "commands") else [name]
    assert len(names) > 10
    assert [name for name in names if not re.search(rf"`(erasure-audit )?{name}\b", page)] == []


@pytest.mark.parametrize("line", [line for line in TYPED if line.startswith("make ")])
def test_every_make_target_of_the_pages_exists(line: str) -> None:
    assert set(line.split()[1:]) <= TARGETS


@pytest.mark.parametrize("path", sorted((ROOT / "deployments" / "specs").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_spec_is_valid(path: Path) -> None:
    assert load_spec(path).name


def test_links_and_pictures_of_the_readme_exist() -> None:
    targets = [target for target in re.findall(r"\]\(([^)#]+)\)", README) if "://" not in target]
    assert len(targets) > 10
    assert [target for target in targets if not (ROOT / target).exists()] == []
    assert len(README.splitlines()) <= 250
