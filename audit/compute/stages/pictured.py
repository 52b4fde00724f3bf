"""Start pictures from reference pictures: encode them, and noise them to a level of the sampler's grid."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from audit.compute.stages.invert import ReadItem
from audit.corpus.images import ImageError, to_model_input
from audit.diffusion.completion import Completion, Known, known_region
from audit.diffusion.pipeline import Pipeline
from audit.diffusion.sampling import Schedule, initial_noise
from audit.errors import CorpusError
from audit.records import Case, Status
from audit.storage.errors import SourceUnavailable


@dataclasses.dataclass(frozen=True)
class Pictured:
    """The clean latents of reference pictures and the noise of their cases, (B, C, h, w) each."""

    clean: torch.Tensor
    noise: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """The shape of both."""
        return self.clean.shape

    def start(self, schedule: Schedule) -> torch.Tensor:
        """Return the latents at the noisiest level of `schedule`."""
        return schedule.levels[-1].noised(self.clean, self.noise)

    def completed_by(self, schedule: Schedule, known: Known, device: torch.device) -> Completion:
        """Return the solver that starts from the noise and holds the known part."""
        region = known_region(known, self.shape[2], self.shape[3])
        return Completion(schedule, self.clean.to(device), self.noise.to(device), region.to(device))


@dataclasses.dataclass(frozen=True)
class Unread:
    """The status and reason of a case whose reference picture cannot be used."""

    status: Status
    reason: str


def pictured(
    cases: Sequence[Case], pipeline: Pipeline, read_item: ReadItem
) -> tuple[dict[int, Unread], list[Case], Pictured | None]:
    """Return why cases have no picture, by picture id, the other cases, and what these start from: None where there are none.

    Raises `SourceUnavailable` when the source of the corpus does not answer.
    """
    unread: dict[int, Unread] = {}
    ready, read = [], []
    for case in cases:
        try:
            pixels = to_model_input(read_item(case.item or ""), pipeline.resolution)
        except SourceUnavailable:
            raise
        except CorpusError as error:
            status = Status.UNREADABLE if isinstance(error, ImageError) else Status.ERROR
            unread[case.image_id] = Unread(status, error.what)
            continue
        ready.append(case)
        read.append(torch.from_numpy(pixels).permute(2, 0, 1))
    if not ready:
        return unread, ready, None
    latents = pipeline.encode_images(torch.stack(read)).cpu()
    noise = initial_noise([case.seed for case in ready], (latents.shape[1], latents.shape[2], latents.shape[3]))
    return unread, ready, Pictured(latents, noise)
