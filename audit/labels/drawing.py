"""Which pictures are labelled: a simple random sample that calibrates, and further hits and clears for review."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np

from audit.errors import LabelsError
from audit.labels.documents import Sample, Stratum
from audit.labels.pool import Seen

LEAST = 12  # positives, and negatives, below which no calibration is used


@dataclasses.dataclass(frozen=True)
class Sizes:
    """How many pictures of each kind are labelled.

    `random` of each erased concept, whatever the judges said; hits and clears are drawn on top until so many of each are
    labelled; `others` are random pictures of each neighbour, each unlearned class, and each concept's reference pictures.
    """

    random: int = 120
    hits: int = 100
    clears: int = 60
    others: int = 20


@dataclasses.dataclass(frozen=True)
class Drawing:
    """The drawn pictures with the kind of sample that each belongs to, and the counts by stratum."""

    pictures: tuple[tuple[Seen, Sample], ...]
    strata: tuple[Stratum, ...]


def draw(pool: Sequence[Seen], sizes: Sizes, seed: int) -> Drawing:
    """Return the pictures to label; the same pool, sizes and seed give the same.

    The random sample of a concept and domain is the beginning of a permutation that depends on seed and pixels alone. Raises
    `LabelsError` when no erased concept has enough pictures for a calibration.
    """
    _require_enough(pool)
    groups: dict[tuple[str, str], list[Seen]] = {}
    for seen in pool:
        groups.setdefault((seen.concept, seen.domain), []).append(seen)
    chosen: list[tuple[Seen, Sample]] = []
    strata: list[Stratum] = []
    for (concept, domain), group in sorted(groups.items()):
        order = _permuted(group, seed)
        whole = domain == "generated" and any(seen.audited for seen in group)
        drawn: dict[Sample, list[Seen]] = {"random": order[: sizes.random if whole else sizes.others]}
        if whole:
            rest = order[sizes.random :]
            drawn["hits"] = _topped_up(drawn["random"], rest, sizes.hits, hit=True)
            drawn["clears"] = _topped_up(drawn["random"], rest, sizes.clears, hit=False)
        for sample, pictures in drawn.items():
            known = group if sample == "random" else [seen for seen in group if seen.hit == (sample == "hits")]
            strata.append(
                Stratum(
                    concept=concept, domain=group[0].domain, sample=sample, pictures=len(known), drawn=len(pictures)
                )
            )
            chosen += [(seen, sample) for seen in pictures]
    return Drawing(tuple(chosen), tuple(strata))


def _topped_up(drawn: Iterable[Seen], rest: Iterable[Seen], size: int, *, hit: bool) -> list[Seen]:
    """Return what is missing of `size` hits or clears in the random sample."""
    missing = size - sum(seen.hit == hit for seen in drawn)
    return [seen for seen in rest if seen.hit == hit][: max(0, missing)]


def _permuted(group: Sequence[Seen], seed: int) -> list[Seen]:
    name = f"{group[0].concept}/{group[0].domain}".encode()
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name).digest()[:8])])
    by_pixels = sorted(group, key=lambda seen: seen.pixel_sha256)
    return [by_pixels[int(place)] for place in rng.permutation(len(group))]


def _require_enough(pool: Sequence[Seen]) -> None:
    counts: dict[str, int] = {}
    for seen in pool:
        if seen.audited and seen.domain == "generated":
            counts[seen.concept] = counts.get(seen.concept, 0) + 1
    if any(count >= 2 * LEAST for count in counts.values()):
        return
    listed = ", ".join(f"{count} of {concept!r}" for concept, count in sorted(counts.items())) or "none"
    raise LabelsError(
        f"the run has too few assessed pictures to calibrate a judge on: {listed}; a judge needs {LEAST} that show the "
        f"concept and {LEAST} that do not",
        next_step="finish it with: erasure-audit resume RUN_ID; or plan more cases",
    )
