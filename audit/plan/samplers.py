"""The samplers that a spec's pictures are drawn with, and the steps that each takes on a backbone."""

from __future__ import annotations

from collections.abc import Mapping

from audit.plan.benign import sampler_of
from audit.spec.document import Spec
from audit.spec.sampler import DDIM, Sampler
from audit.weights.schedulers import choose, flow_timesteps, is_flow


def samplers_of(spec: Spec) -> dict[str, Sampler]:
    """Return each sampler that a spec draws pictures with, by the section that it comes from."""
    samplers = {f"scenarios.{scenario.name}": scenario.sampler for scenario in spec.scenarios}
    return samplers | ({"benign": sampler_of(spec)} if spec.benign.cases else {})


def schedulers_of(spec: Spec) -> frozenset[str]:
    """Return the names of the schedulers that a spec draws pictures with."""
    return frozenset(sampler.scheduler for sampler in samplers_of(spec).values())


def timesteps(sampler: Sampler, written: Mapping[str, object]) -> tuple[float, ...]:
    """Return the training timestep of each evaluation, noisiest first, on a backbone whose `own_scheduler` is `written`.

    DDIM and a flow evaluate once a step; for another scheduler diffusers' class is asked, which imports torch. Raises
    `CheckpointError` when that class refuses.
    """
    if is_flow(written):
        return flow_timesteps(written, sampler.steps)
    if sampler.scheduler != DDIM:
        from audit.diffusion import schedulers  # imports torch

        return schedulers.timesteps(choose(written, sampler.scheduler), sampler.steps)
    offset = written.get("steps_offset", 0)
    assert isinstance(offset, int)  # as `pipeline_family` has checked
    return tuple(i * (1000 // sampler.steps) + offset for i in reversed(range(sampler.steps)))
