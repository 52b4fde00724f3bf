"""Files of learned embeddings: read by content under any name, and each problem is its own message."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.attacks.embedding_files import read_embedding
from audit.errors import SpecError
from tests.attacks.test_units import draft, spec_with_file, vectors


def test_safetensors_and_pickles_are_told_by_content(tmp_path: Path) -> None:
    for name in ("a.bin", "a.pt", "a.safetensors"):
        save_file({"<ring>": vectors()}, tmp_path / name)
        assert torch.equal(read_embedding(tmp_path / name).vectors, vectors())
        torch.save({"<ring>": vectors()}, tmp_path / name)
        assert torch.equal(read_embedding(tmp_path / name).vectors, vectors())


@pytest.mark.parametrize("wrap", [dict, torch.nn.ParameterDict], ids=["dict", "ParameterDict"])
def test_the_layout_of_automatic1111_is_read_with_both_kinds_of_dictionary(
    wrap: Callable[[dict[str, Any]], Any], tmp_path: Path
) -> None:
    """Its files of 2022 hold a ParameterDict, which PyTorch does not unpickle by itself."""
    content = {"string_to_token": {"*": 265}, "string_to_param": wrap({"*": torch.nn.Parameter(vectors())})}
    for name, token in (("ring-style", "ring-style"), (None, "<embedding>")):
        torch.save({**content, "name": name, "step": 5}, tmp_path / "a.pt")
        found = read_embedding(tmp_path / "a.pt")
        assert found.token == token and torch.equal(found.vectors, vectors())
        assert not found.vectors.requires_grad


def test_a_parameter_dict_by_itself_is_read_or_refused_in_one_message(tmp_path: Path) -> None:
    torch.save(torch.nn.ParameterDict({"a": torch.nn.Parameter(vectors())}), tmp_path / "a.pt")
    with pytest.raises(SpecError, match="holds a ParameterDict, not a token with its vectors"):
        read_embedding(tmp_path / "a.pt")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_other_precisions_are_read(dtype: torch.dtype, tmp_path: Path) -> None:
    for save, name in ((save_file, "a.safetensors"), (torch.save, "a.bin")):
        save({"<ring>": vectors().to(dtype)}, tmp_path / name)
        assert torch.equal(read_embedding(tmp_path / name).vectors, vectors().to(dtype).float())


def silently(content: Any) -> Callable[[Path], None]:
    def save(path: Path) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch, about rare kinds of tensors
            torch.save(content(), path)

    return save


def of(value: float) -> Callable[[], Any]:
    return lambda: {"<ring>": torch.full((2, 16), value)}


def named(name: Any) -> Callable[[], Any]:
    return lambda: {"string_to_param": {"*": vectors()}, "name": name}


BAD: dict[str, tuple[Callable[[Path], Any], str]] = {
    "git lfs": (lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid x"), "Git LFS pointer"),
    "zero": (silently(of(0.0)), "holds a vector that is all zero"),
    "one zero": (
        silently(lambda: {"<ring>": torch.cat([torch.ones(1, 16), torch.zeros(1, 16)])}),
        "holds a vector that is all zero",
    ),
    "absurd": (silently(of(1e30)), r"holds the value 1e\+30, and no learned embedding goes beyond"),
    "infinite": (silently(of(float("inf"))), "holds NaN or infinity"),
    "no width": (silently(lambda: {"<ring>": torch.ones(2, 0)}), r"the tensor has the shape \(2, 0\)"),
    "no vector": (silently(lambda: {"<ring>": torch.ones(0, 16)}), r"the tensor has the shape \(0, 16\)"),
    "a number": (silently(lambda: {"<ring>": torch.ones(())}), r"the tensor has the shape \(\)"),
    "an image": (silently(lambda: {"<ring>": torch.ones(1, 2, 16)}), r"the tensor has the shape \(1, 2, 16\)"),
    "sparse": (silently(lambda: {"<ring>": torch.ones(2, 16).to_sparse()}), "the tensor is sparse float32"),
    "meta": (silently(lambda: {"<ring>": torch.ones(2, 16, device="meta")}), "float32 on the meta device"),
    "quantised": (
        silently(lambda: {"<ring>": torch.quantize_per_tensor(torch.ones(2, 16), 0.1, 0, torch.qint8)}),
        "the tensor is quantised qint8",
    ),
    "nested": (
        silently(lambda: {"<ring>": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])}),
        "the tensor is nested float32",
    ),
    "integers": (silently(lambda: {"<ring>": torch.ones(2, 16, dtype=torch.int64)}), "the tensor is int64"),
    "complex": (silently(lambda: {"<ring>": torch.ones(2, 16, dtype=torch.complex64)}), "the tensor is complex64"),
    "a tensor as key": (silently(lambda: {torch.ones(2): vectors()}), "names its token by a Tensor, not by text"),
    "a tensor as name": (silently(named(torch.ones(2))), "names its token by a Tensor, not by text"),
    "a list as name": (silently(named(["a", "b"])), "names its token by a list, not by text"),
    "a number as name": (silently(named(7)), "names its token by a int, not by text"),
    "an endless name": (silently(named("a" * 5000)), "names its token by 5000 characters that cannot stand"),
    "an unprintable name": (silently(lambda: {"a\x1b[31m": vectors()}), "characters that cannot stand in a prompt"),
    "two": (silently(lambda: {"string_to_param": {"*": vectors(), "+": vectors()}}), "holds 2 tensors"),
    "numbers": (silently(lambda: {"<ring>": [1.0, 2.0]}), "no vectors under '<ring>', but a list"),
    "code": (silently(lambda: {"<ring>": Path("x")}), r"it asks for pathlib\.\w+; nothing of it was run"),
    "cut short": (
        lambda path: (save_file({"<ring>": vectors()}, path), os.truncate(path, 90)),
        "is no whole safetensors file",
    ),
    "a pipe": (lambda path: os.mkfifo(path), "cannot be used: it is a named pipe, not a file"),
    "a device": (lambda path: path.symlink_to("/dev/zero"), "cannot be used: it is a device, not a file"),
    "a folder": (lambda path: path.mkdir(), "cannot be used: it is a folder, not a file"),
}


@pytest.mark.parametrize("bad", BAD)
def test_every_problem_has_its_own_message(bad: str, tmp_path: Path) -> None:
    save, message = BAD[bad]
    save(tmp_path / "learned_embeds.bin")
    with pytest.raises(SpecError, match=message) as found:
        read_embedding(tmp_path / "learned_embeds.bin")
    assert found.value.next_step and found.value.where and "\n" not in found.value.what


@pytest.mark.parametrize("bad", ["a pipe", "a device", "a folder"])
def test_what_is_no_file_is_refused_by_the_plan_and_never_waited_for(
    bad: str, tmp_path: Path, tiny_folder: Path
) -> None:
    path = tmp_path / "learned_embeds.bin"
    BAD[bad][0](path)
    with pytest.raises(SpecError, match=BAD[bad][1]) as found:
        draft(spec_with_file(tmp_path, tiny_folder, embedding=str(path)))
    assert found.value.next_step
