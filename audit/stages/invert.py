"""Invert reference images into latents, with the round trip that says how far they can be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
import torch

from audit.attacks.ddim_inversion import invert, latent_statistics
from audit.corpus_errors import SourceUnavailable
from audit.errors import CorpusError
from audit.guards.base import Conditioning
from audit.images import ImageError, to_model_input
from audit.journal import SCHEMAS
from audit.models import Models
from audit.records import Status, Unit
from audit.sampling import sample
from audit.stages.batching import Row, run_batches

Pixels = npt.NDArray[np.uint8]
ReadItem = Callable[[str], Pixels]


def run_invert(unit: Unit, models: Models, read_item: ReadItem, batch_size: int) -> tuple[pa.Table, bytes]:
    """One row per corpus item and the inverted latents, as safetensors bytes with one tensor (C, H, W) per item."""
    latents: dict[str, torch.Tensor] = {}
    readable, rows = _read(unit.identity["items"], read_item)
    work = _Inversion(models, unit.identity, latents)
    done = run_batches(list(readable.items()), batch_size, work, lambda case, error: _row(case[0], Status.ERROR, error))
    by_item = {row["item"]: row for row in [*rows, *done]}
    table = pa.Table.from_pylist([by_item[item] for item in unit.identity["items"]], schema=SCHEMAS["invert"])
    return table, safetensors.torch.save(latents)


def _read(items: Sequence[str], read_item: ReadItem) -> tuple[dict[str, Pixels], list[Row]]:
    """Readable items, and rows for the others: undecodable objects, which no retry mends, and vanished or changed ones."""
    readable: dict[str, Pixels] = {}
    rows: list[Row] = []
    for item in items:
        try:
            readable[item] = read_item(item)
        except ImageError as error:
            rows.append(_row(item, Status.UNREADABLE, error.what))
        except SourceUnavailable:
            raise
        except CorpusError as error:
            rows.append(_row(item, Status.ERROR, error.what))
    return readable, rows


def _row(item: str, status: Status, error: str | None, **numbers: float) -> Row:
    empty = dict.fromkeys(SCHEMAS["invert"].names)
    return {**empty, "item": item, "status": status.value, "error": error, **numbers}


@dataclasses.dataclass(frozen=True)
class _Inversion:
    """Inverts one batch of (item, pixels) and keeps the latents under their item."""

    models: Models
    identity: Mapping[str, Any]
    latents: dict[str, torch.Tensor]

    def __call__(self, batch: Sequence[tuple[str, Pixels]]) -> list[Row]:
        pipeline, device = self.models.pipeline, self.models.device
        pixels = np.stack([to_model_input(array, pipeline.resolution) for _, array in batch])
        images = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(device)
        model = self.models.noise_model(self.identity["model"], texts=[""] * len(batch))
        schedule = pipeline.schedule(self.identity["steps"])
        null = self.models.states([""] * len(batch), self.identity["model"]).to(device)
        clean = pipeline.encode_images(images)
        inverted = invert(
            model, schedule, clean, null, passes=self.identity["passes"], tolerance=self.identity["tolerance"]
        )
        back = sample(model, schedule, inverted.latents, Conditioning(null, null, 1.0, ("",) * len(batch)))
        ceiling, returned = pipeline.decode_latents(clean), pipeline.decode_latents(back.latents)
        statistics = latent_statistics(inverted.latents)
        finite = torch.isfinite(inverted.latents).flatten(1).all(1) & torch.isfinite(returned).flatten(1).all(1)
        error = (back.latents - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)
        columns = {
            "residual_max": inverted.residual_max,
            "residual_mean": inverted.residual_mean,
            "passes_mean": inverted.calls / schedule.steps,
            "unet_calls": inverted.calls + back.unet_calls,
            "roundtrip_error": error,
            "psnr_roundtrip_db": _psnr(returned, ceiling),
            "psnr_vae_db": _psnr(images, ceiling),
            "psnr_total_db": _psnr(images, returned),
            "latent_rms": statistics.rms,
            "latent_autocorr": statistics.autocorrelation,
            "nll_per_dim": statistics.nll_per_dim,
        }
        values = {name: column.tolist() for name, column in columns.items()}
        rows = []
        for i, (item, _) in enumerate(batch):
            if finite[i]:
                self.latents[item] = inverted.latents[i].cpu().contiguous()
                rows.append(_row(item, Status.OK, None, **{name: value[i] for name, value in values.items()}))
            else:
                rows.append(_row(item, Status.DEGENERATE, "the inverted latent or its round trip is not finite"))
        return rows


def _psnr(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Peak signal-to-noise ratio in dB per image (B,), for images in [-1, 1] (peak 2); 120 dB stands for equality."""
    error = (first - second).double().pow(2).flatten(1).mean(1)
    return (10 * torch.log10(4.0 / error.clamp_min(4e-12))).float()
