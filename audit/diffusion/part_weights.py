"""The weights of a pipeline's parts by the networks' own names, from a folder or from the authors' single file."""

from __future__ import annotations

import torch
from safetensors import SafetensorError, safe_open

from audit.diffusion.strict_loading import Misfit, check_kind, computable, read_tensors, stored_shapes
from audit.weights.original_names import Piece
from audit.weights.references import ModelRef, weight_paths
from audit.weights.single_file import pieces_of


def part_shapes(ref: ModelRef, part: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a part's tensors by name, from headers alone. Raises as `stored_shapes` does."""
    if ref.single is None or part not in ref.single.prefixes:
        return stored_shapes(weight_paths(ref, part))
    pieces, header = pieces_of(ref.single, part)
    for piece in pieces.values():
        check_kind(piece.source, header[piece.source])
    return {name: piece.shape(header[piece.source].shape) for name, piece in pieces.items()}


def part_tensors(ref: ModelRef, part: str) -> dict[str, torch.Tensor]:
    """Return a part's tensors by name. Raises as `part_shapes` does."""
    if ref.single is None or part not in ref.single.prefixes:
        return read_tensors(weight_paths(ref, part))
    part_shapes(ref, part)
    try:
        with safe_open(str(ref.single.path), framework="pt", device="cpu") as file:
            pieces = pieces_of(ref.single, part)[0]
            return {name: piece_of(computable(file.get_tensor(piece.source)), piece) for name, piece in pieces.items()}
    except (SafetensorError, OSError, RuntimeError) as error:
        first = " ".join(str(error).split())[:300]
        raise Misfit(f"{ref.single.path.name} is no valid safetensors file ({first})") from None


def piece_of(stored: torch.Tensor, piece: Piece) -> torch.Tensor:
    """Return the tensor of a network that is `piece` of a tensor in a file."""
    taken = stored if piece.rows is None else stored[slice(*piece.rows)].clone()
    match piece.form:
        case "swapped":
            return taken.roll(len(taken) // 2, 0)
        case "transposed":
            return taken.T.contiguous()
        case "linear":
            return taken.reshape(taken.shape[:2])
        case "identity":
            return torch.eye(taken.shape[-1], dtype=taken.dtype)
        case "plain":
            return taken
