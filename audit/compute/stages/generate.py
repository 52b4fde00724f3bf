"""Make the pictures of one unit: from prompts, inverted latents, random latents, or the control sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from audit.compute.models import Models
from audit.compute.personalised import with_personalisation
from audit.compute.stages.attacked import Refused, prompt_of
from audit.compute.stages.batching import Row, run_batches
from audit.compute.stages.inputs import given_by
from audit.compute.stages.invert import SECOND, Pixels, ReadItem
from audit.corpus.images import ImageError, degenerate, encode_png, pixel_sha256, to_model_input
from audit.diffusion.exact_sampling import Pair, sample_exactly
from audit.diffusion.guard import Conditioning, Report, as_json
from audit.diffusion.perturbation import perturb_latents
from audit.diffusion.sampling import Sampled, Schedule, initial_noise, sample
from audit.records import Control, Status, Unit
from audit.storage.journal import SCHEMAS, Journal

_NOT_FINITE = "the decoded picture is not finite"


def run_generate(
    unit: Unit,
    cases: Sequence[Mapping[str, Any]],
    models: Models,
    journal: Journal,
    read_item: ReadItem,
    batch_size: int,
) -> pa.Table:
    """One row per picture of the unit, in plan order; pictures that could not be made carry status and reason."""
    maker = _Maker(
        with_personalisation(models, unit.identity.get("personalisation")), journal, read_item, unit.identity
    )
    possible = [case for case in cases if not case.get("problem")]
    made = run_batches(possible, batch_size, maker, lambda case, error: _row(case, Status.ERROR, error))
    rows = {row["image_id"]: row for row in made}
    for case in cases:
        if case.get("problem"):
            rows[case["image_id"]] = _row(case, Status.UNREADABLE, case["problem"])
    return pa.Table.from_pylist([rows[case["image_id"]] for case in cases], schema=SCHEMAS["generate"])


def _row(case: Mapping[str, Any], status: Status, error: str | None, **values: Any) -> Row:
    empty = dict.fromkeys(SCHEMAS["generate"].names)
    shared = {name: case[name] for name in ("image_id", "invert_key", "item")}
    return {**empty, **shared, "status": status.value, "error": error, **values}


def _picture(case: Mapping[str, Any], pixels: Pixels, calls: int = 0, report: str | None = None) -> Row:
    """A finished picture, or its row without one when it is black, constant or not finite."""
    reason = degenerate(pixels)
    values = {"unet_calls": calls, "guard_report": report, "pixel_sha256": pixel_sha256(pixels)}
    image = {"bytes": encode_png(pixels), "path": f"{case['image_id']}.png"}
    status = Status.OK if reason is None else Status.DEGENERATE
    return _row(case, status, reason, image=image, **values)


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes one batch of pictures; the unit's source says from what."""

    models: Models
    journal: Journal
    read_item: ReadItem
    identity: Mapping[str, Any]

    def __call__(self, cases: Sequence[Mapping[str, Any]]) -> list[Row]:
        match self.identity["source"]:
            case "prompt" | "noise":
                return self._from_prompts(cases)
            case "latent":
                return self._from_latents(cases)
            case "black":
                side = self.models.pipeline.resolution
                return [_picture(row, np.zeros((side, side, 3), np.uint8)) for row in cases]
            case Control.NOISE_PIXELS:
                return [_picture(row, _noise_pixels(row["seed"], self.models.pipeline.resolution)) for row in cases]
            case Control.NOISE_LATENT:
                return self._from_noise(cases)
            case "image" | "vae":
                return [row for case in cases for row in self._from_reference(case)]
            case other:
                raise ValueError(f"unknown source {other!r}")

    def _from_prompts(self, cases: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Pictures of the cases that have a prompt; where an attack found none, its reason is carried on."""
        rows: dict[int, Row] = {}
        ready = []
        for case in cases:
            prompt = prompt_of(case, self.journal, self.models.pipeline.vocabulary)
            if isinstance(prompt, Refused):
                rows[case["image_id"]] = _row(case, prompt.status, prompt.reason)
            else:
                ready.append({**case, "prompt": prompt})
        if ready:
            sampler = self.identity["sampler"]
            shape = self.models.pipeline.latent_shape_of(sampler.get("width"), sampler.get("height"))
            noise = initial_noise([case["seed"] for case in ready], shape)
            rows.update({row["image_id"]: row for row in self._sample(ready, noise)})
        return [rows[case["image_id"]] for case in cases]

    def _from_noise(self, cases: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Pictures that the decoder makes of Gaussian latents: garbage with the decoder's own texture."""
        pipeline = self.models.pipeline
        noise = initial_noise([case["seed"] for case in cases], pipeline.latent_shape)
        images = pipeline.decode_latents(noise.to(pipeline.device))
        finite = _finite(images)
        return [
            _picture(row, pixels) if finite[i] else _row(row, Status.DEGENERATE, _NOT_FINITE)
            for i, (row, pixels) in enumerate(zip(cases, _uint8(images), strict=True))
        ]

    def _denoise(self, cases: Sequence[Mapping[str, Any]], start: torch.Tensor | Pair) -> Sampled:
        """Latents denoised through the unit's model and guards, by the sampler that `start` belongs to."""
        models, sampler = self.models, self.identity["sampler"]
        device, erased = models.device, self.identity["model"]
        texts = tuple(row["prompt"] or "" for row in cases)
        conditioning = Conditioning(
            models.states(texts, erased).to(device),
            models.states([""] * len(cases), erased).to(device),
            sampler["guidance"],
            texts,
            tuple(row["seed"] for row in cases),
        )
        model = models.noise_model(erased, sampler["dtype"], texts)
        schedule: Schedule = models.pipeline.schedule(sampler["steps"])
        guards = models.guards(self.identity["guards"], erased, sampler["dtype"])
        if isinstance(start, Pair):
            if guards:
                raise ValueError("guards act on one latent and cannot act on a pair")
            pair = Pair(start.noisiest.to(device), start.second.to(device))
            return sample_exactly(model, schedule, pair, conditioning, self.identity["solver"])
        return sample(model, schedule, start.to(device), conditioning, guards)

    def _sample(self, cases: Sequence[Mapping[str, Any]], start: torch.Tensor | Pair) -> list[Row]:
        result = self._denoise(cases, start)
        images = self.models.pipeline.decode_latents(result.latents)
        finite, shown, pixels = _finite(result.latents), _finite(images), _uint8(images)
        rows = []
        for i, row in enumerate(cases):
            reports = result.reports[i]
            calls, told = result.unet_calls + sum(report.unet_calls for report in reports), as_json(reports)
            refused = _refused(reports)
            if refused is not None:
                rows.append(_row(row, Status.BLOCKED, refused, unet_calls=calls, guard_report=told))
            elif finite[i] and shown[i]:
                rows.append(_picture(row, pixels[i], calls, told))
            else:
                reason = _NOT_FINITE if finite[i] else "the latent is not finite"
                rows.append(_row(row, Status.DEGENERATE, reason, unet_calls=calls, guard_report=told))
        return rows

    def _from_latents(self, cases: Sequence[Mapping[str, Any]]) -> list[Row]:
        """Pictures of the cases whose inversion gave a latent; the others carry the inversion's status on."""
        inverted = {key: given_by(self.journal, "invert", key) for key in {row["invert_key"] for row in cases}}
        found: dict[int, Mapping[str, torch.Tensor]] = {}
        rows: dict[int, Row] = {}
        for row in cases:
            given = inverted[row["invert_key"]]
            if row["item"] in given.tensors:
                found[row["image_id"]] = given.tensors
            else:
                known = given.rows[row["item"]]
                rows[row["image_id"]] = _row(row, Status(known["status"]), f"inversion: {known['error']}")
        ready = [row for row in cases if row["image_id"] in found]
        if ready:
            made = self._sample(ready, self._start(ready, [found[row["image_id"]] for row in ready]))
            rows.update({row["image_id"]: row for row in made})
        return [rows[row["image_id"]] for row in cases]

    def _start(
        self, cases: Sequence[Mapping[str, Any]], stored: Sequence[Mapping[str, torch.Tensor]]
    ) -> torch.Tensor | Pair:
        """What the sampler starts from: the inverted latents, perturbed where the unit says so, or their pairs."""
        pairs = list(zip(cases, stored, strict=True))
        latents = torch.stack([kept[row["item"]] for row, kept in pairs])
        if self.identity["solver"] != "ddim":
            return Pair(latents, torch.stack([kept[row["item"] + SECOND] for row, kept in pairs]))
        moved = self.identity["perturbation"]
        if moved is None:
            return latents
        return perturb_latents(latents, moved["kind"], moved["strength"], [row["seed"] for row in cases])

    def _from_reference(self, case: Mapping[str, Any]) -> list[Row]:
        """The reference image as the model sees it, or after the VAE alone."""
        try:
            pixels = to_model_input(self.read_item(case["item"]), self.models.pipeline.resolution)
        except ImageError as error:
            return [_row(case, Status.UNREADABLE, error.what)]
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        if self.identity["source"] == "vae":
            pipeline = self.models.pipeline
            images = pipeline.decode_latents(pipeline.encode_images(images))
            if not _finite(images)[0]:
                return [_row(case, Status.DEGENERATE, _NOT_FINITE)]
        return [_picture(case, _uint8(images)[0])]


def _refused(reports: Sequence[Report]) -> str | None:
    """Why a guard cannot vouch for the picture, which then is no evidence of anything; None when all can."""
    return next((f"guard {report.guard}: {report.failure}" for report in reports if report.failure is not None), None)


def _noise_pixels(seed: int, side: int) -> Pixels:
    """Gaussian noise as a picture (side, side, 3): standard normal values in the model's range, cut at its ends."""
    noise = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return _uint8(noise.clamp(-1, 1))[0]


def _finite(values: torch.Tensor) -> torch.Tensor:
    """Whether all values of each latent or image of a batch are numbers, (B,)."""
    return torch.isfinite(values).flatten(1).all(1)


def _uint8(images: torch.Tensor) -> Pixels:
    """Pixels (B, H, W, 3) of images (B, 3, H, W) in [-1, 1], rounded to the nearest level as diffusers does."""
    scaled = (images.float() / 2 + 0.5).clamp(0, 1).nan_to_num(0.0)
    return (scaled.permute(0, 2, 3, 1) * 255).round().to(torch.uint8).cpu().numpy()
