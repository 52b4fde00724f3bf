"""The user's claim and the measured facts stay apart, and what does not fit is said; `inspect` prints both."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from audit.checkpoints import layouts
from audit.checkpoints.inspection import EXPECTED, inspect
from audit.checkpoints.key_sets import key_set
from audit.checkpoints.sd1 import sd1_names
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef
from flows.cli import main
from tests.checkpoints.files import TABLE, State, adapters
from tests.tiny_families import write_sd3

FITTING = {
    "A1 esd-x": "esd-x",
    "A1 esd-u": "esd-u",
    "A1 esd-all": "esd-all",
    "A1 esd-x-strict": "esd-x-strict",
    "A3": "esd-x",
    "A5": "esd-u",
    "B1": "uce",
    "B2": "uce",
    "C1": "receler",
    "C2": "receler",
    "G1": "mace",
    "H1 attn": "concept-ablation",
    "H1 embedding": "concept-ablation",
    "H2": "concept-ablation",
    "I": "spm",
    "J2": "advunlearn",
    "K": "rece",
}


@pytest.mark.parametrize("row", FITTING)
def test_a_fitting_claim_draws_no_warning(row: str, backbone: ModelRef, unet: State, text: State, folder: Path) -> None:
    path = TABLE[row][0](folder, unet, text)
    found = inspect(resolve_checkpoint(str(path)), backbone, FITTING[row])
    assert found["claim"] == FITTING[row] and found["warnings"] == []
    json.dumps(found, allow_nan=False)


@pytest.mark.parametrize(("row", "claim"), [("A5", "stereo"), ("K", "speed")])
def test_a_whole_unet_fits_further_claims(
    row: str, claim: str, backbone: ModelRef, unet: State, text: State, folder: Path
) -> None:
    """STEREO's second stage saves the whole UNet, of which it trains everything but the cross-attention."""
    found = inspect(resolve_checkpoint(str(TABLE[row][0](folder, unet, text))), backbone, claim)
    assert found["warnings"] == []


@pytest.mark.parametrize(
    ("row", "claim", "warning"),
    [
        ("B1", "esd-x", "esd-x, which changes XATTN .* what differs is 32 of attn2 keys and values"),
        ("A1 esd-x", "uce", "uce, which changes KV"),
        ("B1", "receler", "receler does not write that"),
        ("C1", "esd-x", "esd-x does not write that"),
        ("J2", "esd-u", "esd-u does not write that"),
        ("B1", "vendor-x", "nothing is known about the method 'vendor-x'"),
        ("B1", None, "no method is claimed; the file fits: .*uce"),
        ("A4", "esd-x", r"all \d+ tensors of the UNet differ.*non-EMA"),  # trap 12
    ],
)
def test_what_does_not_fit_is_said(
    row: str, claim: str | None, warning: str, backbone: ModelRef, unet: State, text: State, folder: Path
) -> None:
    found = inspect(resolve_checkpoint(str(TABLE[row][0](folder, unet, text))), backbone, claim)
    assert any(re.search(warning, said) for said in found["warnings"]), found["warnings"]
    assert claim is None or claim not in json.dumps({k: v for k, v in found["facts"].items() if k != "says"})


def test_every_method_that_a_layout_backs_is_one_whose_changes_are_known() -> None:
    found = [value for value in vars(layouts).values() if isinstance(value, layouts.Layout)]
    assert len(found) >= 12
    assert {method for layout in found for method in layout.methods} == set(EXPECTED)


def test_inspect_prints_facts_and_warnings(
    backbone: ModelRef, unet: State, text: State, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = TABLE["A1 esd-x"][0](folder, unet, text)
    arguments = ["inspect", str(path), "--backbone", str(backbone.path), "--claim", "uce"]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "partial-unet" in shown and "key set XATTN" in shown and "attn2 queries and outputs" in shown
    assert "claim      uce" in shown and "WARNING    claimed to be uce" in shown
    assert main([*arguments, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    facts = document["facts"]
    assert (facts["tensors"], facts["changed_key_set"], document["claim"]) == (80, "XATTN", "uce")
    assert 0 < facts["parameter_share"] < 1 and 0 < facts["relative_norm"] < 10
    assert len(facts["names"]) == 80


@pytest.mark.parametrize(
    ("keys", "shown"),
    [
        ("KV", "some of the network's tensors, by diffusers names (partial-unet), 32 tensors, key set KV"),
        ("receler", "Receler's adapters, which add modules after every attn2 (receler), 64 tensors"),
    ],
)
def test_inspect_recognises_sd14_without_its_weights(
    keys: str, shown: str, full_unet: State, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names and shapes say what a file of SD 1.4 is; what it changes needs the backbone."""
    names = adapters(full_unet, rank=1) if keys == "receler" else {n: full_unet[n] for n in key_set(keys, full_unet)}
    path = folder / ("eraser_weights.safetensors" if keys == "receler" else "uce.safetensors")
    save_file({name: torch.ones(tensor.shape, dtype=torch.bfloat16) for name, tensor in names.items()}, path)
    assert main(["inspect", str(path), "--claim", "spm"]) == 0
    printed = capsys.readouterr().out
    assert shown in printed and "family     Stable Diffusion 1.x" in printed
    assert "--backbone to see its footprint" in printed and "spm does not write that" in printed
    assert main(["inspect", str(path), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["family"] == "Stable Diffusion 1.x" and "parameters" not in document["facts"]
    assert main(["inspect", str(path), "--backbone", "testbed"]) == 2  # who names a backbone means it


def test_inspect_without_a_backbone_still_refuses_what_is_nothing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({"x.attn2.to_k.weight": torch.ones(8, 1024)}, folder / "sd2.safetensors")
    assert main(["inspect", str(folder / "sd2.safetensors")]) == 2
    assert "made for Stable Diffusion 2.x" in capsys.readouterr().err


def test_the_reference_names_are_those_of_the_architecture(full_unet: State) -> None:
    found = sd1_names()
    assert {n: tuple(t.shape) for n, t in full_unet.items()} == {n: t.shape for n, t in found.unet.items()}
    assert len(found.text) == 196


def test_inspect_says_what_is_wrong(backbone: ModelRef, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.pt").write_bytes(b"nonsense")
    assert main(["inspect", str(folder / "a.pt"), "--backbone", str(backbone.path)]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and "where:" in shown.err and "next:" in shown.err


def test_a_transformer_s_checkpoint_is_inspected_against_its_backbone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_sd3(tmp_path / "backbone")
    erase = ["erase", "--method", "uce", "--backbone", str(folder), "--concept", "abc", "--out", str(tmp_path / "out")]
    assert main(erase) == 0
    capsys.readouterr()
    (path,) = (tmp_path / "out").glob("*.safetensors")
    assert main(["inspect", str(path), "--backbone", str(folder), "--claim", "uce", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["warnings"] == [] and found["facts"]["changed_key_set"] == "TEXT_ENTRY"
    assert list(found["facts"]["backbone"]["transformer"]) == ["transformer/diffusion_pytorch_model.safetensors"]
    assert main([*erase[:2], "rece", *erase[3:-1], str(tmp_path / "other")]) == 2
    assert "eraser 'rece' cannot act on a Stable Diffusion 3.x backbone" in capsys.readouterr().err


def test_what_is_said_of_a_transformer_calls_it_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_sd3(tmp_path / "backbone")
    state = load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file({name: tensor + 1 for name, tensor in state.items()}, tmp_path / "all.safetensors")
    assert main(["inspect", str(tmp_path / "all.safetensors"), "--backbone", str(folder)]) == 0
    assert f"all {len(state)} tensors of the transformer differ" in capsys.readouterr().out
    name = "transformer_blocks.0.attn.add_k_proj.weight"
    save_file({name: state[name][:1].clone()}, tmp_path / "shape.safetensors")
    assert main(["inspect", str(tmp_path / "shape.safetensors"), "--backbone", str(folder)]) == 2
    assert f"{name} has shape (1, " in (said := capsys.readouterr().err) and "the backbone's transformer has (" in said
