"""Keep the beginnings of trajectories that no guard has touched yet, for the next defence around the same model.

IRECE acts at one timestep and EGLOCE inside a window; until then each denoises as the model alone does. The latents at which
some guard of the run begins are kept in host memory, the latest of them up to a bound; what is lost is denoised again.
Only DDIM's are kept: other schedulers hold more than latents, such as earlier predictions or a generator's state.
"""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence

import torch

from audit.guards import parse
from audit.guards.parameters import Parameters
from audit.plan.identities import GenerateIdentity
from audit.records import Case
from audit.spec.document import Spec

LIMIT = 256 << 20  # bytes: 4,096 latents of Stable Diffusion


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """All that the unguarded trajectory of one case follows from. `start` names the latent that it starts from."""

    model: str | None
    dtype: str
    steps: int
    guidance: float
    text: str
    start: tuple[str | int | float | None, ...]


def trajectory_of(pictures: GenerateIdentity, case: Case, shape: Sequence[int]) -> Trajectory:
    """Return what the trajectory of a case, from a latent of this shape, follows from as long as no guard acts."""
    sampler, moved = pictures.sampler, pictures.perturbation
    if sampler is None:
        raise ValueError(f"pictures of source {pictures.source!r} have no trajectory")
    start: tuple[str | int | float | None, ...] = ("noise", case.seed)
    if pictures.source == "latent":
        disturbed = (moved.kind, moved.strength, case.seed) if moved is not None else ()
        start = ("latent", case.invert_key, case.item, *disturbed)
    of_model = (pictures.model, sampler.dtype, sampler.steps, sampler.guidance)
    return Trajectory(*of_model, case.prompt or "", (*start, *shape))


class Prefixes:
    """The kept latents of one worker. `spec` tells at which steps its guards begin."""

    def __init__(self, spec: Spec | None, limit: int = LIMIT) -> None:
        self._spec, self._limit, self._bytes = spec, limit, 0
        self._begin: dict[tuple[float, ...], frozenset[int]] = {}
        self._kept: OrderedDict[tuple[Trajectory, int], torch.Tensor] = OrderedDict()

    def steps(self, timesteps: tuple[float, ...]) -> Collection[int]:
        """Return the steps of a loop over `timesteps`, noisiest first, at which some guard of the run begins to act."""
        if timesteps not in self._begin:
            defences = self._spec.defences if self._spec is not None else ()
            self._begin[timesteps] = _begin([[parse(guard) for guard in one.guards] for one in defences], timesteps)
        return self._begin[timesteps]

    def latest(self, trajectories: Sequence[Trajectory], most: int) -> tuple[int, torch.Tensor] | None:
        """Return the latest step up to `most` that is kept of all trajectories, and the latents (B, C, H, W) there."""
        steps = sorted({step for one, step in self._kept if one == trajectories[0] and step <= most}, reverse=True)
        for step in steps:
            if all((one, step) in self._kept for one in trajectories):
                for one in trajectories:
                    self._kept.move_to_end((one, step))
                return step, torch.stack([self._kept[one, step] for one in trajectories])
        return None

    def keep(self, trajectories: Sequence[Trajectory], latents: Mapping[int, torch.Tensor]) -> None:
        """Keep the latents (B, C, H, W) of trajectories by step, and forget the oldest beyond the bound."""
        for step, batch in latents.items():
            for one, latent in zip(trajectories, batch.cpu().unbind(), strict=True):
                if (one, step) not in self._kept:
                    self._kept[one, step] = latent.clone()
                    self._bytes += latent.nbytes
        while self._bytes > self._limit:
            _, oldest = self._kept.popitem(last=False)
            self._bytes -= oldest.nbytes


def _begin(defences: Sequence[Sequence[Parameters]], timesteps: Sequence[float]) -> frozenset[int]:
    steps = {
        min((type(one).quiet_steps(one.model_dump(mode="json"), timesteps) for one in guards), default=0)
        for guards in defences
    }
    return frozenset(step for step in steps if 0 < step < len(timesteps))
