"""The weight files of a model folder are one list, and what describes them is read within bounds."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.numpy import save_file
from transformers import CLIPTextModel

from audit.checkpoints.tensors import from_shards
from audit.errors import CheckpointError
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.files import check_safetensors, loaded_weights, read_json
from audit.weights.references import resolve_model


def weights(path: Path, fill: float = 1.0) -> None:
    save_file({"w": np.full((4, 4), fill, np.float32)}, str(path))


def with_header(path: Path, header: str | bytes, data: bytes = b"") -> Path:
    text = header.encode() if isinstance(header, str) else header
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def test_a_whole_file_beside_an_index_is_refused(tmp_path: Path) -> None:
    weights(tmp_path / "diffusion_pytorch_model.safetensors")
    weights(tmp_path / "diffusion_pytorch_model-1.safetensors", 2.0)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "diffusion_pytorch_model-1.safetensors"}}))
    with pytest.raises(CheckpointError) as caught:
        loaded_weights(tmp_path)
    assert caught.value.what == (
        "the folder holds its weights more than once (diffusion_pytorch_model.safetensors, "
        "diffusion_pytorch_model.safetensors.index.json), and libraries differ in which they load"
    )
    assert "move the others away" in (caught.value.next_step or "")


def test_two_names_for_one_part_are_refused(tmp_path: Path) -> None:
    for name in ("diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors"):
        weights(tmp_path / name)
    with pytest.raises(CheckpointError, match="more than once"):
        loaded_weights(tmp_path)


def test_a_backbone_whose_part_is_ambiguous_is_refused(tmp_path: Path, tiny_copy: Path) -> None:
    index = tiny_copy / "unet" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": "other.safetensors"}}))
    weights(tiny_copy / "unet" / "other.safetensors")
    with pytest.raises(CheckpointError, match="more than once"):
        resolve_model(str(tiny_copy))


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_shards_as_diffusers_writes_them_are_read(variant: str | None, tmp_path: Path, tiny_folder: Path) -> None:
    unet = UNet2DConditionModel.from_pretrained(tiny_folder / "unet")
    unet.save_pretrained(tmp_path, variant=variant, max_shard_size="50KB")
    ref = resolve_checkpoint(str(tmp_path))
    assert (ref.kind, len(ref.files) > 1) == ("unet", True)
    stored = from_shards([tmp_path / name for name in ref.files])
    for name, tensor in unet.state_dict().items():
        assert torch.equal(stored[name].load(), tensor)


@pytest.mark.parametrize("variant", [None, "fp16", "bf16"])
def test_shards_as_transformers_writes_them_are_read(variant: str | None, tmp_path: Path, tiny_folder: Path) -> None:
    text = CLIPTextModel.from_pretrained(tiny_folder / "text_encoder")
    text.save_pretrained(tmp_path, variant=variant, max_shard_size="5KB")
    ref = resolve_checkpoint(str(tmp_path))
    assert (ref.kind, len(ref.files) > 1) == ("text-encoder", True)
    assert loaded_weights(tmp_path)[1] == variant


@pytest.mark.parametrize(
    "index",
    [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "diffusion_pytorch_model.safetensors.fp16.index.json",
        "model.safetensors.index.fp16.json",
        "model.fp16.safetensors.index.json",
    ],
)
def test_every_name_of_an_index_is_known(index: str, tmp_path: Path) -> None:
    (tmp_path / index).write_text(json.dumps({"weight_map": {"w": "one.safetensors"}}))
    weights(tmp_path / "one.safetensors")
    assert loaded_weights(tmp_path) == ([tmp_path / "one.safetensors"], "fp16")


DEEP = "[" * 100_000
OBJECT = '{"a":' * 100_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (DEEP, "it is nested deeper than 64 levels"),
        (OBJECT, "it is nested deeper than 64 levels"),
        (f'{{"a": {"9" * 5000}}}', "it holds an integer of more than 300 digits"),
        (b"\xff\xfe{}", "it is not UTF-8 text"),
        ("3", "it is not valid JSON of an object"),
        ("{", "it is not valid JSON (line 1, column 2)"),
        (" " * 10_000_001, "it has 10000001 bytes, and at most 10000000 are read"),
    ],
)
def test_a_configuration_out_of_bounds_is_one_message(text: str | bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(CheckpointError) as caught:
        read_json(path)
    assert caught.value.what.startswith(f"the configuration file cannot be used: {reason}")
    assert caught.value.where == str(path) and caught.value.next_step


def test_a_configuration_that_is_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(CheckpointError, match="it is a named pipe, not a file"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize("listed", ["[" * 100_000, "9" * 5000, '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_a_shard_index_out_of_bounds_is_one_message(listed: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(listed)
    with pytest.raises(CheckpointError, match=r"cannot be used|index is malformed"):
        loaded_weights(tmp_path)


@pytest.mark.parametrize("name", ["/etc/w.safetensors", "../w.safetensors", "a\0.safetensors", "w.bin"])
def test_a_shard_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        loaded_weights(tmp_path)


def test_a_shard_that_is_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "w.safetensors"}}))
    (tmp_path / "config.json").write_text("{}")
    os.mkfifo(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match="it is a named pipe, not a file"):
        resolve_model(str(tmp_path))


def entry(**changes: Any) -> str:
    return json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}})


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (DEEP, "nested deeper than 64 levels"),
        (f'{{"w": {"9" * 5000}}}', "an integer of more than 300 digits"),
        (json.dumps({"w" * 501: {}}), "it names a tensor by 501 characters"),
        ('{"w": {}}', "it does not describe 'w'"),
        (entry(dtype=3), "it does not describe 'w'"),
        (entry(shape="big"), "it does not describe 'w'"),
        (entry(shape=[-1]), "it does not describe 'w'"),
        (entry(shape=[True]), "it does not describe 'w'"),
        (entry(data_offsets=[0]), "it does not describe 'w'"),
        (entry(data_offsets=[0, float("inf")]), "it does not describe 'w'"),
        (entry(data_offsets=[0, 10**30]), "it does not describe 'w'"),
        (b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_a_header_out_of_bounds_is_one_message(header: str | bytes, reason: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        check_safetensors(with_header(tmp_path / "model.safetensors", header, b"1234"))
    assert caught.value.what.startswith("the weight file is not a whole safetensors file: its header is not valid: ")
    assert reason in caught.value.what


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir], ids=["a named pipe", "a folder"])
def test_weights_that_are_no_file_are_not_read(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=r"it is a (named pipe|folder), not a file"):
        check_safetensors(tmp_path / "w.safetensors")
