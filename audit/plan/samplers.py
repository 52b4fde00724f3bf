"""The samplers that a spec's pictures are drawn with, and the steps that each takes on a backbone."""

from __future__ import annotations

from collections.abc import Mapping

from audit.plan.benign import sampler_of
from audit.spec.document import Spec
from audit.spec.sampler import DDIM, Sampler
from audit.weights.schedulers import choose, is_flow


def samplers_of(spec: Spec) -> dict[str, Sampler]:
    """Return each sampler that a spec draws pictures with, by the section that it comes from."""
    samplers = {f"scenarios.{scenario.name}": scenario.sampler for scenario in spec.scenarios}
    return samplers | ({"benign": sampler_of(spec)} if spec.benign.cases else {})


def schedulers_of(spec: Spec) -> frozenset[str]:
    """Return the names of the schedulers that a spec draws pictures with."""
    return frozenset(sampler.scheduler for sampler in samplers_of(spec).values())


def timesteps(sampler: Sampler, written: Mapping[str, object]) -> tuple[float, ...]:
    """Return the training timestep of each evaluation, noisiest first, on a backbone whose scheduler_config.json is `written`.

    DDIM and a flow evaluate once a step; for another scheduler diffusers' class is asked, which imports torch. Raises
    `CheckpointError` when that class refuses.
    """
    if is_flow(written):
        return _flow_timesteps(sampler.steps, written)
    if sampler.scheduler != DDIM:
        from audit.diffusion import schedulers  # imports torch

        return schedulers.timesteps(choose(written, sampler.scheduler), sampler.steps)
    offset = written.get("steps_offset", 0)
    assert isinstance(offset, int)  # as `pipeline_family` has checked
    return tuple(i * (1000 // sampler.steps) + offset for i in reversed(range(sampler.steps)))


def _flow_timesteps(steps: int, written: Mapping[str, object]) -> tuple[float, ...]:
    """Return a flow's timesteps as diffusers' class sets them.

    A grid that is shifted by the picture's size is taken as unshifted, which moves no timestep beyond its ends.
    """
    shift = 1.0 if written.get("use_dynamic_shifting") else float(str(written.get("shift", 1.0)))
    least = shift * 0.001 / (1 + (shift - 1) * 0.001)
    even = [1.0 - i * (1.0 - least) / max(1, steps - 1) for i in range(steps)]
    return tuple(round(1000 * shift * s / (1 + (shift - 1) * s), 3) for s in even)
