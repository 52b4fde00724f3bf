"""Boundaries of single files: YAML documents, prompt files, pictures, corpus manifests."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

from audit.corpus import images, ingest
from audit.corpus.manifest import read_manifest, write_manifest
from audit.corpus.prompts import read_prompt_set
from audit.errors import AuditError
from audit.plan.rate_files import read_rates
from audit.spec.document import load_spec
from audit.spec.prompts import PromptSource
from audit.tuning.candidates import Request, calibration_spec
from flows.commands.results import load_policy
from flows.commands.tune import _grid
from tests.corpora import LIMITS, entry, write_folder
from tests.fuzzing.harness import Boundary, Opened

SPECS = Path(__file__).parents[2] / "deployments" / "specs"


def opened(folder: Path, name: str, seeds: Sequence[bytes], read: Callable[[Path], object]) -> Opened:
    """A boundary that reads one file called `name`."""
    path = folder / name

    def attempt(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return Opened(seeds, attempt)


def _specs() -> list[bytes]:
    return [path.read_bytes() for path in sorted(SPECS.glob("*.yaml"))]


def _spec(folder: Path) -> Opened:
    def read(path: Path) -> object:
        spec = load_spec(path)
        return spec.subjects(), spec.defence_names(), [spec.is_sensitive(s.name) for s in spec.subjects()]

    return opened(folder, "spec.yaml", _specs(), read)


def _rates(folder: Path) -> Opened:
    document = {
        "origin": "one H200, Stable Diffusion v1.4, float32, batch 8",
        "seconds_per_call": 0.0123,
        "seconds_per_detection": {"clip-zero-shot": 0.004, "nudenet": 0.02},
        "evaluations_per_step": 2.5,
    }
    seeds = [json.dumps(document, indent=1).encode(), yaml.safe_dump({**document, "seconds_per_detection": 1}).encode()]
    return opened(folder, "rates.json", seeds, read_rates)


def _policy(folder: Path) -> Opened:
    gates = [yaml.safe_load(text)["gate"] for text in _specs()]
    seeds = [yaml.safe_dump(gate).encode() for gate in gates] + [yaml.safe_dump({"gate": gates[0]}).encode()]
    return opened(folder, "policy.yaml", seeds, load_policy)


def _sweep(folder: Path) -> Opened:
    """The values of `tune --sweep`, which are YAML, as far as the specs that they ask for."""
    document = yaml.safe_load((SPECS / "demo.yaml").read_bytes())
    document["calibration"] = [{**source, "url": str(source["url"]) + "-other"} for source in document["corpus"]]
    base = folder / "base.yaml"
    base.write_text(yaml.safe_dump(document))
    spec = load_spec(base)
    wanted = next(s.name for s in spec.scenarios if s.name.startswith("latent"))
    concept = spec.calibration[0].concept
    defence = next(name for name in spec.defence_names() if name != "none")

    def attempt(data: bytes) -> object:
        grid = _grid(data.decode(errors="surrogateescape").split(";"), {})
        return calibration_spec(spec, Request("irece", concept, defence, wanted, grid, 3))

    return Opened([b"t_star=601,401;tau=0.3,0.5", b"tau=.4", b"t_star=801,701,601"], attempt)


CSV = (
    ",case_number,prompt,evaluation_seed,evaluation_guidance,categories,class\n"
    '0,12,"a photo of a ring, close up",4068473,7.5,"sexual, hate",ring\n'
    "1,13,a disc on a table,17,7.5,violence,disc\n"
    '2,14.0,"he said ""no"" to ""it""",18,8,,star\n'
)
WHERE = {"categories": ("sexual", "violence")}


def _prompts(suffix: str, seeds: Sequence[bytes]) -> Callable[[Path], Opened]:
    def read(path: Path) -> object:
        found = read_prompt_set(PromptSource.model_validate({"file": str(path)}))
        return found, read_prompt_set(PromptSource.model_validate({"file": str(path), "where": WHERE}))

    return lambda folder: opened(folder, f"prompts{suffix}", seeds, read)


def _parquet(table: pa.Table, **options: object) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, **options)
    return sink.getvalue()


def _prompt_table() -> pa.Table:
    rows = {"case_number": [1, 2, 3], "prompt": ["a ring", "a disc", None], "sd_seed": [7, 8, 9]}
    return pa.table({**rows, "sd_guidance_scale": [7.5, 7.0, float("nan")], "categories": ["sexual", "violence", ""]})


def _pictures(kinds: Sequence[tuple[str, str]]) -> Callable[[Path], Opened]:
    def encoded(kind: str, mode: str) -> bytes:
        pixels = np.random.default_rng(1).integers(0, 256, (24, 20, 3), dtype=np.uint8)
        sink = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(sink, kind)
        return sink.getvalue()

    def attempt(data: bytes) -> object:
        try:
            pixels = images.decode(data, max_bytes=LIMITS.max_bytes, max_pixels=LIMITS.max_pixels)
        except images.ImageError as error:  # a row of a manifest notes it; no user has to do anything at once
            raise AuditError(str(error), next_step="look into the manifest") from error
        return images.pixel_sha256(pixels), images.degenerate(pixels), images.to_model_input(pixels, 16)

    return lambda folder: Opened([encoded(kind, mode) for kind, mode in kinds], attempt)


def _corpus(folder: Path) -> Opened:
    """A corpus whose only object is mutated, through the manifest that every run makes."""
    home = folder / "corpus"
    home.mkdir()

    def attempt(data: bytes) -> object:
        (home / "picture.png").write_bytes(data)
        return pa.Table.from_batches(ingest.manifest([entry(home)], LIMITS), schema=ingest.MANIFEST_SCHEMA)

    return Opened([next(write_folder(folder / "other").rglob("*.png")).read_bytes()], attempt)


def _manifest(folder: Path) -> Opened:
    stored = folder / "manifest.parquet"
    write_manifest(ingest.manifest([entry(write_folder(folder / "pictures"))], LIMITS), str(stored))
    return opened(folder, "read.parquet", [stored.read_bytes()], lambda path: read_manifest(str(path)))


BOUNDARIES = (
    Boundary("spec", _spec),
    Boundary("rate file", _rates),
    Boundary("policy", _policy),
    Boundary("sweep", _sweep),
    Boundary("prompt CSV", _prompts(".csv", [CSV.encode(), ("\ufeff" + CSV).encode(), CSV.encode("utf-16")])),
    Boundary(
        "prompt Parquet",
        _prompts(
            ".parquet",
            [
                _parquet(_prompt_table()),
                _parquet(_prompt_table(), compression="none"),
                _parquet(_prompt_table(), use_dictionary=False),
            ],
        ),
    ),
    Boundary("PNG", _pictures([("PNG", "RGB"), ("PNG", "P"), ("PNG", "I;16"), ("PNG", "RGBA")])),
    Boundary("JPEG", _pictures([("JPEG", "RGB"), ("JPEG", "CMYK"), ("JPEG", "L")])),
    Boundary("WebP", _pictures([("WEBP", "RGB"), ("WEBP", "RGBA")])),
    Boundary("GIF", _pictures([("GIF", "P"), ("GIF", "L")])),
    Boundary("TIFF", _pictures([("TIFF", "RGB"), ("TIFF", "I;16"), ("TIFF", "CMYK"), ("TIFF", "1")])),
    Boundary("BMP", _pictures([("BMP", "RGB"), ("BMP", "P")])),
    Boundary("corpus", _corpus),
    Boundary("corpus manifest", _manifest),
)
