"""Check the samplers of a spec before anything is computed: that their classes take them, and that guards can act on them."""

from __future__ import annotations

from collections.abc import Iterator

from audit import guards
from audit.errors import CheckpointError, SpecError
from audit.files import Document
from audit.plan.resolved import Resolved
from audit.plan.samplers import samplers_of, timesteps
from audit.spec.sampler import AS_PIPELINE, DDIM, LCM, Sampler
from audit.weights.references import ModelRef
from audit.weights.schedulers import choose, is_flow, own_scheduler


def check_samplers(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that diffusers' class of each scheduler takes its settings and steps, and that every guard can act on it.

    Raises `SpecError` otherwise. DDIM needs no check: its settings are those of the family.
    """
    written = own_scheduler(backbone.path)
    for where, sampler in samplers_of(resolved.spec).items():
        if sampler.scheduler == DDIM or (is_flow(written) and sampler.scheduler == AS_PIPELINE):
            continue
        if is_flow(written):
            raise SpecError(
                f"scheduler {sampler.scheduler} solves a diffusion, and this backbone is a flow: it is sampled by Euler's steps",
                where=f"{where}.sampler.scheduler",
                next_step=f"leave it out, or write {AS_PIPELINE}",
            )
        if sampler.scheduler == LCM and not sampler.distilled:
            raise SpecError(
                "scheduler lcm samples consistency models, and nothing says that this UNet is one: it has no "
                "time_cond_proj_dim, and a fused LCM-LoRA cannot be seen",
                where=f"{where}.sampler.scheduler",
                next_step="fuse an LCM-LoRA into the backbone and set sampler.distilled to true, or use another scheduler",
            )
        try:
            timesteps(sampler, written)
        except CheckpointError as error:
            raise SpecError(error.what, where=f"{where}.sampler", next_step=error.next_step or "") from None
        for defence, guard in _moving(resolved):
            _check_memory(sampler, written, where, defence, guard)


def _moving(resolved: Resolved) -> Iterator[tuple[str, str]]:
    """Yield each defence with a guard that changes latents between steps, and the guard."""
    for defence in resolved.spec.defences:
        for guard in defence.guards:
            if guards.parse(guard).moves_latents:
                yield defence.name, guard.name


def _check_memory(sampler: Sampler, written: Document, where: str, defence: str, guard: str) -> None:
    from audit.diffusion.schedulers import remembers  # imports torch

    chosen = choose(written, sampler.scheduler)
    if remembers(chosen):
        called = chosen.named if sampler.scheduler == AS_PIPELINE else sampler.scheduler
        raise SpecError(
            f"guard {guard} of defence {defence!r} changes latents between steps, and scheduler {called} continues from "
            "predictions that it made before such a change",
            where=f"{where}.sampler.scheduler",
            next_step="use ddim, euler, euler-ancestral or lcm there, or audit this guard in a spec of its own",
        )
