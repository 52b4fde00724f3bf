"""Boundaries of model folders: a pipeline's configurations, tokenizer, weights and shard index, and judges' folders."""

from __future__ import annotations

import json
import shutil
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save, save_file

from audit.checkpoints.tensors import from_safetensors
from audit.diffusion.pipeline import Pipeline, load_pipeline
from audit.diffusion.text import check_prompts, check_tokenizer
from audit.instruments.detectors import build, counting_rules
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.files import check_safetensors, loaded_weights
from audit.weights.references import ModelRef, pipeline_family, resolve_model
from tests.fuzzing.harness import Boundary, Opened
from tests.instruments.detectors.folders import write_classifier, write_clip
from tests.tiny import write_tokenizer

CPU = torch.device("cpu")
CONCEPTS = (Concept(name="ring", phrase="ring"), Concept(name="square", phrase="square"))


def planned(ref: ModelRef) -> None:
    """What a plan asks of a backbone."""
    pipeline_family(ref)
    check_prompts(check_tokenizer(ref), ["a photo of a ring", ""])


@torch.no_grad()
def used(pipeline: Pipeline) -> None:
    """What a run asks of a backbone that the plan accepted: text, one prediction, one picture and its latent."""
    states = pipeline.encode_text(["a ring"])
    latents = torch.zeros(1, *pipeline.latent_shape)
    pipeline.unet(latents, 1, encoder_hidden_states=states)
    pipeline.encode_images(pipeline.decode_latents(latents))
    pipeline.schedule(2)


def _pipeline(changed: str, share: int = 5) -> Callable[[Path], Opened]:
    """A pipeline folder in which one file is mutated: all of them are planned with, every `share`-th is loaded and used."""

    def open_boundary(folder: Path) -> Opened:
        home = folder / "pipeline"
        seeds = [(home / changed).read_bytes()]

        def attempt(data: bytes) -> object:
            (home / changed).write_bytes(data)
            ref = resolve_model(str(home))
            planned(ref)
            if data in seeds or zlib.crc32(data) % share == 0:
                used(load_pipeline(ref, CPU))
            return ref

        return Opened(seeds, attempt)

    return open_boundary


def _vocabulary(changed: str) -> Callable[[Path], Opened]:
    """The same for the older files of a tokenizer, without its tokenizer.json."""

    def open_boundary(folder: Path) -> Opened:
        tokenizer = folder / "pipeline" / "tokenizer"
        write_tokenizer(tokenizer)
        (tokenizer / "tokenizer.json").unlink()
        return _pipeline(f"tokenizer/{changed}")(folder)

    return open_boundary


TENSORS = {
    "down.weight": torch.arange(12.0).reshape(3, 4),
    "norm.bias": torch.ones(4, dtype=torch.bfloat16),
    "position_ids": torch.arange(5),
}
METADATA = {"format": "pt", "lora_adapter_metadata": '{"unet.r": 4, "unet.lora_alpha": 8}'}


def split_header(data: bytes) -> tuple[bytes, bytes]:
    """A safetensors file's header, which is JSON, and its tensors' bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    return data[8 : 8 + length], data[8 + length :]


def joined(header: bytes, body: bytes) -> bytes:
    """A safetensors file."""
    return struct.pack("<Q", len(header)) + header + body


def _tensors(path: Path) -> object:
    check_safetensors(path)
    found, metadata = from_safetensors(path)
    weights = {name: tensor for name, tensor in found.items() if name != "position_ids"}  # integers, which nobody loads
    return {name: (tensor.shape, tensor.load()) for name, tensor in weights.items()}, metadata


def _safetensors(folder: Path) -> Opened:
    path = folder / "tensors.safetensors"

    def attempt(data: bytes) -> object:
        path.write_bytes(data)
        return _tensors(path)

    return Opened([save(TENSORS, METADATA)], attempt)


def _header(folder: Path) -> Opened:
    path = folder / "tensors.safetensors"
    header, body = split_header(save(TENSORS, METADATA))

    def attempt(data: bytes) -> object:
        path.write_bytes(joined(data, body))
        return _tensors(path)

    return Opened([header], attempt, [header.replace(b'"BF16"', b'"%s"' % kind) for kind in _OTHER_KINDS])


# Of as many bytes a number as bfloat16, of half and of half as many again: what newer files hold.
_OTHER_KINDS = (b"F8_E4M3", b"F8_E5M2", b"F8_E8M0", b"F4", b"C64", b"U16", b"BOOL", b"I8", b"F16")


def _backbone_header(part: str, name: str) -> Callable[[Path], Opened]:
    """The header of one of a backbone's own weight files, as far as its use."""

    def open_boundary(folder: Path) -> Opened:
        home = folder / "pipeline"
        header, body = split_header((home / part / name).read_bytes())

        def attempt(data: bytes) -> object:
            (home / part / name).write_bytes(joined(data, body))
            ref = resolve_model(str(home))
            planned(ref)
            pipeline = load_pipeline(ref, CPU)
            used(pipeline)
            return pipeline

        return Opened([header], attempt)

    return open_boundary


def _index(folder: Path) -> Opened:
    unet = folder / "pipeline" / "unet"
    (whole,) = unet.glob("*.safetensors")
    tensors = {name: tensor.load() for name, tensor in from_safetensors(whole)[0].items()}
    names = sorted(tensors)
    parts = (names[: len(names) // 2], names[len(names) // 2 :])
    weight_map = {}
    for number, part in enumerate(parts, 1):
        file = f"diffusion_pytorch_model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, unet / file)
        weight_map |= dict.fromkeys(part, file)
    whole.unlink()
    size = sum(tensor.nbytes for tensor in tensors.values())
    document = {"metadata": {"total_size": size}, "weight_map": weight_map}
    index = unet / "diffusion_pytorch_model.safetensors.index.json"

    def attempt(data: bytes) -> object:
        index.write_bytes(data)
        loaded_weights(unet)
        ref = resolve_model(str(folder / "pipeline"))
        planned(ref)
        if data == seed or zlib.crc32(data) % 3 == 0:
            used(load_pipeline(ref, CPU))
        return ref

    seed = json.dumps(document, indent=2).encode()
    return Opened([seed], attempt)


def _judge(kind: str, write: Callable[[Path], Path], changed: Sequence[str]) -> Callable[[Path], Opened]:
    """A judge's folder in which one of its files is mutated, from its instrument to a picture's scores."""

    def open_boundary(folder: Path) -> Opened:
        home = write(folder / "judge")
        good = folder / "good"
        shutil.copytree(home, good)
        names = [name for name in changed if (home / name).is_file()]
        picture = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)

        def attempt(data: bytes) -> object:
            name = names[data[0]]
            for other in names:
                shutil.copyfile(good / other, home / other)
            (home / name).write_bytes(data[1:])
            judge = build(DetectorSpec.model_validate({"name": "judge", "kind": kind, "model": str(home)}), CONCEPTS)
            counting_rules(judge, [concept.name for concept in CONCEPTS])
            return judge.measure([picture])

        def safe(data: bytes) -> object:
            return attempt(data if data and data[0] < len(names) else b"\x00" + data)

        return Opened([bytes([i]) + (home / name).read_bytes() for i, name in enumerate(names)], safe)

    return open_boundary


BOUNDARIES = (
    Boundary("model index", _pipeline("model_index.json"), smoke_count=8),
    Boundary("UNet configuration", _pipeline("unet/config.json"), smoke_count=8),
    Boundary("VAE configuration", _pipeline("vae/config.json"), smoke_count=8),
    Boundary("text encoder configuration", _pipeline("text_encoder/config.json"), smoke_count=8),
    Boundary("scheduler configuration", _pipeline("scheduler/scheduler_config.json"), smoke_count=8),
    Boundary("tokenizer.json", _pipeline("tokenizer/tokenizer.json"), smoke_count=8),
    Boundary("tokenizer_config.json", _pipeline("tokenizer/tokenizer_config.json"), smoke_count=8),
    Boundary("vocab.json", _vocabulary("vocab.json"), smoke_count=8),
    Boundary("merges.txt", _vocabulary("merges.txt"), smoke_count=8),
    Boundary("safetensors file", _safetensors),
    Boundary("safetensors header", _header),
    Boundary("UNet weights", _backbone_header("unet", "diffusion_pytorch_model.safetensors"), smoke_count=8),
    Boundary("text encoder weights", _backbone_header("text_encoder", "model.safetensors"), smoke_count=8),
    Boundary("shard index", _index, smoke_count=8),
    Boundary(
        "CLIP judge",
        _judge(
            "clip-zero-shot",
            write_clip,
            [
                "config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
                "vocab.json",
                "merges.txt",
            ],
        ),
        smoke_count=4,
        slow_count=1000,
    ),
    Boundary(
        "classifier judge",
        _judge("classifier", write_classifier, ["config.json", "preprocessor_config.json"]),
        smoke_count=4,
        slow_count=1000,
    ),
)
