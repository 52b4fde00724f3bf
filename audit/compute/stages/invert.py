"""Invert reference images into latents, and measure by a round trip how far the latents can be trusted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import safetensors.torch
import torch

from audit.compute.models import Models
from audit.compute.stages.batching import Made, Row, run_batches
from audit.compute.stages.overlap import to_device
from audit.corpus.images import ImageError, psnr, to_model_input
from audit.diffusion.exact_sampling import Pair, invert_exactly, sample_exactly
from audit.diffusion.guard import Conditioning
from audit.diffusion.inversion import invert, latent_statistics
from audit.diffusion.perturbation import perturb_image
from audit.diffusion.sampling import NoiseModel, Schedule, sample
from audit.errors import CorpusError
from audit.plan.identities import InvertIdentity
from audit.records import Status
from audit.storage.errors import SourceUnavailable
from audit.storage.journal import SCHEMAS

Pixels = npt.NDArray[np.uint8]
ReadItem = Callable[[str], Pixels]
SECOND = ".second"  # after an item: the name of an exact sampler's second latent
RETURNED = ".returned"  # after an item: the name of the clean latent at which its round trip ended


def run_invert(inverted: InvertIdentity, models: Models, read_item: ReadItem, batch_size: int) -> Made:
    """Return one row per corpus item and the inverted latents, as safetensors bytes: a tensor (C, H, W) per item, in float32.

    An exact sampler's state is two of them, in float64: the second one is named by its item and `SECOND`. The end of the
    round trip, in float32, is named by its item and `RETURNED`.
    """
    latents: dict[str, torch.Tensor] = {}
    readable, rows = _read(inverted.items, read_item)
    work = _Inversion(models, inverted, latents)
    done = run_batches(list(readable.items()), batch_size, work, lambda case, error: _row(case[0], Status.ERROR, error))
    by_item = {row["item"]: row for row in [*rows, *done]}
    table = pa.Table.from_pylist([by_item[item] for item in inverted.items], schema=SCHEMAS["invert"])
    return table, safetensors.torch.save(latents)


def _read(items: Sequence[str], read_item: ReadItem) -> tuple[dict[str, Pixels], list[Row]]:
    """Return readable items, and rows for the others: undecodable objects, which no retry mends, and vanished or changed ones."""
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
class _Trip:
    """One batch inverted and sampled back: latents (B, C, H, W), the pair's second one for exact samplers, the return
    trip's end, and per image the residuals and the UNet evaluations on the way up and on the way down."""

    latents: torch.Tensor
    second: torch.Tensor | None
    returned: torch.Tensor
    residual_max: torch.Tensor
    residual_mean: torch.Tensor
    calls_up: torch.Tensor
    calls_down: int


@dataclasses.dataclass(frozen=True)
class _Inversion:
    """Inverts one batch of (item, pixels) and keeps the latents under their item."""

    models: Models
    identity: InvertIdentity
    latents: dict[str, torch.Tensor]

    def __call__(self, batch: Sequence[tuple[str, Pixels]]) -> list[Row]:
        pipeline = self.models.pipeline
        pixels = np.stack([self._input(item, array) for item, array in batch])
        images = to_device(torch.from_numpy(pixels).permute(0, 3, 1, 2), self.models.device)
        clean = pipeline.encode_images(images)
        trip = self._round_trip(clean)
        ceiling, returned = pipeline.decode_latents(clean), pipeline.decode_latents(trip.returned)
        statistics = latent_statistics(trip.latents)
        finite = torch.isfinite(trip.latents).flatten(1).all(1) & torch.isfinite(returned).flatten(1).all(1)
        columns = {
            "residual_max": trip.residual_max,
            "residual_mean": trip.residual_mean,
            "passes_mean": trip.calls_up / self.identity.steps,
            "unet_calls": trip.calls_up + trip.calls_down,
            "roundtrip_error": _distance(trip.returned, clean),
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
                self.latents[item] = trip.latents[i].cpu().contiguous()
                self.latents[item + RETURNED] = trip.returned[i].cpu().contiguous()
                if trip.second is not None:
                    self.latents[item + SECOND] = trip.second[i].cpu().contiguous()
                rows.append(_row(item, Status.OK, None, **{name: value[i] for name, value in values.items()}))
            else:
                rows.append(_row(item, Status.DEGENERATE, "the inverted latent or its round trip is not finite"))
        return rows

    def _input(self, item: str, array: Pixels) -> npt.NDArray[np.float32]:
        """Return the reference image as the model sees it, disturbed where the unit says so."""
        pixels, moved = to_model_input(array, self.models.pipeline.resolution), self.identity.perturbation
        return pixels if moved is None else perturb_image(pixels, moved.kind, moved.strength, item)

    def _round_trip(self, clean: torch.Tensor) -> _Trip:
        """Invert pictures and sample them again by the inverting model, under one prompt at guidance 1."""
        model, schedule, conditioning = _one_prompt(self.models, self.identity, len(clean))
        states = conditioning.prompt
        method, passes, tolerance = self.identity.method, self.identity.passes, self.identity.tolerance
        if passes is not None and tolerance is not None:  # the fixed-point method
            up = invert(model, schedule, clean, states, passes=passes, tolerance=tolerance)
            # In the memory layout of stored latents: last bits depend on it, and replay denoises what is stored.
            down = sample(model, schedule, up.latents.contiguous(), conditioning)
            residuals = (up.residual_max, up.residual_mean)
            return _Trip(up.latents, None, down.latents, *residuals, up.calls, down.unet_calls)
        pair = invert_exactly(model, schedule, clean, states, method)
        pair = Pair(pair.noisiest.contiguous(), pair.second.contiguous())
        down = sample_exactly(model, schedule, pair, conditioning, method)
        # No implicit equation is solved, so what is left over is the trip's own error.
        error = _distance(down.latents, clean)
        calls = torch.full((len(clean),), schedule.steps, dtype=torch.int32)
        return _Trip(pair.noisiest, pair.second, down.latents, error, error, calls, down.unet_calls)


def _one_prompt(models: Models, inverted: InvertIdentity, count: int) -> tuple[NoiseModel, Schedule, Conditioning]:
    """Return what inverts `count` pictures and samples them again: model, schedule, and the prompt at guidance 1."""
    # One text for all, whatever the batch: SPM acts by prompt, and images that have converged leave the batch.
    texts = (inverted.prompt,) * count
    states = models.states(texts, inverted.model).to(models.device)
    model = models.noise_model(inverted.model, texts=(inverted.prompt,))
    return model, models.pipeline.schedule(inverted.steps), Conditioning(states, states, 1.0, texts)


def returned_anew(
    models: Models, inverted: InvertIdentity, items: Sequence[str], tensors: Mapping[str, torch.Tensor], batch_size: int
) -> tuple[dict[str, torch.Tensor], int]:
    """Denoise the inverted latents of a unit once more, in the batches of its round trip.

    Return their ends by item, and the UNet evaluations for each.
    """
    ends, calls = dict[str, torch.Tensor](), 0
    for start in range(0, len(items), batch_size):
        batch = items[start : start + batch_size]
        latents = torch.stack([tensors[item] for item in batch]).to(models.device)
        model, schedule, conditioning = _one_prompt(models, inverted, len(batch))
        if inverted.method == "fixed-point":
            down = sample(model, schedule, latents, conditioning)
        else:
            second = torch.stack([tensors[item + SECOND] for item in batch]).to(models.device)
            down = sample_exactly(model, schedule, Pair(latents, second), conditioning, inverted.method)
        ends |= zip(batch, down.latents, strict=True)
        calls = down.unet_calls
    return ends, calls


def _distance(latents: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return the relative L2 distance of latents from the clean ones, per image (B,)."""
    return (latents - clean).flatten(1).norm(dim=1) / clean.flatten(1).norm(dim=1)


def _psnr(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the peak signal-to-noise ratio in dB per image (B,), for images in [-1, 1]; 120 dB stands for equality."""
    pairs = zip(first.cpu().numpy(), second.cpu().numpy(), strict=True)
    return torch.tensor([min(psnr(*pair, peak=2.0), 120.0) for pair in pairs])
