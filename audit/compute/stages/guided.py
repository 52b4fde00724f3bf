"""Classifier guidance of one batch of pictures, beside the guards of their defence."""

from __future__ import annotations

from collections.abc import Sequence

from audit.attacks.classifier_guidance import NAME, ClassifierGuide, build, why_unassessed
from audit.compute.models import Models
from audit.diffusion.guard import Report
from audit.instruments.differentiable_clip import decoder
from audit.plan.identities import GenerateIdentity


def guidance_of(pictures: GenerateIdentity, models: Models) -> list[ClassifierGuide]:
    """Return the guidance of a new batch, which takes gradients through the decoder, and the UNet if full; [] without one.

    Raises `CheckpointError` when the guide's files have changed since the plan, `DetectorError` when they cannot be loaded.
    """
    settings, sampler = pictures.guidance, pictures.sampler
    if settings is None or sampler is None:
        return []
    networks = [models.network(pictures.model, sampler.dtype)] if settings.gradient == "full" else []
    ref = models.guard_model(settings.guide_sha256)
    return [build(settings, ref, str(models.device), decoder(models.pipeline), [models.pipeline.vae, *networks])]


def split(reports: Sequence[Report]) -> tuple[list[Report], str | None]:
    """Return the guards' own reports, and why guidance that should have steered the case did not; None where it did."""
    guarding = [report for report in reports if report.guard != NAME]
    unguided = [why_unassessed(report) for report in reports if report.guard == NAME]
    return guarding, next(iter(unguided), None)
