"""Receler's adapters (Huang et al. 2024, arXiv 2311.17717): `out + up(GELU(down(out)))` after every attn2 of a UNet.

No weight of the backbone changes; an adapter whose `up` is zero, as it is before training, changes nothing.

Three forms of one artefact:

- nested, what the official code saves in `eraser_weights.pt`:
  `{"down_blocks.0.attentions.0": {"down.weight", "down.bias", "up.weight", "up.bias"}, ..., "mid_block.attentions.0": ...}`
- flat, the same names joined by dots, which safetensors can hold (`eraser_weights.safetensors`)
- `Adapters`, modules that `attach` hooks onto a UNet
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from audit.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel  # seconds to import, and only a type here

RANK = 128  # official default for Stable Diffusion v1.x
CONFIG_TYPE = "adapter"  # `eraser_type` in the official eraser_config.json
PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
_NEXT = "check that the erasers were trained for this backbone, and get the whole checkpoint"


class Adapter(nn.Module):
    """One eraser of width W and rank R: (..., W) -> (..., W), to be added to its input."""

    def __init__(self, width: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank)
        self.act = nn.GELU()
        self.up = nn.Linear(rank, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the correction of hidden states (..., W)."""
        return self.up(self.act(self.down(hidden)))


class Adapters(nn.Module):
    """The adapters of one UNet, by entry name (`down_blocks.0.attentions.0`, ..., `mid_block.attentions.0`)."""

    def __init__(self, entries: Mapping[str, Adapter]) -> None:
        super().__init__()
        self.names = tuple(entries)
        self._modules_by_name = nn.ModuleList(entries.values())  # ModuleDict refuses names with dots

    def items(self) -> Iterator[tuple[str, Adapter]]:
        """Yield entry names with their adapters."""
        for name, module in zip(self.names, self._modules_by_name, strict=True):
            assert isinstance(module, Adapter)
            yield name, module

    def flat(self) -> dict[str, torch.Tensor]:
        """Return the weights as `{entry}.{down|up}.{weight|bias}`, contiguous copies on the CPU."""
        return {
            f"{name}.{part}": tensor.detach().cpu().contiguous().clone()
            for name, adapter in self.items()
            for part, tensor in adapter.state_dict().items()
        }

    def nested(self) -> dict[str, OrderedDict[str, torch.Tensor]]:
        """Return the weights in the official file's layout."""
        return nested(self.flat())


class Attached:
    """Adapters hooked onto a UNet. While `enabled` is False the UNet's output is the backbone's, bit for bit.

    With `record` on, `outputs` holds each adapter's last correction by entry name, for Receler's regulariser (eq. 5).
    """

    def __init__(self, blocks: Mapping[str, nn.Module], adapters: Adapters) -> None:
        self.adapters, self.enabled, self.record = adapters, True, False
        self.outputs: dict[str, torch.Tensor] = {}
        self._handles = [blocks[name].register_forward_hook(self._hook(name, a)) for name, a in adapters.items()]

    def _hook(self, name: str, adapter: Adapter) -> Callable[[nn.Module, object, torch.Tensor], torch.Tensor | None]:
        def correct(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor | None:
            """Add the correction of one block to its output (B, L, D), unless the adapters are off."""
            if not self.enabled:
                return None
            correction = adapter(output)
            if self.record:
                self.outputs[name] = correction
            return output + correction

        return correct

    def detach(self) -> None:
        """Take the hooks off; the UNet is the backbone again."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.outputs.clear()


def entry_name(path: str) -> str:
    """Return Receler's name of the block that holds the attn2 module at `path`."""
    parts = path.split(".")
    return ".".join(parts[:3] if parts[0] == "mid_block" else parts[:4])


def cross_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """Return every attn2 of a UNet by Receler's entry name, in `named_modules` order (mid block last).

    Raises `CheckpointError` when two share a name: then a block has several transformer layers, as in SDXL.
    """
    modules: dict[str, nn.Module] = {}
    for path, module in unet.named_modules():
        if not path.endswith(".attn2"):
            continue
        name = entry_name(path)
        if name in modules:
            raise CheckpointError(
                f"the UNet has several transformer layers in {name}; Receler's layout knows one",
                next_step="use a backbone of Stable Diffusion 1.x or 2.x",
            )
        modules[name] = module
    return modules


def new_adapters(unet: UNet2DConditionModel, rank: int = RANK, seed: int = 0) -> Adapters:
    """Return untrained adapters for every attn2, on the UNet's device in float32. `down` is seeded, `up` is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        entries = {name: Adapter(_width(module), rank) for name, module in cross_attentions(unet).items()}
    return Adapters(entries).to(unet.device)


def check_adapters(shapes: Mapping[str, tuple[int, ...]], widths: Mapping[str, int], where: str) -> int:
    """Return the rank of adapters with these shapes by flat name, for attn2 layers with these widths by entry name.

    Raises `CheckpointError` unless there is one whole adapter for every entry, all of one rank and the entry's width.
    """
    wanted = {f"{entry}.{part}" for entry in widths for part in PARTS}
    unknown, missing = sorted(set(shapes) - wanted), sorted(wanted - set(shapes))
    if unknown or missing:
        example = f"unknown: {unknown[0]}" if unknown else f"missing: {missing[0]}"
        raise CheckpointError(
            f"the erasers do not match the backbone's {len(widths)} cross-attention layers "
            f"({len(unknown)} tensors unknown, {len(missing)} missing; {example})",
            where=where,
            next_step=_NEXT,
        )
    first = shapes[f"{next(iter(widths))}.down.weight"]
    rank = first[0] if len(first) == 2 else 0
    for entry, width in widths.items():
        needed = {"down.weight": (rank, width), "down.bias": (rank,), "up.weight": (width, rank), "up.bias": (width,)}
        for part, shape in needed.items():
            found = tuple(shapes[f"{entry}.{part}"])
            if found != shape:
                raise CheckpointError(
                    f"{entry}.{part} has shape {found}, an eraser of rank {rank} needs {shape} here",
                    where=where,
                    next_step=_NEXT,
                )
    return rank


def load_adapters(unet: UNet2DConditionModel, flat: Mapping[str, torch.Tensor], where: str) -> Adapters:
    """Return adapters with the given flat weights: one per attn2 of this UNet, on its device, in float32.

    Raises `CheckpointError` when entries are missing or unknown, or a width or rank does not fit.
    """
    widths = {name: _width(block) for name, block in cross_attentions(unet).items()}
    rank = check_adapters({name: tuple(tensor.shape) for name, tensor in flat.items()}, widths, where)
    entries, adapters = nested(flat), {}
    for name, width in widths.items():
        adapters[name] = Adapter(width, rank)
        adapters[name].load_state_dict({part: tensor.float() for part, tensor in entries[name].items()}, strict=True)
    return Adapters(adapters).to(unet.device)


def attach(unet: UNet2DConditionModel, adapters: Adapters) -> Attached:
    """Attach hooks that add each adapter's output after its attn2; `detach()` restores the backbone bit for bit.

    The adapters must be in the UNet's dtype and on its device. Raises `CheckpointError` when they are another UNet's.
    """
    blocks = cross_attentions(unet)
    if set(blocks) != set(adapters.names):
        raise CheckpointError("the erasers do not match the UNet's cross-attention layers", next_step=_NEXT)
    return Attached(blocks, adapters)


def nested(flat: Mapping[str, torch.Tensor]) -> dict[str, OrderedDict[str, torch.Tensor]]:
    """Return flat weights in the official nested layout."""
    entries: dict[str, OrderedDict[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        entry, _, part = name.rpartition(".")
        entry, _, module = entry.rpartition(".")
        entries.setdefault(entry, OrderedDict())[f"{module}.{part}"] = tensor
    return entries


def _width(attention: nn.Module) -> int:
    """Return the output width of an attn2: the rows of its output projection."""
    return int(attention.get_parameter("to_out.0.weight").shape[0])
