"""Print what planning many cases costs, what folding costs when little is new, and how fast a bucket is listed and hashed.

python -m tests.bench.bench_plan [--cases 20000] [--objects 1000] [--part planning|folding|listing]

`--cases 1000000` plans 100 concepts, 10 defences (the backbone among them) and 6 scenarios with about 170 cases a cell.
`--objects 1000000 --part listing` takes half an hour, and its bucket no disk: a server makes its pictures as they are read.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa

from audit import identity, run
from audit.corpus import ingest
from audit.corpus.manifest import MANIFEST_SCHEMA
from audit.corpus.parts import PART_ROWS, Parts
from audit.index.store import Store
from audit.plan.document import read_plan
from audit.spec.document import parse_spec
from audit.spec.sections import CorpusEntry, CorpusLimits
from audit.storage.journal import Journal
from audit.storage.objects import ObjectStore
from tests.bench.bench_store import write_journal
from tests.bench.large_bucket import large_bucket, sent
from tests.bench.table import Figure, conclude
from tests.corpora import png
from tests.servers import rclone_server

CASES, OBJECTS, SCORES = 20_000, 1_000, 100_000
LARGE = 20_000  # objects, from which on a server that keeps them in files takes minutes for each page
MILLION = 1_000_000
PROCESSOR_SECONDS, GIBIBYTES = 90.0, 2.0  # of a plan of a million cases
SHARE = 0.8  # of what a bare client gets from the server
COLOURS = ("red", "green", "blue", "yellow", "black", "white", "orange", "purple", "pink", "gray")
SHAPES = ("ring", "star", "heart", "square", "moon", "cross", "triangle", "diamond", "circle", "arrow")
CELLS = 60  # of one concept: ten defences, six scenarios


def main() -> None:
    """Measure and print one table; or plan once, as a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES)
    parser.add_argument("--objects", type=int, default=OBJECTS)
    parser.add_argument("--part", choices=("planning", "folding", "listing"))
    parser.add_argument("--plan", nargs=3, metavar=("CONCEPTS", "CASES", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plan:
        concepts, cases, folder = options.plan
        print(json.dumps(plan_once(int(concepts), int(cases), Path(folder))))
    else:
        conclude(figures(options.cases, options.objects, options.part))


def figures(cases: int = CASES, objects: int = OBJECTS, part: str | None = None) -> Iterator[Figure]:
    """Yield the figures of one part, or of all."""
    with tempfile.TemporaryDirectory() as name:
        if part in (None, "planning"):
            yield from planning(cases, Path(name))
        if part in (None, "folding"):
            yield from folding(Path(name))
        if part in (None, "listing"):
            yield from listing(objects, Path(name))


def planning(cases: int, folder: Path) -> Iterator[Figure]:
    """Yield processor seconds and peak memory of planning and storing `cases` cases, and of a tenth of them."""
    concepts = min(100, max(cases // (CELLS * 20), 1))
    each = -(-cases // (CELLS * concepts))
    sizes = [(concepts, max(each // 10, 3)), (concepts, each)]
    few, many = (_planned(n, count, folder / f"plan-{count}") for n, count in sizes)
    whole = many["cases"] >= MILLION
    how = f"{many['cases']:,.0f} cases of {concepts} concepts, {many['units']:,.0f} units"
    yield Figure("plan, processor time", many["seconds"], "{:.1f} s", PROCESSOR_SECONDS if whole else None, how)
    yield Figure("plan, peak memory of the process", many["gib"], "{:.2f} GiB", GIBIBYTES if whole else None, how)
    growth = many["cases"] / few["cases"]
    detail = f"{growth:.1f} times the cases; imports and the digests of weights are in both"
    yield Figure("- time over that of fewer cases", many["seconds"] / few["seconds"], "{:.2f}x", growth, detail)
    yield Figure("- memory over that of fewer cases", many["gib"] / few["gib"], "{:.2f}x", None, detail)
    yield Figure("- a worker reads the plan", many["read"], "{:.2f} s", None, "its outline, and the keys of its units")
    yield Figure(
        "- and the cases of one unit", 1000 * many["unit"], "{:.1f} ms", None, "median of 50, each of another cell"
    )


def _planned(concepts: int, cases: int, folder: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "tests.bench.bench_plan", "--plan", str(concepts), str(cases), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def plan_once(concepts: int, cases: int, folder: Path) -> dict[str, float]:
    """Return what planning cost this process, and what reading the stored plan does."""
    spec = parse_spec(document(concepts, cases), "bench", "mend the benchmark")
    manifest, journal = manifest_of(concepts, cases), run.open_journal(str(folder))
    start = _processor_seconds()
    run.plan(spec, journal, "bench", "2026-01-01T00:00:00+00:00", manifest)
    seconds, peak = _processor_seconds() - start, _peak()
    reading = _processor_seconds()
    plan = read_plan(journal, "bench")
    read = _processor_seconds() - reading
    keys = [
        key.as_py()
        for key, kind in zip(plan.units["key"], plan.units["kind"], strict=True)
        if kind.as_py() == "generate"
    ]
    times = []
    for key in keys[:: max(len(keys) // 50, 1)][:50]:
        began = _processor_seconds()
        assert plan.cases_of(key)
        times.append(_processor_seconds() - began)
    return {
        "cases": plan.cases.num_rows, "units": plan.units.num_rows, "seconds": seconds, "gib": peak, "read": read,
        "unit": statistics.median(times),
    }  # fmt: skip


def document(concepts: int, cases: int) -> dict[str, Any]:
    """Return a spec of ten defences, the backbone among them, and six scenarios with `cases` cases each."""
    names = _names(concepts)
    learned = {"cases": cases, "preset": "testbed", "parameters": {"images": min(cases, 16)}}
    latent = {"cases": cases, "sampler": {"steps": 25, "guidance": 1.0}}
    return {
        "name": "bench",
        "backbone": "testbed",
        "concepts": [{"name": name, "phrase": name.replace("-", " ")} for name in names],
        "corpus": [{"url": f"/corpus/{name}", "concept": name} for name in names],
        "defences": [
            {
                "name": f"uce-{n}",
                "eraser": {"method": "uce", "preset": "testbed", "parameters": {"erase_scale": 1.0 + n}},
            }
            for n in range(9)
        ],
        "scenarios": [
            {"name": "text", "cases": cases},
            {"name": "adversarial-text", "cases": cases, "found": 8, "preset": "testbed"},
            {"name": "embedding-whitebox", **learned},
            {"name": "embedding-blackbox", **learned},
            {"name": "latent-whitebox", **latent},
            {"name": "latent-blackbox", **latent},
        ],
        "controls": {"cases": min(cases, 12)},
        "unit_size": 50,
        "detectors": [
            {"name": name, "kind": "clip-zero-shot", "model": f"testbed/{name}", "threshold": 0.5}
            for name in ("judge", "energy")
        ],
        "gate": {"version": "1", "judges": ["judge"], "limits": [{"crr_max": 0.1}]},
    }


def manifest_of(concepts: int, images: int) -> pa.Table:
    """Return the manifest of a corpus that lies nowhere."""
    rows = []
    for concept in _names(concepts):
        for number in range(images):
            digest = identity.key([concept, number])
            rows.append(
                {
                    "uri": f"file:///corpus/{concept}/{number:06}.png", "role": "target", "concept": concept, "size_bytes": 1000,
                    "byte_sha256": digest, "pixel_sha256": digest, "width": 64, "height": 64, "format": "PNG", "error": None,
                    "duplicate_of": None,
                }
            )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)


def _names(concepts: int) -> list[str]:
    return [f"{colour}-{shape}" for colour in COLOURS for shape in SHAPES][:concepts]


def folding(folder: Path) -> Iterator[Figure]:
    """Yield what it costs to fold a run again when nothing and when one of its units is new."""
    journal, path = Journal(str(folder / "journal")), folder / "index.duckdb"
    units = write_journal(journal, SCORES // 10, 16)
    late = min((folder / "journal" / "units" / "detect").rglob("*.parquet"))
    held_back = late.rename(folder / late.name)

    def timed(work: Callable[[Store], object]) -> float:
        start = _processor_seconds()
        with Store(path) as store:
            work(store)
        return _processor_seconds() - start

    first, again = (timed(lambda store: store.consolidate(journal)) for _ in range(2))
    held_back.rename(late)
    one = timed(lambda store: store.consolidate(journal))
    publishing = timed(lambda store: store.publish(folder / "published"))
    how = f"{SCORES:,} scores in {units:,} units"
    yield Figure("fold a journal, processor time", first, "{:.2f} s", None, how)
    yield Figure("- again, with nothing new", again / first, "{:.0%}", 0.2, "of the first time")
    yield Figure("- again, with one new unit", one / first, "{:.0%}", None, "all cases of its run are decided anew")
    yield Figure("- publish a copy", publishing / first, "{:.0%}", None, "of the whole index")


def listing(objects: int, folder: Path) -> Iterator[Figure]:
    """Yield how fast pictures in a bucket are listed, hashed and decoded, beside a client that only gets them."""
    if objects >= LARGE:
        yield from large_listing(objects, folder)
        return
    for number in range(objects):  # in small folders, because the server lists a whole one for each request
        path = folder / "bucket" / "set" / f"{number // 20:06}" / f"{number:06}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, 32))
    with rclone_server(folder) as variables:
        os.environ.update(variables)
        stores = [ObjectStore(str(folder / f"root-{number}")) for number in range(3)]  # each run the first in its root
        rounds = [
            (_timed(lambda: _bare(objects)), _timed(functools.partial(_listed, objects, Parts(store, "first"))))
            for store in stores
        ]
        reused = _timed(lambda: _listed(objects, Parts(stores[-1], "second")))
    bare, ours = min(one for one, _ in rounds), min(other for _, other in rounds)
    how = (
        f"{objects:,} pictures of 3 kB on loopback; fastest of 3, each of 8 threads; server and client share the cores"
    )
    yield Figure("bucket listed and got by a bare client", objects / bare, "{:.0f}/s", None, how)
    yield Figure(
        "- listed, hashed, decoded, kept for a resume", bare / ours, "{:.0%}", SHARE, "of its rate", least=True
    )
    yield Figure(
        "- unchanged since the run before", ours / reused, "{:.1f}x", 2.0, "faster; nothing is read", least=True
    )


def large_listing(objects: int, folder: Path) -> Iterator[Figure]:
    """Yield rate and memory of listing a bucket that is stopped half-way and listed on, and then once more, unchanged."""
    few = objects // 10
    with large_bucket(objects) as variables:
        os.environ.update(variables)
        bare = few / _timed(lambda: _bare(few))
        store, begun, before = ObjectStore(str(folder / "root")), _peak(), sent(variables)
        half = _timed(lambda: _listed(objects // 2, Parts(store, "first"), stop=True))
        at_half, second = _peak(), sent(variables)
        rest = _timed(lambda: _listed(objects, Parts(store, "first")))
        at_end, last = _peak(), sent(variables)
        reused = _timed(lambda: _listed(objects, Parts(store, "second")))
        again = sent(variables) - last
    ours = (second - before) / half
    how = f"{few:,} pictures of 3 kB on loopback, 8 threads; server and client share the cores"
    yield Figure("large bucket got by a bare client", bare, "{:.0f}/s", None, how)
    how = f"of its rate; {objects:,} pictures, stopped half-way"
    yield Figure("- listed, hashed, decoded, kept for a resume", ours / bare, "{:.0%}", SHARE, how, least=True)
    how = f"those in flight and in an unfinished part, of {second - before:,}; the rest took {rest:.0f} s after {half:.0f}"
    yield Figure("- read again when listed on", last - before - objects, "{:.0f}", PART_ROWS + ingest.WINDOW, how)
    how = f"{begun:.2f} GiB before, {at_half:.2f} half-way: a digest and a URI are remembered of each picture"
    yield Figure("- peak memory of the process", at_end, "{:.2f} GiB", GIBIBYTES, how)
    how = f"{again:,} pictures read"
    yield Figure("- unchanged since the run before", objects / ours / reused, "{:.1f}x", 2.0, how, least=True)


def _listed(objects: int, parts: Parts, *, stop: bool = False) -> None:
    """List the bucket, which has `objects` pictures; or stop when so many have been listed."""
    entry = CorpusEntry.model_validate({"url": "s3://bucket/set", "concept": "ring"})
    batches = ingest.manifest([entry], CorpusLimits(), parts=parts)
    count = 0
    for batch in batches:
        count += batch.num_rows
        if stop and count >= objects:
            break
    assert count == objects


def _bare(objects: int) -> None:
    """List the bucket, and get its first `objects` pictures."""
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL"], config=Config(max_pool_connections=16))
    pages = client.get_paginator("list_objects_v2").paginate(Bucket="bucket", Prefix="set/")
    keys = itertools.islice((item["Key"] for page in pages for item in page["Contents"]), objects)

    def get(key: str) -> int:
        return len(client.get_object(Bucket="bucket", Key=key)["Body"].read())

    with ThreadPoolExecutor(8) as pool:
        got = sum(size > 0 for size in pool.map(get, keys))
    assert got == objects


def _timed(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak() -> float:
    """Return the peak resident set of this process in GiB; `ru_maxrss` begins with that of the process that started it."""
    with contextlib.closing(Path("/proc/self/status").open()) as lines:
        (line,) = [line for line in lines if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1024**2


if __name__ == "__main__":
    main()
