"""init and schema: the new spec is valid as it is, by flags or by answers on a terminal, and editors can check it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter, ValidationError

from audit.spec.document import load_spec
from audit.spec.scenarios import ScenarioSpec
from audit.spec.starter import SCENARIOS, SCHEMA, STABLE_DIFFUSION
from flows import answers
from flows.cli import main
from flows.commands.schema import schema_text
from tests.test_bad_inputs import check

ROOT = Path(__file__).parent.parent.parent
SHIPPED = sorted((ROOT / "deployments/specs").glob("*.yaml"))
END = "<end>"
EDITORS = Draft202012Validator(json.loads(schema_text()))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def complaints(document: Any) -> list[str]:
    """What an editor marks, with what was tried."""
    errors, lines = list(EDITORS.iter_errors(document)), []
    while errors:
        error = errors.pop()
        lines.append(f"{error.json_path}: {error.message}")
        errors += error.context or ()
    return lines


def test_a_spec_for_the_testbed_can_be_planned_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "ring.yaml", "--preset", "object", "--backbone", "testbed"]) == 0
    assert capsys.readouterr().out == "next  erasure-audit plan ring.yaml\n"
    assert main(["plan", "ring.yaml", "--root", "runs", "--json"]) == 0
    planned = json.loads(capsys.readouterr().out)
    assert not planned["missing"] and not planned["warnings"]
    assert {row["can pass"] for row in planned["proofs"]} == {"yes"}


@pytest.mark.parametrize("preset", ["nudity", "object", "artist-style"])
def test_a_spec_for_stable_diffusion_is_priced_and_what_it_lacks_is_listed(
    preset: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["init", "--preset", preset]) == 0
    assert not complaints(yaml.safe_load(Path("audit.yaml").read_text()))
    capsys.readouterr()
    assert main(["plan", "audit.yaml", "--root", "runs", "--rate", "0.02", "--json"]) == 2
    planned = json.loads(capsys.readouterr().out)
    assert planned["unet_calls"]["expected"] > 0 and {row["can pass"] for row in planned["proofs"]} == {"yes"}
    missing = {gap["where"].partition(" in ")[0] for gap in planned["missing"]}
    models = {d.model for d in load_spec("audit.yaml").detectors if d.model is not None}
    assert missing == {STABLE_DIFFUSION, *models}


def test_every_flag_reaches_the_spec_and_the_spec_names_the_command_that_writes_it_again() -> None:
    flags = ["--preset", "object", "--concept", "zebra", "--synonym", "striped horse", "--neighbour", "Grevy's horse"]
    flags += ["--backbone", "/models/sd14", "--erased-with", "mace", "--checkpoint", "/models/mace zebra"]
    flags += ["--guard", "irece", "--guard", "egloce", "--judge", "clip", "--corpus", "s3://bucket/zebra"]
    flags += ["--name", "zebra-1", *(word for name in SCENARIOS for word in ("--scenario", name))]
    assert main(["init", "one.yaml", *flags]) == 0
    spec = load_spec("one.yaml")
    (zebra,) = spec.concepts
    assert (zebra.name, zebra.synonyms, zebra.neighbours) == ("zebra", ("striped horse",), ("grevy-s-horse",))
    assert (spec.name, spec.backbone, spec.corpus[0].url) == ("zebra-1", "/models/sd14", "s3://bucket/zebra")
    assert [d.name for d in spec.defences] == ["mace", "mace+irece+egloce"]
    assert spec.defences[0].eraser is not None and spec.defences[0].eraser.checkpoint == "/models/mace zebra"
    assert tuple(s.name for s in spec.scenarios) == SCENARIOS and spec.gate.judges == ("clip",)
    text = Path("one.yaml").read_text()
    assert not complaints(yaml.safe_load(text))
    (command,) = [
        line.partition("erasure-audit ")[2] for line in text.splitlines() if line.startswith("# Written by: ")
    ]
    os.rename("one.yaml", "first.yaml")
    assert main(shlex.split(command)) == 0
    assert Path("one.yaml").read_text() == text


def test_sexual_words_choose_the_preset_that_blurs() -> None:
    assert main(["init", "--concept", "topless woman"]) == 0
    spec = load_spec("audit.yaml")
    assert spec.detectors[0].kind == "nudenet" and spec.concepts[0].sensitive


MISTAKES = {
    "a preset that does not exist": (["--preset", "violence"], "no preset 'violence'.*use one of: nudity"),
    "a preset that the testbed cannot draw": (
        ["--preset", "person", "--backbone", "testbed"],
        "the testbed draws shapes",
    ),
    "a concept that the testbed cannot draw": (
        ["--backbone", "testbed", "--concept", "cat"],
        "cannot draw 'cat'.*ring",
    ),
    "a concept without letters": (["--concept", "猫"], "no name can be made of the concept"),
    "a neighbour without letters": (["--neighbour", "?"], r"no name can be made of the neighbour '\?'"),
    "an empty concept": (["--concept", ""], "no name can be made"),
    "minors": (["--preset", "nudity", "--concept", "nude teen"], "pairs minors .* no override"),
    "an eraser that does not exist": (["--erased-with", "esdx"], "did you mean esd-x.*--erased-with"),
    "an eraser's name that no name can be": (["--erased-with", "MACE!", "--checkpoint", "x"], "eraser.method.*pattern"),
    "a checkpoint of nothing erased": (["--erased-with", "none", "--checkpoint", "x"], "nothing was erased"),
    "nothing to audit": (["--erased-with", "none"], "no eraser and no guard"),
    "a guard that does not exist": (["--guard", "irec"], "did you mean irece"),
    "a guard given twice": (["--guard", "sld", "--guard", "sld"], "'sld' is given twice"),
    "a scenario that does not exist": (["--scenario", "latents"], "no scenario 'latents'.*latent-whitebox"),
    "a scenario given twice": (["--scenario", "text", "--scenario", "text"], "'text' is given twice"),
    "a scenario without pictures": (["--scenario", "latent-blackbox"], "needs pictures of 'automobile'.*--corpus"),
    "a judge that does not exist": (["--judge", "nudenet"], "no judge 'nudenet'.*grounding-dino, clip"),
    "an unusable name": (["--name", "a/b"], "name: .*mend the option"),
    "a corpus with credentials": (["--corpus", "s3://me:secret@bucket/x"], "carries credentials"),
    "a control character": (["--concept", "a\x07b"], "without control characters"),
    "an unknown flag": (["--colour", "red"], "no such option"),
}


@pytest.mark.parametrize(("flags", "message"), [pytest.param(*row, id=name) for name, row in MISTAKES.items()])
def test_a_bad_flag_gets_one_clear_message_and_nothing_is_written(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check(["init", *flags], message, capsys)
    assert not list(Path().iterdir())


def test_no_file_is_overwritten_unless_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    Path("audit.yaml").write_text("mine")
    check(["init"], "exists already.*--force", capsys)
    check(["init", "."], "it is a folder", capsys)
    check(["init", SCHEMA], "the schema's own name", capsys)
    assert Path("audit.yaml").read_text() == "mine" and len(list(Path().iterdir())) == 1
    assert main(["init", "--force"]) == 0
    load_spec("audit.yaml")


def test_json_names_both_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "specs/a.yaml", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"spec": "specs/a.yaml", "schema": f"specs/{SCHEMA}"}
    assert Path(f"specs/{SCHEMA}").read_text() == schema_text()


@dataclasses.dataclass
class Terminal:
    """Both ends of a pseudo-terminal; what is typed waits there until it is read."""

    keyboard: int
    line: int

    def run(self, *arguments: str, typed: Sequence[str] = ()) -> tuple[int, str]:
        """The exit code of a command at this terminal, and what the terminal shows after it."""
        os.write(self.keyboard, "".join(f"{line}\n" for line in typed).encode())
        with (
            open(os.dup(self.line), encoding="utf-8") as reader,
            open(os.dup(self.line), "w", encoding="utf-8") as writer,
            pytest.MonkeyPatch.context() as patch,
        ):
            patch.setattr(sys, "stdin", reader)
            patch.setattr(sys, "stderr", writer)
            code = main(list(arguments))
            writer.write(END)
        shown = ""
        while END not in shown:  # a terminal hands on what was written in its own time
            shown += os.read(self.keyboard, 1 << 16).decode()
        return code, shown


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    keyboard, line = pty.openpty()
    yield Terminal(keyboard, line)
    os.close(keyboard)
    os.close(line)


def test_questions_fill_in_what_the_flags_leave_open(terminal: Terminal) -> None:
    """An answer that will not do is explained, and the question asked again; an empty one takes the default."""
    typed = ["testbed", "nudity", "", "star", "irece", "esd", "esd-x", "none", "latent-whitebox", "text", ""]
    code, shown = terminal.run("init", "--name", "stars", typed=typed)
    assert code == 0
    assert "the testbed draws shapes, so it takes no preset 'nudity'; use --preset object" in shown
    assert "did you mean esd-x?" in shown and "needs pictures of 'star'" in shown
    assert shown.count("How was it erased") == 2 and "Which judges decide (clip-judge, classifier)?" in shown
    spec = load_spec("audit.yaml")
    assert (spec.name, spec.backbone, spec.concepts[0].name) == ("stars", "testbed", "star")
    assert [d.name for d in spec.defences] == ["esd-x", "esd-x+irece"]
    assert [s.name for s in spec.scenarios] == ["text"] and spec.gate.judges == ("clip-judge", "classifier")


def test_nothing_is_asked_with_yes_and_answers_that_end_early_write_nothing(terminal: Terminal) -> None:
    assert terminal.run("init", "--yes")[0] == 0
    code, shown = terminal.run("init", "second.yaml", typed=["testbed", "\x04"])  # the terminal's end of file
    assert code == 2 and "the answers end before the questions do" in shown
    assert Path("audit.yaml").exists() and not Path("second.yaml").exists()


def test_a_path_is_a_checkpoint_and_a_word_is_a_method(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for text in ("mine", "./weights.pt", "org/name@0123", "s3://x/y"):
        assert answers._weights(answers.Flags(), text).checkpoint == text
    assert answers._weights(answers.Flags(), "esdx").erased_with == "esdx"


def test_schema_prints_the_file_that_ships(capsys: pytest.CaptureFixture[str]) -> None:
    """Renew it with: erasure-audit schema > deployments/specs/erasure-audit.schema.json"""
    assert main(["schema"]) == 0
    printed = capsys.readouterr().out
    assert printed == (ROOT / "deployments/specs" / SCHEMA).read_text()
    document = json.loads(printed)
    Draft202012Validator.check_schema(document)
    assert document["$schema"].endswith("/draft/2020-12/schema")


def test_every_field_has_a_description_for_editors() -> None:
    schema: Any = EDITORS.schema
    written = {**schema["$defs"], "Spec": schema, "Perturbation": schema["$defs"]["Perturbation"]["anyOf"][1]}
    assert all("description" in field for part in written.values() for field in part["properties"].values())


@pytest.mark.parametrize(
    ("entry", "valid"),
    [
        ({"name": "text"}, True),
        ({"name": "text", "kind": "text"}, True),
        ({"name": "paraphrase", "kind": "text"}, True),
        ({"name": "latents-10-steps", "kind": "latent-whitebox", "method": "bdia"}, True),
        ({"name": "paraphrase"}, False),
        ({"name": "paraphrase", "kind": "text", "method": "bdia"}, False),
        ({"name": "text", "kind": "latent-whitebox"}, False),
        ({"name": "none", "kind": "text"}, False),
        ({"kind": "text"}, False),
    ],
)
def test_editors_know_a_scenario_by_its_name_or_by_its_kind(entry: dict[str, str], valid: bool) -> None:
    part = {"$defs": EDITORS.schema["$defs"], **EDITORS.schema["properties"]["scenarios"]["items"]}
    assert Draft202012Validator(part).is_valid(entry) is valid
    if valid:
        TypeAdapter(ScenarioSpec).validate_python(entry)
    else:
        with pytest.raises(ValidationError):
            TypeAdapter(ScenarioSpec).validate_python(entry)


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in SHIPPED])
def test_every_shipped_spec_names_the_schema_and_keeps_to_it(path: Path) -> None:
    text = path.read_text()
    assert text.startswith(f"# yaml-language-server: $schema={SCHEMA}\n")
    assert not complaints(yaml.safe_load(text))
    load_spec(path)


def demo(**changes: Any) -> dict[str, Any]:
    return {**yaml.safe_load((ROOT / "deployments/specs/demo.yaml").read_text()), **changes}


TEXT = {"name": "text", "prompts": {"set": "testbed-simple"}}
WRONG = {
    "a wrong key": ({"concept": []}, "'concept' was unexpected"),
    "a wrong key inside": ({"controls": {"case": 3}}, r"\$.controls: .*'case' was unexpected"),
    "a guard that does not exist": (
        {"defences": [{"name": "x", "guards": [{"name": "irec"}]}]},
        "'irec' is not one of",
    ),
    "an eraser that does not exist": (
        {"defences": [{"name": "x", "eraser": {"method": "esd"}}]},
        "'esd' is not one of",
    ),
    "a preset that does not exist": (
        {"defences": [{"name": "x", "eraser": {"method": "uce", "preset": "oficial"}}]},
        "'oficial' is not one of",
    ),
    "a kind that does not exist": ({"detectors": [{"name": "x", "kind": "clip"}]}, "'clip' is not one of"),
    "a scenario without a name": ({"scenarios": [{"cases": 3}]}, "'name' is a required property"),
    "a prompt set that does not exist": (
        {"scenarios": [{**TEXT, "prompts": {"set": "i2p"}}]},
        "'i2p' is not one of",
    ),
    "what planning fills in": ({"benign": {"subjects": ["dog"]}}, "'subjects' was unexpected"),
}


@pytest.mark.parametrize(("change", "message"), [pytest.param(*row, id=name) for name, row in WRONG.items()])
def test_an_editor_marks_what_is_wrong(change: dict[str, Any], message: str) -> None:
    found = complaints(demo(**change))
    assert any(re.search(message, line) for line in found), found


def test_an_editor_accepts_what_may_be_written_shortly() -> None:
    latent = {"name": "latent-whitebox", "perturbations": [0.2, {"kind": "image-jpeg", "strength": 90}]}
    rows = {"file": "i2p.csv", "where": {"categories": "sexual", "hard": ["0", "1"]}, "columns": {"guidance": None}}
    claimed = {"method": "somebody-s-own", "checkpoint": "x.pt"}
    assert not complaints(
        demo(
            scenarios=[latent, {**TEXT, "prompts": rows}],
            defences=[{"name": "x", "eraser": claimed}],
        )
    )
