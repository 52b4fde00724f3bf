"""What wrappers put before every name is taken off and said; a part of attn2 is read, and other methods' files named."""

from __future__ import annotations

import os
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.attacks.embedding_files import read_embedding
from audit.checkpoints import apply_artefact, backbone_files, recognise
from audit.checkpoints.inspection import inspect
from audit.checkpoints.key_sets import key_set
from audit.checkpoints.personal import read_change
from audit.checkpoints.personalisation import resolve_personalisation
from audit.checkpoints.prefixes import without_prefixes
from audit.diffusion.pipeline import Pipeline
from audit.errors import CheckpointError, SpecError
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef
from flows.cli import main
from tests.checkpoints.files import State, adapters, advunlearn, erased, ldm_full, moved

PREFIXES = ["unet.", "module.", "_orig_mod.", "model.", "module._orig_mod.", "model.unet."]


@pytest.mark.parametrize("prefix", PREFIXES)
@pytest.mark.parametrize("name", ["a.safetensors", "a.pt", "a.ckpt"])
def test_a_common_prefix_is_taken_off_and_said(
    prefix: str, name: str, backbone: ModelRef, unet: State, folder: Path
) -> None:
    plain = moved(unet, key_set("XATTN", unet))
    state = {prefix + n: t for n, t in plain.items()}
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 1} if name.endswith(".ckpt") else state, path)
    found = inspect(resolve_checkpoint(str(path)), backbone, "esd-x")
    assert (found["facts"]["changed_key_set"], found["facts"]["settings"]) == ("XATTN", {"prefix": prefix})
    assert found["warnings"] == []
    save_file(plain, folder / "plain.safetensors")
    same = inspect(resolve_checkpoint(str(folder / "plain.safetensors")), backbone, "esd-x")
    assert same["facts"]["names_sha256"] == found["facts"]["names_sha256"] and "prefix" not in same["facts"]["settings"]


def test_inspect_shows_the_prefix(
    backbone: ModelRef, unet: State, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_file({f"module.{n}": t for n, t in erased(unet, "KV").items()}, folder / "a.safetensors")
    assert main(["inspect", str(folder / "a.safetensors"), "--backbone", str(backbone.path)]) == 0
    assert "prefix     module." in capsys.readouterr().out


@pytest.mark.parametrize(
    ("make", "layout"),
    [
        (lambda unet, text: ldm_full(unet, text), "ldm-full"),
        (lambda unet, text: advunlearn(unet, text), "text-encoder-state"),
        (lambda unet, text: {"state_dict": ldm_full(unet, text)}, "ldm-full"),
        (lambda unet, text: adapters(unet), "receler"),
    ],
    ids=["ldm", "advunlearn", "lightning", "receler"],
)
def test_other_layouts_are_told_below_the_prefix(
    make: Callable[[State, State], Any], layout: str, backbone: ModelRef, unet: State, text: State, folder: Path
) -> None:
    content = make(unet, text)
    inner = content.get("state_dict", content)
    wrapped = {f"module.{name}": tensor for name, tensor in inner.items()}
    torch.save({"state_dict": wrapped} if "state_dict" in content else wrapped, folder / "a.pt")
    found = recognise(resolve_checkpoint(str(folder / "a.pt")), backbone_files(backbone))
    assert (found.layout.name, found.config["prefix"]) == (layout, "module.")


def test_a_compiled_part_is_read_too_and_half_a_prefix_is_not() -> None:
    inside = {"down_blocks.0._orig_mod.attn.weight": 1, "conv_in.weight": 2}
    assert without_prefixes(inside) == ({"down_blocks.0.attn.weight": 1, "conv_in.weight": 2}, "_orig_mod.")
    for names in ({"unet.a": 1, "b": 2}, {"model.diffusion_model.out.2.bias": 1}, {}, {"a._orig_mod.b": 1, "a.b": 2}):
        assert without_prefixes(names) == (names, "")


def test_a_lora_under_a_wrappers_prefix_is_read(backbone: ModelRef, unet: State, folder: Path) -> None:
    module = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    rows, width = unet[f"{module}.weight"].shape
    halves = {"lora_A": torch.ones(4, width), "lora_B": torch.ones(rows, 4)}
    save_file({f"module.{module}.{half}.weight": t for half, t in halves.items()}, folder / "lora.safetensors")
    change = read_change(resolve_personalisation(str(folder / "lora.safetensors")), backbone_files(backbone))
    assert list(change.unet) == [f"{module}.weight"] and change.facts["prefix"] == "module."


LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2"


@pytest.mark.parametrize(
    ("wanted", "key_set_name", "note"),
    [
        (lambda n: "attn2.to_v" in n, "V", None),
        (lambda n: "attn2.to_k" in n, "K", None),
        (lambda n: n.startswith(LAYER), "XATTN of 1 layers", "it changes attn2 in 1 of 16 layers only"),
        (lambda n: n.startswith(LAYER) and "to_v" in n, "V of 1 layers", "it changes values of attn2 in 1 of 16"),
        (
            lambda n: n.startswith("down_blocks") and ("attn2.to_k" in n or "attn2.to_v" in n),
            "KV of 6 layers",
            "it changes keys and values of attn2 in 6 of 16 layers only: .* the file is incomplete",
        ),
    ],
    ids=["values", "keys", "one layer", "one value", "down"],
)
@pytest.mark.parametrize("nested", [False, True])
def test_a_part_of_cross_attention_is_read(
    wanted: Callable[[str], bool],
    key_set_name: str,
    note: str | None,
    nested: bool,
    pipeline: Pipeline,
    unet: State,
    folder: Path,
) -> None:
    state = moved(unet, [name for name in unet if wanted(name)])
    if nested:
        parts = {name.rpartition(".") for name in state}
        content = {f"unet.{m}": {leaf: state[f"{m}.{leaf}"] for o, _, leaf in parts if o == m} for m, _, _ in parts}
        torch.save(content, folder / "a.pt")
    else:
        save_file(state, folder / "a.safetensors")
    model = apply_artefact(pipeline, str(folder / ("a.pt" if nested else "a.safetensors")))
    assert set(model.footprint.names) == set(state)
    assert model.artefact.key_set == key_set_name
    if note is None:
        assert model.artefact.notes == ()
    else:
        (said,) = model.artefact.notes
        assert re.search(note, said)


def most_layers(unet: State) -> State:
    names = sorted(n for n in unet if "attn2.to_v" in n)
    return moved(unet, names[:9])


def uneven(unet: State) -> State:
    """The key of one layer and the value of another."""
    return moved(unet, [sorted(key_set("K", unet))[0], sorted(key_set("V", unet))[-1]])


@pytest.mark.parametrize("make", [most_layers, uneven])
def test_a_part_that_nobody_trains_is_taken_for_incomplete(
    make: Callable[[State], State], backbone: ModelRef, unet: State, folder: Path
) -> None:
    save_file(make(unet), folder / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"no set that a known eraser changes.*incomplete"):
        recognise(resolve_checkpoint(str(folder / "a.safetensors")), backbone_files(backbone))


def gloce(unet: State) -> State:
    module = "lora_gloce_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    parts = ("lora_update.weight", "lora_degen.weight", "bias.weight", "selector.select_weight.weight", "alpha")
    return {f"{module}.{part}": torch.ones(1, 8, 4) for part in parts}


def unhype(unet: State) -> State:
    heads = ("left_head.0.weight", "left_head.2.bias", "right_head.0.weight", "alpha")
    return {f"hyper_layers.0.{part}": torch.ones(4) for part in heads}


def stereo(unet: State) -> Any:
    return {"model_state_dict": dict(unet), "saved_tokens": {"0": "<mv>"}}


def eraseflow(unet: State) -> State:
    module = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    return {f"{module}.lora.down.weight": torch.ones(4, 8), f"{module}.lora.up.weight": torch.ones(8, 4)}


OTHERS: dict[str, tuple[Callable[[State], Any], str, str]] = {
    "GLoCE": (gloce, "the file is GLoCE's", "whole pipeline folder"),
    "UnHype": (unhype, "the file is UnHype's: a hypernetwork", "whole pipeline folder"),
    "MCE": (lambda unet: [torch.ones(8), torch.ones(4)], "as MCE saves its masks", "whole pipeline folder"),
    "STEREO": (stereo, "the file is STEREO's first stage", "final_reo_unet.pt"),
    "EraseFlow of another width": (eraseflow, "made for another model|the LoRA cannot be used", "backbone"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_methods_file_is_named_with_what_to_do(
    name: str, backbone: ModelRef, unet: State, folder: Path
) -> None:
    make, message, step = OTHERS[name]
    torch.save(make(unet), folder / "a.pt")
    with pytest.raises(CheckpointError, match=message) as found:
        recognise(resolve_checkpoint(str(folder / "a.pt")), backbone_files(backbone))
    assert step in (found.value.next_step or "")


def test_a_text_encoder_with_words_that_an_attack_learned_is_named(
    backbone: ModelRef, text: State, folder: Path
) -> None:
    state = {f"text_model.{name.removeprefix('text_model.')}": tensor.clone() for name, tensor in text.items()}
    words = "text_model.embeddings.token_embedding.weight"
    torch.save({**state, words: torch.cat([state[words], torch.ones(2, state[words].shape[1])])}, folder / "a.pt")
    with pytest.raises(CheckpointError, match=r"its text encoder knows 2 tokens more.*an attack learned") as found:
        recognise(resolve_checkpoint(str(folder / "a.pt")), backbone_files(backbone))
    assert "final_reo_unet.pt" in (found.value.next_step or "")


@pytest.mark.parametrize("resolve", [resolve_checkpoint, resolve_personalisation])
def test_a_named_pipe_is_refused_at_once(resolve: Callable[[str], Any], folder: Path) -> None:
    os.mkfifo(folder / "pipe.safetensors")
    for name in (str(folder / "pipe.safetensors"), "/dev/zero"):
        with pytest.raises(CheckpointError, match="a named pipe, a socket or a device, not a file") as found:
            resolve(name)
        assert found.value.next_step


def test_an_archive_that_unpacks_to_more_than_it_holds_is_refused(folder: Path, backbone: ModelRef) -> None:
    with zipfile.ZipFile(folder / "a.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}q\x00.")
        archive.writestr("a/data/0", bytes(10_000_000))
    with pytest.raises(CheckpointError, match=r"unpacks to 100000.. bytes, more than it holds") as found:
        recognise(resolve_checkpoint(str(folder / "a.pt")), backbone_files(backbone))
    assert found.value.next_step


def test_a_name_that_pytorch_would_think_about_for_days_is_refused_at_once(folder: Path, backbone: ModelRef) -> None:
    pickled = b"\x80\x02c" + b"a" * 2_000_000 + b"\nb\n."
    with zipfile.ZipFile(folder / "a.pt", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    (folder / "b.pt").write_bytes(pickled)  # as files from before zip archives begin
    for name in ("a.pt", "b.pt"):
        with pytest.raises(CheckpointError, match="is not read: it asks for a name of 2000002 characters"):
            recognise(resolve_checkpoint(str(folder / name)), backbone_files(backbone))
        with pytest.raises(SpecError, match="is not read: it asks for a name of 2000002 characters"):
            read_embedding(folder / name)
