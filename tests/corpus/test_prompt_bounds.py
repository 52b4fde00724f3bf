"""Prompt files that would hang or fill the memory are refused at once; published spellings and Unicode forms are known."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.corpus import parquet_rows, prompt_files
from audit.corpus.prompts import PromptSet, read_prompt_set
from audit.errors import SpecError
from audit.names import folded
from audit.spec.prompts import PromptSource
from audit.spec.sections import Concept


def read(path: Path, **more: Any) -> PromptSet:
    return read_prompt_set(PromptSource(file=str(path), **more))


def refusal(path: Path) -> str:
    with pytest.raises(SpecError) as raised:
        read(path)
    assert raised.value.where == str(path) and raised.value.next_step
    return raised.value.what


@pytest.mark.parametrize("name", ["pipe.csv", "pipe.parquet"])
def test_a_named_pipe_is_refused_and_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    assert refusal(tmp_path / name) == "the prompt file cannot be read: it is a named pipe, not a file"


def test_a_device_and_a_folder_are_refused(tmp_path: Path) -> None:
    assert "it is a device, not a file" in refusal(Path("/dev/zero"))
    assert "it is a folder, not a file" in refusal(tmp_path)


def test_a_file_beyond_the_bound_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "huge.csv"
    with path.open("wb") as stream:
        stream.write(b"prompt,seed\n")
        stream.truncate(prompt_files.LIMIT_BYTES + 1)  # sparse: takes no space
    assert "it has 1000000001 bytes, and at most 1000000000 are read" in refusal(path)


def test_a_dictionary_that_decodes_to_gigabytes_costs_its_rows_and_not_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    indices = pa.array([0] * 20_000 + [1], pa.int32())
    prompts = pa.DictionaryArray.from_arrays(indices, pa.array(["a ring " * 200_000, "a ring"]))
    seeds = pa.array(range(20_001))
    pq.write_table(pa.table({"prompt": prompts, "seed": seeds, "other": prompts}), path, compression="zstd")
    assert path.stat().st_size < 1_000_000  # 2 x 28 GB of text
    rows = read(path).rows
    assert rows[0].problem == "row 0: its prompt has 1400000 characters, and at most 100000 are read"
    assert [rows[-1].prompt, rows[-1].problem] == ["a ring", None]


def test_parquet_beyond_the_bounds_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"prompt": ["a ring", "a hoop"], "seed": [1, 2]}), path)
    assert len(read(path).rows) == 2
    monkeypatch.setattr(parquet_rows, "MOST_ROWS", 1)
    assert "it has 2 rows, and at most 1 are read" in refusal(path)
    monkeypatch.setattr(parquet_rows, "MOST_ROWS", 5)
    monkeypatch.setattr(parquet_rows, "MOST_BYTES", 10)
    assert "and at most 10 are read" in refusal(path)


def test_only_the_columns_that_are_needed_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "set.parquet"
    pictures = pa.array([b"\xff" * 9, None], pa.binary())
    frame = {"prompt": ["a ring", "a hoop"], "image": pictures, "tags": [["x"], ["y"]], "seed": [1, 2]}
    pq.write_table(pa.table(frame), path)
    table = prompt_files.read_table(path, {}, filtered=("tags",))
    assert [set(row.values) for row in table.rows] == [{"prompt", "seed", "tags"}] * 2
    assert table.names == ("prompt", "image", "tags", "seed")


def test_prompts_of_mma_diffusion_are_found_under_their_column(tmp_path: Path) -> None:
    path = tmp_path / "mma.csv"
    path.write_text("target_prompt,adversarial_prompt\na ring,qwe ring\n")
    assert [row.prompt for row in read(path).rows] == ["qwe ring"]
    path.write_text("target_prompt,adv_prompt\na ring,asd ring\n")
    assert [row.prompt for row in read(path).rows] == ["asd ring"]


@pytest.mark.parametrize(("file", "spec"), [("NFD", "NFC"), ("NFC", "NFD")])
def test_names_in_either_unicode_form_are_the_same_names(file: str, spec: str, tmp_path: Path) -> None:
    def spelled(form: Any, text: str) -> str:
        return unicodedata.normalize(form, text)

    path = tmp_path / "set.csv"
    header = "prompt,concept,Schöpfer"
    path.write_text(spelled(file, f"{header}\nein Gemälde,Café Zoë,Müller\nein Ring,ring,Müller\n"), encoding="utf-8")
    found = read(path, where={spelled(spec, "Schöpfer"): spelled(spec, "MÜLLER")})
    concept = Concept(name="cafe-zoe", phrase=spelled(spec, "café zoë"))
    assert [row.number for row in found.about(concept)] == [0]
    synonym = Concept(name="place", phrase="place", synonyms=(spelled(spec, "Café Zoë "),))
    assert [row.number for row in found.about(synonym)] == [0]
    columns = read(path, columns={"concept": spelled(spec, "schöpfer")})
    assert folded(columns.columns["concept"]) == folded("schöpfer")
