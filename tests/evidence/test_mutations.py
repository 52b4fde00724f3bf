"""Single changes of a bundle, drawn at random: each is noticed, and the file that is wrong is named."""

from __future__ import annotations

import dataclasses
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from audit.evidence.lines import Answer
from audit.evidence.verify import verify
from tests.evidence.bundles import NOW, Audit, Bundle, sealed

Change = Callable[
    [random.Random, Path, Path, list[str]], list[str]
]  # returns the names that must be said; none: no change


def flip(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice([n for n in names if (folder / n).stat().st_size])
    data = bytearray((folder / name).read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    (folder / name).write_bytes(data)
    return [name]


def truncate(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice([n for n in names if (folder / n).stat().st_size])
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: draw.randrange(len(data))])
    return [name]


def append(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice(names)
    with (folder / name).open("ab") as stream:
        stream.write(draw.choice((b"\n", b"\0", b" ", draw.randbytes(40))))
    return [name]


def edit_score(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice(("data/rows/scores.parquet", "data/rows/outcomes.parquet"))
    table = pq.read_table(folder / name)
    scores = table["score"].to_pylist()
    chosen = draw.choice([n for n, score in enumerate(scores) if score is not None])
    scores[chosen] = draw.random()
    pq.write_table(table.set_column(table.schema.get_field_index("score"), "score", pa.array(scores)), folder / name)
    return [name]


def swap(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    first, second = draw.sample(names, 2)
    one, other = (folder / first).read_bytes(), (folder / second).read_bytes()
    (folder / first).write_bytes(other)
    (folder / second).write_bytes(one)
    return [] if one == other else [first, second]


def remove(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice(names)
    (folder / name).unlink()
    # Nothing that is left of the bundle says that there was an officer; the key that was given for it does.
    return ["officer.pub"] if "officer" in name else [name]


def rename(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice(names)
    other = draw.choice((f"{name}.old", name.replace(".", "-2.", 1), str(Path(name).parent / f"z{Path(name).name}")))
    (folder / name).rename(folder / other)
    return [other] if "officer" in name else [name, Path(other).as_posix()]


def add(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice(
        (
            "extra.txt",
            ".hidden",
            "data/more.json",
            "data/rows/labels.parquet",
            "data/new/deep/file",
            "attestations/note.txt",
        )
    )
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(draw.randbytes(draw.randrange(3)))
    return [name]


def link(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    """The same bytes, but elsewhere: what lies there can change later."""
    name = draw.choice(names)
    target = folder.parent / "elsewhere"
    shutil.copyfile(folder / name, target)
    (folder / name).unlink()
    (folder / name).symlink_to(target)
    return ["officer.pub"] if "officer" in name else [name]


def empty_folder(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    name = draw.choice(("data/notes", "empty", "attestations/empty"))
    (folder / name).mkdir()
    return [name]


def take_older(draw: random.Random, folder: Path, older: Path, names: list[str]) -> list[str]:
    """The same file of a bundle that the same key sealed before."""
    present = [name for name in names if (older / name).exists()]
    name = draw.choice([n for n in present if (older / n).read_bytes() != (folder / n).read_bytes()])
    shutil.copyfile(older / name, folder / name)
    return [name]


CHANGES: tuple[Change, ...] = (
    flip, truncate, append, edit_score, swap, remove, rename, add, link, empty_folder, take_older,
)  # fmt: skip


@pytest.fixture(scope="module")
def older(sealed_once: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return sealed(
        tmp_path_factory.mktemp("older"), Audit(hits=2), frames=[], pair=(sealed_once.private, sealed_once.public)
    )


def said(bundle: Bundle) -> list[str]:
    """What a verification finds wrong."""
    found = verify(bundle.folder, bundle.keys, now=NOW)
    assert found.holds == all(line.answer is not Answer.WRONG for line in found.lines)
    return [f"{line.where}: {line.detail}" for line in found.lines if line.answer is Answer.WRONG]


def unnoticed(bundle: Bundle, older: Bundle, folder: Path, count: int, seed: int) -> list[str]:
    """Make `count` changes, each of a fresh copy; sentences about those that are not noticed, or not by name."""
    draw, problems, made = random.Random(seed), [], 0
    names = sorted(p.relative_to(bundle.folder).as_posix() for p in bundle.folder.rglob("*") if p.is_file())
    while made < count:
        copy = dataclasses.replace(bundle, folder=folder / "copy")
        shutil.copytree(bundle.folder, copy.folder)
        change = CHANGES[made % len(CHANGES)]
        wanted = change(draw, copy.folder, older.folder, names)
        if wanted:
            made += 1
            found = said(copy)
            problems += [
                f"{change.__name__} of {name}: {found}" for name in wanted if not any(name in f for f in found)
            ]
        shutil.rmtree(copy.folder)
    return problems


def test_sixty_random_changes_are_noticed_and_named(sealed_once: Bundle, older: Bundle, tmp_path: Path) -> None:
    assert unnoticed(sealed_once, older, tmp_path, 60, seed=1) == []


@pytest.mark.slow
def test_a_thousand_random_changes_are_noticed_and_named(sealed_once: Bundle, older: Bundle, tmp_path: Path) -> None:
    assert unnoticed(sealed_once, older, tmp_path, 1000, seed=2) == []
