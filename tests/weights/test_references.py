"""Models resolve to checked, hashed files, and every way to name one wrongly has its own message."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import save_file

from audit.errors import CheckpointError
from audit.weights import files as weight_files
from audit.weights.references import component_files, pipeline_family, resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ERASURE_AUDIT_DOWNLOAD", raising=False)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def weights(path: Path, fill: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"w": np.full((4, 4), fill, np.float32)}, str(path))


@pytest.fixture
def single(tmp_path: Path) -> Path:
    folder = tmp_path / "clip"
    write(folder / "config.json", {"model_type": "clip"})
    weights(folder / "model.safetensors")
    return folder


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    folder = tmp_path / "sd"
    write(
        folder / "model_index.json",
        {
            "_class_name": "StableDiffusionPipeline",
            "unet": ["diffusers", "UNet2DConditionModel"],
            "vae": ["diffusers", "AutoencoderKL"],
            "text_encoder": ["transformers", "CLIPTextModel"],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "scheduler": ["diffusers", "PNDMScheduler"],
            "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
            "image_encoder": [None, None],
        },
    )
    write(
        folder / "unet/config.json",
        {
            "in_channels": 4,
            "out_channels": 4,
            "cross_attention_dim": 768,
            "sample_size": 64,
            "block_out_channels": [320, 640, 1280, 1280],
        },
    )
    write(folder / "vae/config.json", {"latent_channels": 4, "block_out_channels": [128, 256, 512, 512]})
    write(folder / "text_encoder/config.json", {"hidden_size": 768, "vocab_size": 49408, "max_position_embeddings": 77})
    write(folder / "scheduler/scheduler_config.json", {"num_train_timesteps": 1000})
    write(folder / "tokenizer/vocab.json", {"a": 0})
    weights(folder / "unet/diffusion_pytorch_model.safetensors", 1.0)
    weights(folder / "vae/diffusion_pytorch_model.safetensors", 2.0)
    weights(folder / "text_encoder/model.safetensors", 3.0)
    return folder


def edit(path: Path, **changes: Any) -> None:
    write(path, {**json.loads(path.read_text()), **changes})


def test_a_single_model_resolves_to_its_files(single: Path) -> None:
    ref = resolve_model(str(single))
    assert (ref.source, ref.path, ref.revision, ref.variant) == ("local", single, None, None)
    assert list(ref.files) == ["model.safetensors"]
    assert len(ref.sha256) == 64


def test_identity_follows_content_and_not_place(single: Path, tmp_path: Path) -> None:
    ref = resolve_model(str(single))
    copy = tmp_path / "elsewhere"
    shutil.copytree(single, copy)
    assert resolve_model(str(copy)).sha256 == ref.sha256
    (copy / "README.md").write_text("words")
    assert resolve_model(str(copy)).sha256 == ref.sha256
    weights(copy / "model.safetensors", 1.5)
    changed = resolve_model(str(copy)).sha256
    assert changed != ref.sha256
    weights(copy / "model.safetensors")
    edit(copy / "config.json", extra=1)
    assert resolve_model(str(copy)).sha256 not in (changed, ref.sha256)


def test_a_pipeline_has_parts_without_what_the_audit_never_loads(pipeline: Path) -> None:
    ref = resolve_model(str(pipeline))
    assert set(ref.files) == {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/model.safetensors",
    }
    assert component_files(ref, "unet") == {
        "unet/diffusion_pytorch_model.safetensors": ref.files["unet/diffusion_pytorch_model.safetensors"]
    }
    with pytest.raises(CheckpointError, match="no part called 'prior'"):
        component_files(ref, "prior")
    assert pipeline_family(ref) == "sd1"


def test_tokenizer_and_scheduler_are_part_of_the_identity(pipeline: Path) -> None:
    before = resolve_model(str(pipeline)).sha256
    edit(pipeline / "scheduler/scheduler_config.json", steps_offset=1)
    after = resolve_model(str(pipeline)).sha256
    edit(pipeline / "tokenizer/vocab.json", b=1)
    assert len({before, after, resolve_model(str(pipeline)).sha256}) == 3


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_full_files_win_over_their_copies_of_half_precision(pipeline: Path, variant: str) -> None:
    for file in list(pipeline.rglob("*.safetensors")):
        shutil.copy(file, file.with_suffix(f".{variant}.safetensors"))
    assert resolve_model(str(pipeline)).variant is None
    for file in pipeline.rglob("*.safetensors"):
        if f".{variant}." not in file.name:
            file.unlink()
    ref = resolve_model(str(pipeline))
    assert ref.variant == variant
    assert all(f".{variant}." in name for name in ref.files)


def test_mixed_variants_are_refused(pipeline: Path) -> None:
    file = pipeline / "vae/diffusion_pytorch_model.safetensors"
    file.rename(file.with_suffix(".fp16.safetensors"))
    with pytest.raises(CheckpointError, match="weight files of different variants: fp16 and full"):
        resolve_model(str(pipeline))


def test_shards_are_read_from_the_index_and_confined_to_the_folder(single: Path) -> None:
    (single / "model.safetensors").unlink()
    index = single / "model.safetensors.index.json"
    write(index, {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    weights(single / "model-1.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        resolve_model(str(single))
    weights(single / "model-2.safetensors", 2.0)
    assert list(resolve_model(str(single)).files) == ["model-1.safetensors", "model-2.safetensors"]
    write(index, {"weight_map": {"a": "../model-1.safetensors"}})
    with pytest.raises(CheckpointError, match="outside its folder"):
        resolve_model(str(single))
    write(index, {"weight_map": 3})
    with pytest.raises(CheckpointError, match="index is malformed"):
        resolve_model(str(single))


def remove(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    os.truncate(file, file.stat().st_size - 4)


def lengthen(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")


def overwrite(name: str, data: bytes) -> Any:
    return lambda folder: (folder / name).write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (shutil.rmtree, "there is no such model folder"),
        (lambda folder: [file.unlink() for file in folder.iterdir()], "model folder is empty"),
        (remove("config.json"), "neither model_index.json nor config.json"),
        (remove("model.safetensors"), "no weight file"),
        (overwrite("config.json", b"{"), "not valid JSON"),
        (overwrite("config.json", b"[]"), "not valid JSON"),
        (only_pickle, r"only as pickles \(pytorch_model.bin\)"),
        (truncate, "truncated"),
        (lengthen, "too long"),
        (overwrite("model.safetensors", b""), "no safetensors header"),
        (overwrite("model.safetensors", b"\xff" * 64), "no safetensors header"),
        (overwrite("model.safetensors", b"\x40" + b"\0" * 7 + b"{}"), "ends inside its header"),
        (overwrite("model.safetensors", b"\x02" + b"\0" * 7 + b"[]"), "header is not valid"),
        (overwrite("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"),
    ],
)
def test_a_broken_folder_has_one_clear_message(single: Path, spoil: Any, message: str) -> None:
    spoil(single)
    with pytest.raises(CheckpointError, match=message) as caught:
        resolve_model(str(single))
    assert caught.value.next_step
    assert str(single) in (caught.value.where or "")


def test_a_pipeline_part_that_is_missing_is_named(pipeline: Path) -> None:
    shutil.rmtree(pipeline / "vae")
    with pytest.raises(CheckpointError, match="lacks its part 'vae'"):
        resolve_model(str(pipeline))
    (pipeline / "vae").mkdir()
    with pytest.raises(CheckpointError, match="vae has no config"):
        resolve_model(str(pipeline))


def test_a_pipeline_part_stays_inside_its_folder(pipeline: Path) -> None:
    edit(pipeline / "model_index.json", **{"../clip": ["transformers", "CLIPModel"]})
    with pytest.raises(CheckpointError, match="names a part outside the folder"):
        resolve_model(str(pipeline))


def test_a_folder_that_cannot_be_listed_is_one_message(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(folder: Path) -> Iterator[Path]:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(CheckpointError, match="folder cannot be read: Permission denied"):
        resolve_model(str(single))


def test_a_file_or_nothing_instead_of_a_folder(single: Path) -> None:
    with pytest.raises(CheckpointError, match="must be a folder"):
        resolve_model(str(single / "model.safetensors"))
    with pytest.raises(CheckpointError, match="no model is named"):
        resolve_model(" ")


def test_unknown_testbed_names_are_refused() -> None:
    with pytest.raises(CheckpointError, match="no model called 'jury'") as caught:
        resolve_model("testbed/jury")
    assert "testbed/judge" in (caught.value.next_step or "")


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0", "@0123abc", "@" + COMMIT.upper()])
def test_a_hub_id_must_be_pinned_to_a_commit(revision: str) -> None:
    with pytest.raises(CheckpointError, match="not pinned to a commit") as caught:
        resolve_model("openai/clip-vit-base-patch32" + revision)
    assert "model_info('openai/clip-vit-base-patch32').sha" in (caught.value.next_step or "")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the cache keeps commit COMMIT of `org/name`, in the layout that huggingface_hub reads."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "models--org--name" / "snapshots" / COMMIT


def test_a_cached_hub_model_resolves_through_its_links(hub: Path, single: Path) -> None:
    hub.mkdir(parents=True)
    for file in single.iterdir():
        (hub / file.name).symlink_to(file)
    ref = resolve_model(f"org/name@{COMMIT}")
    assert (ref.source, ref.revision) == ("hub", COMMIT)
    assert ref.sha256 == resolve_model(str(single)).sha256


def test_a_hub_model_that_is_not_cached_says_where_and_how_to_get_it(hub: Path) -> None:
    with pytest.raises(CheckpointError, match="not in the local Hugging Face cache") as caught:
        resolve_model(f"org/name@{COMMIT}")
    assert str(hub.parents[2]) in str(caught.value)
    assert f"hf download org/name --revision {COMMIT}" in str(caught.value)
    assert "on a machine with network, then pass the folder" in str(caught.value)


def test_an_incomplete_hub_copy_names_what_is_missing(hub: Path, single: Path) -> None:
    shutil.copytree(single, hub)
    (hub / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be used: the model folder has no weight file"):
        resolve_model(f"org/name@{COMMIT}")


class _Hub(BaseHTTPRequestHandler):
    """The two endpoints of a model hub that a pinned download uses, over `server.files`; records what was fetched."""

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        files: dict[str, bytes] | None = self.server.files  # type: ignore[attr-defined]
        path = self.path.partition("?")[0]
        name = path.removeprefix(f"/org/name/resolve/{COMMIT}/")
        if files is None:
            self.send_error(404)
            return
        if path == f"/api/models/org/name/tree/{COMMIT}":
            data = json.dumps(
                [
                    {"type": "file", "path": n, "size": len(d), "oid": str(i) * 40}
                    for i, (n, d) in enumerate(files.items())
                ]
            ).encode()
        elif name in files:
            data = files[name]
            if body:
                self.server.fetched.append(name)  # type: ignore[attr-defined]
        else:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", f'"{hashlib.sha1(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def hub_server() -> Iterator[Any]:
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    server.files, server.fetched = {}, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def resolve_from(server: Any, tmp_path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom audit.errors import AuditError\nfrom audit.weights.references import resolve_model\n"
        f"try:\n    print(resolve_model('org/name@{COMMIT}').sha256)\n"
        "except AuditError as error:\n    sys.exit(str(error))"
    )
    settings = {
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_OFFLINE": "0",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    command = [sys.executable, "-c", code]
    return subprocess.run(
        command, check=False, env={**os.environ, **settings}, capture_output=True, text=True, timeout=240
    )


def test_an_allowed_download_fetches_only_what_the_audit_loads(hub_server: Any, pipeline: Path, tmp_path: Path) -> None:
    expected = resolve_model(str(pipeline)).sha256
    for extra in ("v1-full.safetensors", "unet/model.bin", "unet/diffusion_pytorch_model.fp16.safetensors", "art.png"):
        (pipeline / extra).write_bytes(b"not wanted")
    weights(pipeline / "safety_checker/model.safetensors")
    for file in sorted(pipeline.rglob("*")):
        if file.is_file():
            hub_server.files[file.relative_to(pipeline).as_posix()] = file.read_bytes()
    refused = resolve_from(hub_server, tmp_path)
    assert "not in the local Hugging Face cache" in refused.stderr
    assert not hub_server.fetched
    done = resolve_from(hub_server, tmp_path, ERASURE_AUDIT_DOWNLOAD="1")
    assert done.stdout.strip() == expected, done.stderr
    assert not {name for name in hub_server.fetched if "safety" in name or "full" in name or ".fp16." in name}
    count = len(hub_server.fetched)
    assert resolve_from(hub_server, tmp_path).stdout.strip() == expected  # now from the cache, without network
    assert len(hub_server.fetched) == count


@pytest.mark.parametrize(
    ("files", "message"),
    [(None, "404 Not Found"), ({}, "the download failed: the repository holds no model files")],
)
def test_a_refused_download_is_one_message(hub_server: Any, tmp_path: Path, files: Any, message: str) -> None:
    hub_server.files = files
    done = resolve_from(hub_server, tmp_path, ERASURE_AUDIT_DOWNLOAD="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-3].startswith("the download failed")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("unet/config.json", {"cross_attention_dim": 1024}, "not conditioned by a CLIPTextModel"),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "only epsilon"),
        ("unet/config.json", {"addition_embed_type": "text_time"}, "SDXL"),
        ("model_index.json", {"text_encoder_2": ["transformers", "CLIPTextModelWithProjection"]}, "SDXL"),
        ("unet/config.json", {"in_channels": 9}, "9 in, 4 out"),
        ("text_encoder/config.json", {"hidden_size": 512}, "not conditioned by a CLIPTextModel"),
        (
            "model_index.json",
            {"text_encoder": ["transformers", "T5EncoderModel"]},
            "not conditioned by a CLIPTextModel",
        ),
        (
            "model_index.json",
            {"transformer": ["diffusers", "FluxTransformer2DModel"]},
            "works otherwise than a FluxPipeline",
        ),
        ("model_index.json", {"transformer": ["diffusers", "PixArtTransformer2DModel"]}, "of no known family"),
    ],
)
def test_other_families_are_refused_by_name(pipeline: Path, file: str, changes: dict[str, Any], message: str) -> None:
    ref = resolve_model(str(pipeline))
    edit(pipeline / file, **changes)
    with pytest.raises(CheckpointError, match=message):
        pipeline_family(ref)


def test_a_single_model_is_no_backbone(single: Path) -> None:
    with pytest.raises(CheckpointError, match="not a pipeline folder"):
        pipeline_family(resolve_model(str(single)))


def test_hashes_are_remembered_until_the_file_changes(single: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "_SETTLED_SECONDS", -1.0)
    read: list[Path] = []
    real = weight_files.file_sha256
    monkeypatch.setattr(weight_files, "file_sha256", lambda path, *told: (read.append(path), real(path, *told))[1])
    file = single / "model.safetensors"
    first = weight_files.cached_sha256(file)
    assert (weight_files.cached_sha256(file), len(read)) == (first, 1)
    weights(file, 9.0)
    assert weight_files.cached_sha256(file) != first
    for entry in (Path(os.environ["XDG_CACHE_HOME"]) / "erasure-audit" / "sha256").iterdir():
        entry.write_bytes(b"\xff broken")
    assert weight_files.cached_sha256(file) == real(file)


def test_a_fresh_file_is_not_remembered(single: Path) -> None:
    weight_files.cached_sha256(single / "model.safetensors")
    assert not (Path(os.environ["XDG_CACHE_HOME"]) / "erasure-audit").exists()


def test_an_unwritable_cache_costs_time_only(single: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cache").write_text("a file where the folder should be")
    monkeypatch.setattr(weight_files, "_SETTLED_SECONDS", -1.0)
    assert len(resolve_model(str(single)).sha256) == 64


def test_resolving_does_not_import_torch(single: Path) -> None:
    code = (
        "import sys; from audit.weights.references import resolve_model; "
        f"resolve_model({str(single)!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_part_with_an_endless_name_is_named_briefly(tiny_copy: Path) -> None:
    index = tiny_copy / "model_index.json"
    settings = json.loads(index.read_text())
    index.write_text(json.dumps({**settings, "x" * 40_000: ["diffusers", "AutoencoderKL"]}))
    with pytest.raises(CheckpointError) as caught:
        resolve_model(str(tiny_copy))
    assert len(str(caught.value)) < 1_500
