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
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from audit.errors import CheckpointError

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel  # seconds to import, and only a type here

RANK = 128  # official default for Stable Diffusion v1.x
CONFIG_TYPE = "adapter"  # `eraser_type` in the official eraser_config.json
PARTS = ("down.weight", "down.bias", "up.weight", "up.bias")
_NEXT = "check that the erasers were trained for this backbone"


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
        """The correction of hidden states (..., W)."""
        return self.up(self.act(self.down(hidden)))


class Adapters(nn.Module):
    """The adapters of one UNet, by entry name (`down_blocks.0.attentions.0`, ..., `mid_block.attentions.0`)."""

    def __init__(self, entries: Mapping[str, Adapter]) -> None:
        super().__init__()
        self.names = tuple(entries)
        self._modules_by_name = nn.ModuleList(entries.values())  # ModuleDict refuses names with dots

    def items(self) -> Iterator[tuple[str, Adapter]]:
        """Entry names with their adapters."""
        for name, module in zip(self.names, self._modules_by_name, strict=True):
            assert isinstance(module, Adapter)
            yield name, module

    def flat(self) -> dict[str, torch.Tensor]:
        """The weights as `{entry}.{down|up}.{weight|bias}`, contiguous copies on the CPU."""
        return {
            f"{name}.{part}": tensor.detach().cpu().contiguous().clone()
            for name, adapter in self.items()
            for part, tensor in adapter.state_dict().items()
        }

    def nested(self) -> dict[str, OrderedDict[str, torch.Tensor]]:
        """The weights in the official file's layout."""
        return nested(self.flat())


class Attached:
    """Adapters hooked onto a UNet. While `enabled` is False the UNet's output is the backbone's, bit for bit.

    With `record` on, `outputs` holds each adapter's last correction by entry name, for Receler's regulariser (eq. 5).
    """

    def __init__(self, blocks: Mapping[str, nn.Module], adapters: Adapters) -> None:
        self.adapters, self.enabled, self.record = adapters, True, False
        self.outputs: dict[str, torch.Tensor] = {}
        self._handles = [blocks[name].register_forward_hook(self._hook(name, a)) for name, a in adapters.items()]

    def _hook(self, name: str, adapter: Adapter) -> Any:
        def correct(module: nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
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


def cross_attentions(unet: nn.Module) -> dict[str, nn.Module]:
    """Every attn2 of a UNet by Receler's entry name, in `named_modules` order (mid block last).

    Raises `CheckpointError` when two share a name: then a block has several transformer layers, as in SDXL.
    """
    found: dict[str, nn.Module] = {}
    for path, module in unet.named_modules():
        if not path.endswith(".attn2"):
            continue
        parts = path.split(".")
        name = ".".join(parts[:3] if parts[0] == "mid_block" else parts[:4])
        if name in found:
            raise CheckpointError(
                f"the UNet has several transformer layers in {name}; Receler's layout knows one",
                next_step="use a Stable Diffusion 1.x backbone",
            )
        found[name] = module
    return found


def new_adapters(unet: UNet2DConditionModel, rank: int = RANK, seed: int = 0) -> Adapters:
    """Untrained adapters for every attn2, on the UNet's device in float32; `down` is seeded, `up` is zero."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        entries = {name: Adapter(_width(module), rank) for name, module in cross_attentions(unet).items()}
    return Adapters(entries).to(unet.device)


def load_adapters(unet: UNet2DConditionModel, flat: Mapping[str, torch.Tensor], where: str) -> Adapters:
    """Adapters with the given flat weights, for this UNet: one per attn2, on the UNet's device, in float32.

    Raises `CheckpointError` when entries are missing or unknown, a width or rank does not fit, or nothing is learned.
    """
    entries, blocks = nested(flat), cross_attentions(unet)
    unknown, missing = sorted(set(entries) - set(blocks)), sorted(set(blocks) - set(entries))
    if unknown or missing:
        which = f"unknown: {unknown[0]}" if unknown else f"missing: {missing[0]}"
        raise CheckpointError(
            f"the erasers do not match the UNet's {len(blocks)} cross-attention layers "
            f"({len(unknown)} unknown, {len(missing)} missing; {which})",
            where=where,
            next_step=_NEXT,
        )
    made = {name: _loaded(name, entries[name], _width(block), where) for name, block in blocks.items()}
    return Adapters(made).to(unet.device)


def _loaded(name: str, tensors: Mapping[str, torch.Tensor], width: int, where: str) -> Adapter:
    if sorted(tensors) != sorted(PARTS):
        raise CheckpointError(
            f"the eraser {name} holds {sorted(tensors)} instead of {sorted(PARTS)}", where=where, next_step=_NEXT
        )
    rank = int(tensors["down.weight"].shape[0]) if tensors["down.weight"].dim() == 2 else 0
    wanted = {"down.weight": (rank, width), "down.bias": (rank,), "up.weight": (width, rank), "up.bias": (width,)}
    for part, shape in wanted.items():
        if tuple(tensors[part].shape) != shape:
            raise CheckpointError(
                f"the eraser {name}.{part} has shape {tuple(tensors[part].shape)}, "
                f"this UNet needs {shape if rank else f'(rank, {width})'}",
                where=where,
                next_step=_NEXT,
            )
    adapter = Adapter(width, rank)
    adapter.load_state_dict({part: tensor.float() for part, tensor in tensors.items()}, strict=True)
    return adapter


def attach(unet: UNet2DConditionModel, adapters: Adapters) -> Attached:
    """Hooks that add each adapter's output after its attn2; `detach()` restores the backbone bit for bit.

    The adapters must be in the UNet's dtype and on its device. Raises `CheckpointError` when they are another UNet's.
    """
    blocks = cross_attentions(unet)
    if set(blocks) != set(adapters.names):
        raise CheckpointError("the erasers do not match the UNet's cross-attention layers", next_step=_NEXT)
    return Attached(blocks, adapters)


def nested(flat: Mapping[str, torch.Tensor]) -> dict[str, OrderedDict[str, torch.Tensor]]:
    """The official nested layout of flat weights."""
    entries: dict[str, OrderedDict[str, torch.Tensor]] = {}
    for name, tensor in flat.items():
        entry, _, part = name.rpartition(".")
        entry, _, module = entry.rpartition(".")
        entries.setdefault(entry, OrderedDict())[f"{module}.{part}"] = tensor
    return entries


def flattened(entries: Mapping[str, Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The flat names of nested weights."""
    return {f"{name}.{part}": tensor for name, parts in entries.items() for part, tensor in parts.items()}


def _width(attention: nn.Module) -> int:
    """Width of what an attn2 returns: the rows of its output projection."""
    out: Any = attention.to_out
    return int(out[0].weight.shape[0])
