"""The script that somebody would write: one case after another through diffusers' pipeline and schedulers.

It is as good as such a script gets without becoming another program: models are loaded once and moved once, the
detectors' prompts are encoded once, the scheduler of a step count is made once, no gradient is recorded, and guidance 1
takes no second pass, as diffusers' pipeline has it. It knows nothing of the other cases.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMInverseScheduler, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image

from audit.compute.models import Models
from audit.corpus.images import to_model_input
from audit.instruments import detectors
from audit.instruments.detectors.base import Detector
from audit.plan.document import Plan
from audit.plan.identities import GenerateIdentity, InvertIdentity, PictureSampler

PASSES = 3  # of each inversion step: the fewest that reach the audit's round-trip gate at 25 and at 50 steps


def generated(plan: Plan) -> dict[str, GenerateIdentity]:
    """Return what each generate unit of a plan makes, by key."""
    return {
        unit.key: unit.identity for unit in plan.units_of("generate") if isinstance(unit.identity, GenerateIdentity)
    }


class PlainAudit:
    """Some cases of a plan, each made and scored on its own, each picture written as PNG."""

    def __init__(self, plan: Plan, cases: Sequence[Mapping[str, Any]], models: Models, folder: Path) -> None:
        self.plan, self.cases, self.models, self.folder = plan, cases, models, folder
        backbone = models.pipeline
        config = {**backbone.scheduler_config, "clip_sample": False, "timestep_spacing": "leading"}
        self.forward, self.backward = DDIMInverseScheduler.from_config(config), DDIMScheduler.from_config(config)
        self.pipe = StableDiffusionPipeline(
            vae=backbone.vae,
            text_encoder=backbone.text_encoder,
            tokenizer=backbone.tokenizer,
            unet=backbone.unet,
            scheduler=self.backward,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        self.pipe.set_progress_bar_config(disable=True)
        self.judges: list[Detector] = [
            detectors.build(entry, plan.spec.sought(), "cpu") for entry in plan.spec.detectors
        ]
        self.unets: dict[str | None, UNet2DConditionModel] = {None: backbone.unet}

    def load(self) -> None:
        """Load every model before the clock starts."""
        for erased in {identity.model for identity in generated(self.plan).values()}:
            if erased not in self.unets:
                self.unets[erased] = self.models._unet(erased, "float32")
        for judge in self.judges:
            judge.measure([np.full((64, 64, 3), 128, np.uint8)])

    @torch.no_grad()
    def run(self) -> dict[tuple[int, int], tuple[float | None, ...]]:
        """(cell, case) -> each judge's score of the cell's subject."""
        units = generated(self.plan)
        inverters = {
            unit.key: unit.identity.model
            for unit in self.plan.units_of("invert")
            if isinstance(unit.identity, InvertIdentity)
        }
        found = {}
        for case in self.cases:
            described = units[case["unit_key"]]
            inverter = inverters.get(case["invert_key"])
            pixels = self._picture(case, described, inverter)
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "PNG")
            (self.folder / f"{case['cell_id']}-{case['case_no']}.png").write_bytes(buffer.getvalue())
            subject = self.plan.cells[case["cell_id"]].cell.subject
            found[case["cell_id"], case["case_no"]] = tuple(_score(judge, pixels, subject) for judge in self.judges)
        return found

    def _picture(self, case: Mapping[str, Any], described: GenerateIdentity, inverter: str | None) -> Any:
        source, sampler = described.source, described.sampler
        if source == "black":
            side = self.models.pipeline.resolution
            return np.zeros((side, side, 3), np.uint8)
        if source in ("image", "vae"):
            image = self._reference(case)
            return _uint8(image if source == "image" else self._decode(self._encode(image)))
        assert sampler is not None, f"{source} is sampled"
        self.pipe.unet = self.unets[described.model]
        if source == "latent":
            return self._regenerated(self._inverted(case, sampler.steps, self.unets[inverter]), sampler)
        generator = torch.Generator("cpu").manual_seed(case["seed"])
        made = self.pipe(
            case["prompt"] or "",
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            generator=generator,
            output_type="np",
        )
        return (made.images[0] * 255).round().astype(np.uint8)

    def _inverted(self, case: Mapping[str, Any], steps: int, unet: UNet2DConditionModel) -> torch.Tensor:
        null, _ = self.pipe.encode_prompt("", "cpu", 1, False)
        latent = self._encode(self._reference(case))
        self.forward.set_timesteps(steps)
        for t in self.forward.timesteps:
            previous = latent
            for _ in range(PASSES):
                latent = self.forward.step(unet(latent, t, null).sample, t, previous).prev_sample
        return latent

    def _regenerated(self, latent: torch.Tensor, sampler: PictureSampler) -> Any:
        made = self.pipe(
            "",
            num_inference_steps=sampler.steps,
            guidance_scale=sampler.guidance,
            latents=latent / self.backward.init_noise_sigma,
            output_type="np",
        )
        return (made.images[0] * 255).round().astype(np.uint8)

    def _reference(self, case: Mapping[str, Any]) -> torch.Tensor:
        pixels = np.asarray(Image.open(case["item_uri"].removeprefix("file://")).convert("RGB"))
        return torch.from_numpy(to_model_input(pixels, self.models.pipeline.resolution)).permute(2, 0, 1)[None]

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        return self.pipe.vae.encode(image).latent_dist.mean * self.pipe.vae.config.scaling_factor

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        return self.pipe.vae.decode(latent / self.pipe.vae.config.scaling_factor).sample.clamp(-1, 1)


def _uint8(image: torch.Tensor) -> Any:
    return ((image[0] / 2 + 0.5).clamp(0, 1).permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()


def _score(judge: Detector, pixels: Any, subject: str) -> float | None:
    """The highest score among the labels that mean the subject."""
    measured = judge.measure([pixels])[0]
    labels: Sequence[str] = judge.counted_labels(subject)
    return (
        None if measured.scores is None else max((s.score for s in measured.scores if s.label in labels), default=0.0)
    )
