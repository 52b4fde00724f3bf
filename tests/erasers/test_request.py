"""Mistakes end before anything is loaded, and an artefact on disk is complete, named as its official code names it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers import ERASERS, resolve_parameters
from audit.erasers.base import Made
from audit.erasers.phrases import prompts, word_positions
from audit.erasers.produce import measured, produce, spelled_out
from audit.erasers.request import fulfil, make_request
from audit.errors import EraserError, SpecError
from audit.progress import Session
from audit.spec.sections import Concept, Eraser
from flows.cli import main
from tests.erasers.conftest import CONCEPT, quick, same, weights


@pytest.mark.parametrize(
    ("method", "meant"),
    [("xattn", "esd-x"), ("esd-a", "esd-all"), ("noxattn", "esd-u"), ("ESD_X", "esd-x"), ("recelr", "receler")],
)
def test_a_method_that_would_train_nothing_says_what_was_meant(method: str, meant: str) -> None:
    with pytest.raises(SpecError, match=rf"did you mean {meant}\?"):
        make_request("testbed", method, ["star"])


@pytest.mark.parametrize(
    ("method", "parameters", "message"),
    [
        ("esd-x", {"iterations": 0}, "iterations"),
        ("esd-x", {"learning_rate": float("nan")}, "learning_rate"),
        ("esd-u", {"learningrate": 1}, "learningrate"),
        ("esd-x", {"pool": 4, "latents_from": "trained"}, "pool"),
        ("esd-x", {"templates": ["a photo"]}, "templates"),
        ("esd-x", {"convention": "2023"}, "convention"),
        ("receler", {"mask_threshold": 1.5}, "mask_threshold"),
        ("receler", {"rank": 0}, "rank"),
        ("uce", {"regularisation": 0}, "regularisation"),
        ("uce", {"strength": 1}, "strength"),
        ("uce", {"stored": "int8"}, "stored"),
    ],
)
def test_bad_parameters_are_named(method: str, parameters: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        resolve_parameters(Eraser.model_construct(method=method, parameters=parameters, preset=None), "x")


@pytest.mark.parametrize("method", ERASERS.names())
def test_presets(method: str) -> None:
    defaults = {"receler": "paper", "advunlearn": "paper"}
    named = "float32-weights" if method.startswith("esd") else defaults.get(method, "official")
    default = resolve_parameters(Eraser(method=method), "x")
    assert default == resolve_parameters(Eraser(method=method, preset=named), "testbed")
    assert default != resolve_parameters(Eraser(method=method, preset="testbed"), "x")
    testbed = resolve_parameters(Eraser(method=method, preset="testbed"), "x")
    assert make_request("testbed", method, ["star"]).resolved() == testbed
    assert resolve_parameters(Eraser(method=method), "testbed") == testbed
    assert testbed.get("compute", "float32") == "float32"  # machines without a GPU mostly emulate bfloat16
    assert make_request("elsewhere", method, ["star"]).resolved() == default
    with pytest.raises(SpecError, match="no preset 'sdxl'"):
        make_request("testbed", method, ["star"], preset="sdxl")


def test_official_defaults() -> None:
    esd = resolve_parameters(Eraser(method="esd-x"), "x")
    official = resolve_parameters(Eraser(method="esd-x", preset="official"), "x")
    assert official == {**esd, "compute": "bfloat16-weights"} and esd["compute"] == "bfloat16"
    assert (esd["iterations"], esd["learning_rate"], esd["negative_guidance"]) == (200, 5e-5, 2.0)
    assert (esd["guidance"], esd["steps"], esd["sampler"], esd["stored"]) == (3.0, 50, "pndm", "bfloat16")
    old = resolve_parameters(Eraser(method="esd-u", preset="official-2023"), "x")
    assert (old["iterations"], old["learning_rate"], old["negative_guidance"]) == (1000, 1e-5, 1.0)
    assert (old["latents_from"], old["convention"]) == ("trained", "old")
    assert (old["selection"], old["trajectory"]) == ("2023", "compvis")
    receler = resolve_parameters(Eraser(method="receler"), "x")
    assert (receler["iterations"], receler["learning_rate"], receler["rank"]) == (500, 3e-4, 128)
    assert (receler["adversarial_iterations"], receler["adversarial_tokens"]) == (50, 16)
    assert (receler["regularisation"], receler["mask_threshold"]) == (0.1, 0.1)
    uce = resolve_parameters(Eraser(method="uce"), "x")
    assert (uce["regularisation"], uce["erase_scale"], uce["preserve_scale"], uce["guide"]) == (0.5, 1.0, 1.0, "")


def test_settings_are_read_as_yaml() -> None:
    settings = ["learning_rate=1e-5", "templates=['a {phrase}']", "pixels=null", "seed=7"]
    parameters = make_request("testbed", "esd-x", ["star"], settings=settings).parameters
    assert parameters == {"learning_rate": 1e-5, "templates": ["a {phrase}"], "pixels": None, "seed": 7}
    with pytest.raises(SpecError, match="not key=value"):
        make_request("testbed", "esd-x", ["star"], settings=["iterations"])


@pytest.mark.parametrize(
    ("phrase", "name"),
    [
        ("Van  Gogh's style", "van-gogh-s-style"),
        ("Звёздная ночь", "concept-"),
        ("星", "concept-"),
        ("star в ночи", "star-"),
        ("a painting " * 12, "a-painting-a-painting-"),
        ("!", "concept-"),
    ],
)
def test_any_phrase_has_a_name(phrase: str, name: str) -> None:
    (concept,) = make_request("testbed", "uce", [phrase]).concepts
    assert concept.phrase == phrase.strip() and len(concept.name) <= 64
    if name.endswith("-"):
        assert re.fullmatch(rf"{name}.*[0-9a-f]{{8}}", concept.name)
        (other,) = make_request("testbed", "uce", [phrase.strip() + "я"]).concepts
        assert other.name != concept.name
    else:
        assert concept.name == name


@pytest.mark.parametrize("option", ["--concept", "--neighbour"])
@pytest.mark.parametrize("phrase", ["", "  "])
def test_an_empty_phrase_is_called_that(
    phrase: str, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["erase", "--method", "uce", "--concept", "star", "--out", str(tmp_path / "out")]
    assert main([*command, option, phrase]) == 2
    shown = capsys.readouterr().err
    assert "a phrase is empty" in shown and option in shown and "pattern" not in shown


def test_a_phrase_that_is_too_long_is_told_so() -> None:
    with pytest.raises(SpecError, match="phrase: String should have at most 200 characters"):
        make_request("testbed", "uce", ["a " * 150])


@pytest.mark.parametrize("phrase", ["звезда", "t-shirt", "circle " * 12])
def test_a_neighbour_that_would_be_preserved_as_something_else_is_refused(phrase: str) -> None:
    with pytest.raises(SpecError, match="would be preserved as") as error:
        make_request("testbed", "uce", ["star"], neighbours=[phrase])
    assert error.value.where == "--neighbour"
    assert make_request("testbed", "uce", ["star"], neighbours=["St. Bernard"]).concepts[0].neighbours == (
        "st.-bernard",
    )


def test_synonyms_are_erased_when_they_are_named() -> None:
    request = make_request("testbed", "esd-x", ["ring"], synonyms=["hoop", "annulus"])
    assert request.concepts[0].synonyms == ("hoop", "annulus") and request.resolved()["synonyms"] is True
    assert make_request("testbed", "esd-x", ["ring"]).resolved()["synonyms"] is False


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("esd-x", {"neighbours": ["circle"]}, "esd-x knows no neighbours.*--method uce"),
        ("receler", {"neighbours": ["circle"]}, "receler knows no neighbours"),
        ("uce", {"neighbours": ["circle"], "settings": ["preserve_scale=0"]}, "would not be held in place"),
        ("uce", {"neighbours": ["circle"], "settings": ["preserve_neighbours=false"]}, "would not be held in place"),
        ("uce", {"settings": ["synonyms=true"]}, "it has none.*--synonym"),
        ("uce", {"synonyms": ["hoop"], "settings": ["synonyms=false"]}, "would not be erased"),
        ("uce", {"synonyms": ["hoop"], "concepts": ["ring", "star"]}, "cannot be told apart"),
        ("uce", {"synonyms": [" "]}, "a phrase is empty"),
    ],
)
def test_what_would_have_no_effect_is_refused(method: str, options: dict[str, list[str]], message: str) -> None:
    with pytest.raises(SpecError, match=f"(?s){message}"):
        make_request("testbed", method, **{"concepts": ["ring"], **options})


def test_minors_and_sexual_content_are_refused() -> None:
    with pytest.raises(SpecError, match="refused"):
        make_request("testbed", "uce", ["nudity"], neighbours=["child"])


@pytest.mark.parametrize("phrase", ["123", "abc 1", " "])
@pytest.mark.parametrize("method", ["esd-x", "uce", "receler"])
def test_a_phrase_the_text_encoder_cannot_read_is_refused(pipeline: Pipeline, method: str, phrase: str) -> None:
    concept = Concept.model_construct(name="digits", phrase=phrase, synonyms=(), neighbours=(), sensitive=False)
    with pytest.raises(SpecError, match="no tokens"):
        produce(pipeline, method, [concept], quick(method))


def test_prompts_know_where_the_word_is(pipeline: Pipeline) -> None:
    concept = Concept(name="ab", phrase="ab", synonyms=("cd",))
    found = prompts(pipeline, [concept], ("a {phrase}", "{phrase}", "a {phrase}"), True)
    assert [(p.text, p.word) for p in found] == [
        ("a ab", range(2, 4)),
        ("ab", range(1, 3)),
        ("a cd", range(2, 4)),
        ("cd", range(1, 3)),
    ]
    with pytest.raises(SpecError, match="melts"):
        word_positions(pipeline, "xaby", "ab")
    with pytest.raises(SpecError, match="no concept"):
        prompts(pipeline, [], ("{phrase}",), False)
    assert spelled_out(pipeline, "abc")


def test_changing_nothing_is_an_error(pipeline: Pipeline) -> None:
    name = next(n for n in pipeline.unet.state_dict() if n.endswith("attn2.to_k.weight"))
    equal = Made("unet-partial", {name: pipeline.unet.state_dict()[name].clone()}, "x.safetensors", ("abc",))
    with pytest.raises(EraserError, match="nothing was erased"):
        measured(pipeline, equal, [CONCEPT])
    silent = {f"down_blocks.0.attentions.0.{part}": torch.zeros(2) for part in ("up.weight", "down.weight")}
    with pytest.raises(EraserError, match="nothing was erased"):
        measured(pipeline, Made("receler", silent, "x.safetensors", ("abc",)), [CONCEPT])


def test_a_change_that_rounding_would_undo_is_an_error(pipeline: Pipeline) -> None:
    parameters = quick("esd-x", iterations=1, learning_rate=1e-8, stored="bfloat16")
    with pytest.raises(EraserError, match="still the backbone's"):
        produce(pipeline, "esd-x", [CONCEPT], parameters)


@pytest.mark.parametrize(
    ("method", "files"),
    [
        ("esd-x", {"esd-abc-from-abc-esdx.safetensors"}),
        ("uce", {"uce-abc.safetensors"}),
        ("receler", {"eraser_weights.safetensors", "eraser_weights.pt", "eraser_config.json"}),
    ],
)
def test_an_artefact_is_complete_and_made_once(
    pipeline: Pipeline, tiny_folder: Path, tmp_path: Path, method: str, files: set[str]
) -> None:
    changes = {k: v for k, v in quick(method).items() if k != "templates"}
    settings = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    neighbours = ["xyz"] if method == "uce" else []
    request = make_request(str(tiny_folder), method, ["abc"], neighbours=neighbours, settings=settings)
    before = weights(pipeline)
    path, record = fulfil(request, tmp_path / "out", device="cpu")
    assert record is not None
    assert {p.name for p in path.parent.iterdir()} == files | {"README.md"}
    tensors = safetensors.torch.load_file(path)
    assert record.change.tensors == len(tensors)
    assert record.change.effect["abc"] > 0
    with safetensors.safe_open(path, "pt") as opened:
        assert opened.metadata()["method"] == method
    card = (path.parent / "README.md").read_text()
    for fact in (method, record.backbone_sha256, f"{record.change.parameters:,}", "Training curve"):
        assert fact in card
    if method == "receler":
        nested = torch.load(path.parent / "eraser_weights.pt", weights_only=True)
        flat = {f"{entry}.{part}": t for entry, parts in nested.items() for part, t in parts.items()}
        assert same(flat, tensors)
        assert json.loads((path.parent / "eraser_config.json").read_text())["eraser_rank"] == 4
    else:
        assert set(tensors) <= set(before)
        dtypes = {"esd-x": torch.bfloat16, "uce": torch.float32}
        assert {tensor.dtype for tensor in tensors.values()} == {dtypes[method]}
    assert fulfil(request, tmp_path / "out", device="cpu") == (path, None)
    other = request.model_copy(update={"method": "uce", "parameters": {"regularisation": 0.7}})
    with pytest.raises(EraserError, match="holds another artefact"):
        fulfil(other, tmp_path / "out", device="cpu")


def test_several_concepts_share_one_artefact(pipeline: Pipeline) -> None:
    other = Concept(name="klm", phrase="klm")
    erased = produce(pipeline, "esd-x", [CONCEPT, other], quick("esd-x", iterations=2), Session())
    assert erased.record.concepts == ("abc", "klm")
    assert erased.record.prompts == ("abc", "klm")
    assert erased.artefact.filename == "esd-abc-klm-from-abc-klm-esdx.safetensors"


def test_the_command_line(tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["erase", "--method", "uce", "--concept", "abc", "--backbone", str(tiny_folder)]
    assert main([*command, "--out", str(tmp_path / "out"), "--json", "--device", "cpu"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert Path(document["path"]).is_file()
    assert document["record"]["change"]["tensors"] > 0
    assert main([*command, "--out", str(tmp_path / "out"), "--set", "nonsense=1"]) == 2
    assert "nonsense" in capsys.readouterr().err
    assert main(["erase", "--method", "xattn", "--concept", "abc", "--out", str(tmp_path / "new")]) == 2
    shown = capsys.readouterr().err
    assert "did you mean esd-x?" in shown and "Traceback" not in shown
    assert not (tmp_path / "new").exists()


@pytest.fixture
def unloadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(*_: object) -> None:
        raise AssertionError("the backbone was loaded")

    monkeypatch.setattr("audit.diffusion.pipeline.load_pipeline", load)


@pytest.mark.parametrize(
    "name", ["README.md", "uce-abc.safetensors", "another.safetensors", "eraser_config.json", "eraser_weights.pt"]
)
@pytest.mark.usefixtures("unloadable")
def test_files_of_somebody_else_are_never_overwritten(tiny_folder: Path, tmp_path: Path, name: str) -> None:
    if name.endswith(".safetensors"):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / name, {"made": "elsewhere"})
    else:
        (tmp_path / name).write_text("somebody's")
    before = (tmp_path / name).read_bytes()
    with pytest.raises(EraserError, match="no erased model of this tool") as error:
        fulfil(make_request(str(tiny_folder), "uce", ["abc"]), tmp_path, device="cpu")
    assert str(tmp_path / name) in str(error.value) and "--out" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == [name] and (tmp_path / name).read_bytes() == before


def test_what_an_interruption_left_is_ours(tiny_folder: Path, tmp_path: Path) -> None:
    (tmp_path / ".unfinished").mkdir()
    (tmp_path / "eraser_config.json").write_text("{}")
    request = make_request(str(tiny_folder), "uce", ["abc"])
    path, record = fulfil(request, tmp_path, device="cpu")
    assert record is not None and not (tmp_path / ".unfinished").exists()
    (tmp_path / "README.md").unlink()  # killed before the card, which comes last
    assert fulfil(request, tmp_path, device="cpu")[1] is not None
    assert fulfil(request, tmp_path, device="cpu") == (path, None)
    (tmp_path / "README.md").unlink()
    with pytest.raises(EraserError, match="holds another artefact"):  # one folder never holds two
        fulfil(make_request(str(tiny_folder), "uce", ["xyz"]), tmp_path, device="cpu")


@pytest.mark.parametrize("out", ["file", "file/below", "/proc"])
@pytest.mark.usefixtures("unloadable")
def test_an_output_folder_that_cannot_be_written_is_found_before_loading(
    tiny_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], out: str
) -> None:
    (tmp_path / "file").write_text("")
    command = ["erase", "--method", "uce", "--concept", "abc", "--backbone", str(tiny_folder), "--device", "cpu"]
    assert main([*command, "--out", str(tmp_path / out)]) == 2
    shown = capsys.readouterr().err
    assert "cannot be written" in shown and "--out" in shown and "Traceback" not in shown
