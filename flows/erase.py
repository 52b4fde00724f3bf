"""Erasing, as a table of contents: the flow of a GPU worker that makes an erased model."""

from __future__ import annotations

from prefect import flow

from audit.erasers.request import make_request
from tasks.produce import produce
from tasks.slots import require_slot


@flow(name="erase", persist_result=False)
def erase(
    method: str,
    concepts: list[str],
    out: str,
    backbone: str = "testbed",
    synonyms: list[str] | None = None,
    neighbours: list[str] | None = None,
    preset: str | None = None,
    settings: list[str] | None = None,
    device: str | None = None,
    gpu_slot: str | None = None,
) -> str:
    """Erase into `out`; return the artefact's path. `settings` are `key=value`, as `erasure-audit erase --set` takes them."""
    request = make_request(
        backbone,
        method,
        concepts,
        synonyms=synonyms or (),
        neighbours=neighbours or (),
        preset=preset,
        settings=settings or (),
    )
    if gpu_slot:
        require_slot(gpu_slot)
    return produce(request, out, device, gpu_slot)
