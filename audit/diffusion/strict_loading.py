"""Networks with exactly the weights of their files: what is missing, left over, mis-shaped or not finite is refused by name.

Libraries fill what is missing with random numbers, leave out what they do not know, and choose among files themselves.
Here the caller names the files, and only what fits tensor by tensor becomes a network.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import torch
from safetensors import SafetensorError, safe_open

from audit.weights.files import Stored, safetensors_header
from audit.weights.scales import is_scale

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from transformers import PreTrainedConfig, PreTrainedModel
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

    Loader: TypeAlias = type[PreTrainedModel] | type[_BaseAutoModelClass]

_FLOATS = ("F16", "BF16", "F32", "F64")
_FLOAT8 = ("F8_E4M3", "F8_E5M2")  # plain numbers, where no scales are beside them
_COUNTS = ("I64", "I32", "U8", "BOOL")  # of batches seen, or of positions
# Older files store the constant 0, 1, 2, ... of position embeddings; newer classes compute it.
_CONSTANT = "embeddings.position_ids"
_SPARE = 10_000_000  # numbers that a network may lack until it is not even made; then they are listed as missing
# The VAE of Stable Diffusion v1.4 and v1.5 as first published calls its one attention block's layers so.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Misfit(ValueError):
    """Weights or settings that make no network; the message is a short reason that names the tensor or the setting."""


def stored_shapes(paths: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in safetensors files by name, from their headers alone.

    The constants that some files store beside their weights are left out. Raises `Misfit` for a name that two files
    hold and for a dtype that holds no weights, and `CheckpointError` for a file that is not whole.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        for name, stored in safetensors_header(path).items():
            if name.endswith(_CONSTANT):
                continue
            if name in shapes:
                raise Misfit(f"two of its files hold the tensor {name}")
            check_kind(name, stored)
            shapes[name] = stored.shape
    return shapes


def check_kind(name: str, stored: Stored) -> None:
    """Return when a tensor can be read. Raises `Misfit` for a dtype that holds no weights and for scales of quantised ones."""
    if is_scale(name):
        raise Misfit(f"it is quantised, with scales beside its weights ({name[:80]})")
    if stored.dtype not in (*_FLOATS, *_FLOAT8, *_COUNTS):
        raise Misfit(f"its tensor {name} is stored as {stored.dtype[:40]}, which holds no weights that can be used")


def computable(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers in a dtype that can be computed with: those of eight bits in bfloat16, which holds them exactly."""
    return tensor.to(torch.bfloat16) if tensor.is_floating_point() and tensor.itemsize == 1 else tensor


def read_tensors(paths: Sequence[Path]) -> dict[str, torch.Tensor]:
    """Return the tensors of safetensors files by name, those that `stored_shapes` lists. Raises as it does."""
    names = stored_shapes(paths)
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        try:
            with safe_open(str(path), framework="pt", device="cpu") as file:
                tensors |= {name: computable(file.get_tensor(name)) for name in file.keys() if name in names}  # noqa: SIM118
        except (SafetensorError, OSError, RuntimeError) as error:
            raise Misfit(f"{path.name} is no valid safetensors file ({_first(error)})") from None
    return tensors


def require_weights(tensors: Mapping[str, torch.Tensor]) -> None:
    """Return when every tensor holds finite weights; raises `Misfit` for counts and for numbers that are not finite."""
    _require_none("keys without weights", {name for name, tensor in tensors.items() if not tensor.is_floating_point()})
    broken = sorted(name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all()))
    if broken:
        raise Misfit(f"{len(broken)} of its tensors hold numbers that are not finite, first {broken[0]}")


def diffusers_layout(loader: type[ModelMixin], settings: Mapping[str, object]) -> ModelMixin:
    """Return the network that `settings` describe, without weights: its tensors have shapes and hold nothing.

    Raises `Misfit` for a setting that the class does not know and for settings that make no network.
    """
    _require_known(loader, settings)
    _require_kinds(loader, settings)
    try:
        with torch.device("meta"):
            network: ModelMixin = loader.from_config(dict(settings))
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        raise Misfit(f"its configuration makes no network: {_first(error)}") from error
    return network


def diffusers_network(
    loader: type[ModelMixin], settings: Mapping[str, object], tensors: Mapping[str, torch.Tensor]
) -> ModelMixin:
    """Return the network that `settings` describe with these weights in float32, in evaluation mode.

    Raises `Misfit` as `diffusers_layout` does, and for weights that are not exactly the network's own.
    """
    network = diffusers_layout(loader, settings)
    require_shapes(network, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    weights = {_renamed(name): tensor.float() for name, tensor in tensors.items()}
    network.load_state_dict(weights, strict=True, assign=True)
    _require_none("buffers that no file holds", {name for name, buffer in network.named_buffers() if buffer.is_meta})
    return network.eval().requires_grad_(False)


def require_shapes(network: torch.nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Return when these are exactly the network's tensors, by name and shape. Raises `Misfit` otherwise."""
    expected = {_renamed(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    given = {_renamed(name): shape for name, shape in shapes.items()}
    for tied in getattr(network, "_tied_weights_keys", None) or ():  # stored once, under another name
        if tied not in given:
            expected.pop(tied, None)
    _require_none("missing keys", expected.keys() - given.keys())
    _require_none("unexpected keys", given.keys() - expected.keys())
    _require_none("mismatched keys", {name for name, shape in given.items() if shape != expected[name]})


def transformers_network(
    loader: Loader, settings: PreTrainedConfig, tensors: Mapping[str, torch.Tensor]
) -> PreTrainedModel:
    """Return the network that `settings` describe with these weights in float32, in evaluation mode.

    Names of older versions are read as transformers reads them. Raises `Misfit` for settings that make no network and
    for weights that are not exactly its own.
    """
    try:
        with _quietly():
            with torch.device("meta"):
                auto = not hasattr(loader, "config_class")  # an Auto class, which only stands for others
                laid_out = loader.from_config(settings, trust_remote_code=False) if auto else loader(settings)
            _require_size(laid_out, tensors)
            network, report = type(laid_out).from_pretrained(
                None,
                config=settings,
                state_dict=dict(tensors),
                dtype=torch.float32,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # so that they are listed below, and refused there
                output_loading_info=True,
            )
    except Misfit:
        raise
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        raise Misfit(_first(error)) from error
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        names = {entry if isinstance(entry, str) else str(entry[0]) for entry in report[kind]}
        _require_none(kind.replace("_", " "), {name for name in names if not name.endswith(_CONSTANT)})
    if report.get("error_msgs"):
        raise Misfit(str(report["error_msgs"][0])[:300])
    loaded: PreTrainedModel = network.eval().requires_grad_(False)
    return loaded


def _require_size(network: torch.nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Return when the network is about as large as its weights; what is missing would first be filled with numbers."""
    size, held = (sum(tensor.numel() for tensor in given) for given in (network.parameters(), tensors.values()))
    if size > 2 * held + _SPARE:
        raise Misfit(f"its configuration describes a network of {size} numbers, and its weights are {held}")


def _require_known(loader: type[ModelMixin], settings: Mapping[str, object]) -> None:
    """Return when the class takes every setting that says something; those it does not know it would ignore."""
    known = inspect.signature(loader.__init__).parameters
    for name, value in settings.items():
        if name not in known and not name.startswith("_") and value not in (None, False):
            raise Misfit(
                f"its configuration sets {name[:80]} to {str(value)[:80]}, which {loader.__name__} would ignore"
            )


def _require_kinds(loader: type[ModelMixin], settings: Mapping[str, object]) -> None:
    """Return when settings that are numbers or switches by default are of that kind: others fail at the first picture."""
    for name, parameter in inspect.signature(loader.__init__).parameters.items():
        default, value = parameter.default, settings.get(name, parameter.default)
        if isinstance(default, bool):
            fits = value is None or isinstance(value, bool)
        elif isinstance(default, int | float):
            fits = _moderate(value) or (isinstance(default, int) and (value is None or isinstance(value, list)))
        else:
            continue
        if not fits:
            raise Misfit(f"its configuration sets {name} to {str(value)[:80]}, where {default} would be usual")


def _moderate(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -1e9 <= value <= 1e9


def _require_none(kind: str, names: set[str]) -> None:
    if names:
        raise Misfit(f"its weights have {len(names)} {kind}, first {min(names)}")


def _renamed(name: str) -> str:
    """Return the name that newer versions give to a tensor of a VAE or a text encoder."""
    head, _, kind = name.removeprefix("text_model.").rpartition(".")
    block, _, layer = head.rpartition(".")
    if layer in _OLD_ATTENTION and block.endswith("mid_block.attentions.0"):
        return f"{block}.{_OLD_ATTENTION[layer]}.{kind}"
    return name.removeprefix("text_model.")


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Silence progress bars and load reports of transformers inside the block: what they would say is raised as an error."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()
