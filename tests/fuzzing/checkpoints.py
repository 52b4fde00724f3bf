"""Boundaries of weights that somebody else trained: erased checkpoints, LoRA, Receler, SPM, textual inversion."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from audit.attacks.embedding_files import check_embedding
from audit.checkpoints import inspection
from audit.checkpoints.personal import read_change
from audit.checkpoints.personalisation import resolve_personalisation
from audit.checkpoints.tensors import backbone_files
from audit.weights.checkpoints import resolve_checkpoint
from audit.weights.references import ModelRef, resolve_model
from tests.attacks import loras
from tests.checkpoints import files
from tests.fuzzing.harness import Boundary, Opened
from tests.fuzzing.models import joined, split_header

State = dict[str, torch.Tensor]
Read = Callable[[Path, ModelRef], object]


def _states(folder: Path) -> tuple[State, State]:
    """The UNet's tensors and the text encoder's."""
    home = folder / "pipeline"
    (unet,) = (home / "unet").glob("*.safetensors")
    return load_file(unet), load_file(home / "text_encoder" / "model.safetensors")


def _inspected(path: Path, backbone: ModelRef) -> object:
    return inspection.inspect(resolve_checkpoint(str(path)), backbone, "esd-x")


def _added(path: Path, backbone: ModelRef) -> object:
    change = read_change(resolve_personalisation(str(path)), backbone_files(backbone))
    return [delta() for delta in (*change.unet.values(), *change.text.values())]


def _embedded(path: Path, backbone: ModelRef) -> object:
    return check_embedding(path, backbone)


def _safetensors(
    make: Callable[[State], State], read: Read, metadata: Mapping[str, str] | None = None
) -> Callable[[Path], Opened]:
    """A safetensors file whose header is mutated, its tensors' bytes being good."""

    def open_boundary(folder: Path) -> Opened:
        backbone = resolve_model(str(folder / "pipeline"))
        state = {name: tensor.contiguous() for name, tensor in make(_states(folder)[0]).items()}
        header, body = split_header(save(state, dict(metadata or {})))
        path = folder / "weights.safetensors"

        def attempt(data: bytes) -> object:
            path.write_bytes(joined(data, body))
            return read(path, backbone)

        return Opened([header], attempt)

    return open_boundary


def _pickle(make: Callable[[State, State], Any], read: Read, strange: Sequence[Any] = ()) -> Callable[[Path], Opened]:
    """A file of `torch.save` whose pickle is mutated, packed again with right checksums."""

    def open_boundary(folder: Path) -> Opened:
        backbone = resolve_model(str(folder / "pipeline"))
        whole = _saved(make(*_states(folder)))
        path = folder / "weights.pt"

        def attempt(data: bytes) -> object:
            path.write_bytes(_with_pickle(whole, data))
            return read(path, backbone)

        return Opened([_pickle_of(whole)], attempt, [_pickle_of(_saved(content)) for content in strange])

    return open_boundary


def _blind(make: Callable[[State, State], Any], read: Read) -> Callable[[Path], Opened]:
    """A whole file of `torch.save`, mutated as it is."""

    def open_boundary(folder: Path) -> Opened:
        backbone = resolve_model(str(folder / "pipeline"))
        path = folder / "weights.pt"

        def attempt(data: bytes) -> object:
            path.write_bytes(data)
            return read(path, backbone)

        return Opened([_saved(make(*_states(folder)))], attempt)

    return open_boundary


def _beside(
    name: str, write: Callable[[Path, State], Path], read: Read, given: Callable[[Path], Path]
) -> Callable[[Path], Opened]:
    """A folder of weights and a configuration `name`, which is mutated."""

    def open_boundary(folder: Path) -> Opened:
        backbone = resolve_model(str(folder / "pipeline"))
        home = folder / "weights"
        home.mkdir()
        write(home, _states(folder)[0])

        def attempt(data: bytes) -> object:
            (home / name).write_bytes(data)
            return read(given(home), backbone)

        return Opened([(home / name).read_bytes()], attempt)

    return open_boundary


def _saved(content: Any) -> bytes:
    sink = io.BytesIO()
    torch.save(content, sink)
    return sink.getvalue()


def _pickle_of(whole: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return archive.read(_pickle_name(archive))


def _with_pickle(whole: bytes, data: bytes) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            new.writestr(name, data if name == _pickle_name(old) else old.read(name))
    return sink.getvalue()


def _pickle_name(archive: zipfile.ZipFile) -> str:
    return next(name for name in archive.namelist() if name.endswith("/data.pkl"))


def _partial(unet: State) -> State:
    return {n: t.to(torch.bfloat16) for n, t in files.moved(unet, files.key_set("XATTN", unet)).items()}


def _kohya(unet: State) -> State:
    state = loras.lora_state(unet, loras.kohya_name)
    alphas = {name.split(".")[0] + ".alpha": torch.tensor(2.0) for name in state}
    return state | alphas


def _receler(home: Path, unet: State) -> Path:
    return files.receler(home, unet, {})


def _peft(home: Path, unet: State) -> Path:
    halves = loras.lora_state(unet, loras.peft_name)
    return loras.write_peft(home, {name.removeprefix("unet."): tensor for name, tensor in halves.items()})


def _odd_tensors(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Tensors that a pickle can hold and that are no ordinary weights."""
    return [
        tensor.to_sparse(),
        tensor.to(torch.float8_e4m3fn),
        tensor.to(torch.complex64),
        tensor.to(torch.int8),
        tensor.bool(),
        tensor[..., :0],
        torch.empty(tensor.shape, device="meta"),
    ]


VECTOR = torch.arange(16.0).reshape(1, 16) / 16
EMBEDDINGS = [{"<ring>": odd} for odd in _odd_tensors(VECTOR)] + [
    {"string_to_param": {"*": VECTOR}, "name": torch.ones(2)},
    {"string_to_param": {"*": VECTOR}, "name": ["a", "b"]},
    {("<ring>", 2): VECTOR},
    {"<ring>": torch.zeros(3, 0)},
    {"<ring>": {"vectors": VECTOR}},
    [VECTOR],
    VECTOR,
    None,
]

BOUNDARIES = (
    Boundary("erased safetensors", _safetensors(_partial, _inspected)),
    Boundary(
        "erased pickle",
        _pickle(
            lambda unet, text: files.erased(unet, "KV"),
            _inspected,
            [{"conv_in.weight": odd} for odd in _odd_tensors(torch.ones(8, 4, 3, 3))],
        ),
    ),
    Boundary(
        "erased pickle's bytes", _blind(lambda unet, text: files.moved(unet, files.key_set("KV", unet)), _inspected)
    ),
    Boundary("ESD's nested pickle", _pickle(files.esd_nested, _inspected)),
    Boundary("Concept Ablation's delta", _pickle(files.ca_delta("KV"), _inspected)),
    Boundary("AdvUnlearn's pickle", _pickle(files.advunlearn, _inspected)),
    Boundary("Receler's configuration", _beside("eraser_config.json", _receler, _inspected, lambda home: home)),
    Boundary("Receler's weights", _pickle(lambda unet, text: files.nested(files.adapters(unet)), _inspected)),
    Boundary("SPM", _safetensors(files.spm_state, _inspected, files.SPM_METADATA)),
    Boundary("LoRA, kohya", _safetensors(_kohya, _added, {"ss_network_alpha": "2", "ss_network_dim": "2"})),
    Boundary(
        "LoRA, diffusers",
        _safetensors(loras.lora_state, _added, {"lora_adapter_metadata": '{"unet.r": 2, "unet.lora_alpha": 4}'}),
    ),
    Boundary("LoRA, pickle", _pickle(lambda unet, text: loras.lora_state(unet, loras.bare_name), _added)),
    Boundary("LoRA, PEFT configuration", _beside("adapter_config.json", _peft, _added, lambda home: home)),
    Boundary("textual inversion, pickle", _pickle(lambda unet, text: {"<ring>": VECTOR}, _embedded, EMBEDDINGS)),
    Boundary("textual inversion, safetensors", _safetensors(lambda unet: {"<ring>": VECTOR}, _embedded)),
    Boundary("textual inversion, pickle's bytes", _blind(lambda unet, text: {"<ring>": VECTOR}, _embedded)),
)
