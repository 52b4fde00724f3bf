"""A complete small audit against the per-image script of `plain_audit`: the same cases, one machine, one run.

python -m tests.bench.bench_audit [--cases 32] [--steps 25] [--rounds 3] [--means bfloat16|compiled]

Four models (backbone, ESD, UCE, Receler) by text prompts, white-box and black-box latents, two judges, all controls.
Ours is everything from the spec to the report, planning, journal, DuckDB, checks and gate included; the script only makes
and scores pictures. They take turns: each round is a whole audit of ours as it stands, one with what this machine offers
(`Means`), and the script on its share of the cases. What Prefect's server takes to start is measured by `bench_overhead`.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from audit.compute.models import Models
from audit.plan.document import Plan
from audit.weights.references import resolve_model
from tests.bench.audit_sides import Means, Ours, Script, ours, script
from tests.bench.forwards import Forwards
from tests.bench.plain_audit import PASSES, PlainAudit, generated
from tests.bench.table import Figure, conclude, spread

CASES, STEPS, ROUNDS = 32, 25, 3
LEAST_SPEED, LEAST_SHARE = 5.0, 0.85
SMALLEST = 32  # cases a cell from which the limits hold: what a run costs once weighs more in fewer
UNET = "UNet2DConditionModel"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=CASES, help="cases a cell")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--means", choices=("bfloat16", "compiled"), help="only one of what this machine offers")
    arguments = parser.parse_args()
    all_means = Means.of_this_machine()
    means = {
        None: all_means,
        "bfloat16": dataclasses.replace(all_means, compile_with=None),
        "compiled": dataclasses.replace(all_means, dtype="float32"),
    }[arguments.means]
    conclude(figures(arguments.cases, arguments.steps, arguments.rounds, means))


def figures(cases: int = CASES, steps: int = STEPS, rounds: int = ROUNDS, means: Means | None = None) -> list[Figure]:
    """Return the speed-up, where it comes from, and the share of wall time inside the networks.

    `means` are tried beside ours as it stands; by default, all that this machine offers.
    """
    means = Means.of_this_machine() if means is None else means
    limited = cases >= SMALLEST
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first, best = list[Ours](), list[Ours]()
        if limited:
            ours(_made(folder / "warm-up"), 2, steps)
        if means != Means():
            first = [ours(_made(folder / "compiling"), cases, steps, means)]
        fast = [ours(_made(folder / "round-0"), cases, steps)]
        plan, slow = fast[0].plan, list[Script]()
        known = _known(plan)
        models = Models(resolve_model("testbed"), fast[0].journal, torch.device("cpu"), plan)
        unets: dict[str | None, UNet2DConditionModel] = {}
        for turn in range(rounds):
            if turn:
                fast.append(ours(_made(folder / f"round-{turn}"), cases, steps))
            if first:
                best.append(ours(_made(folder / f"best-{turn}"), cases, steps, means))
            plain = PlainAudit(plan, known[turn::rounds], models, _made(folder / f"plain-{turn}"))
            plain.unets.update(unets)
            plain.load()
            unets = plain.unets
            slow.append(script(plain))
    return [
        *_fastest(first, best, slow, means, LEAST_SPEED if limited else None),
        *_figures(fast, slow, steps, LEAST_SPEED if limited and not best else None, LEAST_SHARE if limited else None),
    ]


def _known(plan: Plan) -> list[dict[str, Any]]:
    """Return the cases that the script knows: all but noise that no sampler makes a picture of."""
    drawn = {key for key, identity in generated(plan).items() if identity.source in ("noise-latent", "noise-pixels")}
    return [case for case in plan.cases.to_pylist() if case["unit_key"] not in drawn]


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _agreement(fast: Ours, slow: Sequence[Script]) -> float:
    """Return the share of readings on which both sides decide alike at 0.5, of those that ours could make."""
    pairs = [
        (first, second)
        for turn in slow
        for key, row in turn.scores.items()
        for first, second in zip(fast.scores[key], row, strict=True)
        if first is not None and second is not None
    ]
    return sum((first >= 0.5) == (second >= 0.5) for first, second in pairs) / len(pairs)


def _fastest(
    first: Sequence[Ours], rounds: Sequence[Ours], shares: Sequence[Script], means: Means, least: float | None
) -> list[Figure]:
    """Return the speed-up with what this machine offers; none where it offers nothing."""
    if not rounds:
        return []
    quick = statistics.median(one.seconds for one in rounds)
    how = f"{rounds[0].plan.cases.num_rows} cases; {means}; {sum(share.seconds for share in shares):.0f} s against {quick:.0f} s"
    return [
        spread("complete audit, per-image script / ours with what this machine offers, cases a second",
               _ratios(rounds, shares), least, how, least=True),
        Figure("- readings decided as by the script, in float32", _agreement(rounds[0], shares), "{:.1%}", None,
               "both judges, every case, score >= 0.5"),
        Figure("- the first such audit took longer by", first[0].seconds - quick, "{:.0f} s", None,
               "compiling, once a machine; less where its compiled code lay in the cache"),
    ]  # fmt: skip


def _ratios(rounds: Sequence[Ours], shares: Sequence[Script]) -> list[float]:
    """Return how many times as long the script takes as we do, turn by turn."""
    return [len(rounds) * share.seconds / one.seconds for one, share in zip(rounds, shares, strict=True)]


def _figures(
    rounds: Sequence[Ours], shares: Sequence[Script], steps: int, least: float | None, share: float | None
) -> list[Figure]:
    fast, plain = rounds[0], merged([share.forwards for share in shares])
    total, count = fast.plan.cases.num_rows, len(rounds)
    wall = _ratios(rounds, shares)
    cpu = [count * share.cpu / one.cpu for one, share in zip(rounds, shares, strict=True)]
    slow, quick = sum(share.seconds for share in shares), statistics.median(one.seconds for one in rounds)
    how = f"{total} cases, 4 models, {steps} steps, 2 judges; {slow:.0f} s against {quick:.0f} s"
    inverting = sum(case is not None for case in fast.plan.cases["invert_key"].to_pylist()) * steps * PASSES
    mine, its = fast.forwards.by_class, plain.by_class
    sampling = its[UNET].rows - inverting
    text, own_text = its["CLIPTextModel"], mine["CLIPTextModel"]
    median = statistics.median(one.cpu for one in rounds)
    outside = [one.cpu - one.forwards.cpu for one in rounds]
    return [
        spread("complete audit, per-image script / ours, cases a second", wall,
               least, how, least=True),
        spread("- the same in CPU seconds of all threads", cpu, None, "no neighbour's load in it"),
        Figure("wall time of the audit inside model forwards", fast.forwards.seconds / fast.seconds, "{:.0%}",
               share, "UNet, VAE, text encoders, judges", least=True),
        Figure("- the same of the script", plain.seconds / slow, "{:.0%}", None, "batches of one"),
        Figure("readings decided alike", _agreement(fast, shares), "{:.1%}", None, "both judges, every case, score >= 0.5"),
        Figure("- shared inversions: UNet evaluations to invert", inverting / max(fast.inversion_rows, 1), "{:.2f}x", None,
               f"script {inverting:,}, ours {fast.inversion_rows:,} with round trips; each latent serves every defence"),
        Figure("- shared pictures: UNet evaluations to sample", sampling / max(mine[UNET].rows - fast.inversion_rows, 1),
               "{:.2f}x", None, "round trips are the white-box pictures; no unconditional pass at guidance 1 on either side"),
        Figure("- batching: seconds of one UNet evaluation of one picture", _per_row(its[UNET]) / _per_row(mine[UNET]),
               "{:.2f}x", None, f"{1e3 * _per_row(its[UNET]):.2f} ms CPU one by one, {1e3 * _per_row(mine[UNET]):.2f} ms"),
        Figure("- batching: seconds of one VAE pass", _vae(its) / _vae(mine), "{:.2f}x", None, "encoder and decoder"),
        Figure("- prompt cache: text encodings", text.rows / max(own_text.rows, 1), "{:.1f}x", None,
               f"{text.cpu:.1f} s of the script, {own_text.cpu:.1f} s of ours"),
        Figure("- batching: seconds of one judge's pass", _judges(its) / _judges(mine), "{:.2f}x", None, "per picture"),
        Figure("outside the networks, of the audit's CPU time", statistics.median(outside) / median, "{:.1%}", None,
               f"{min(outside):.1f} to {max(outside):.1f} s for {total} cases"),
    ]  # fmt: skip


def merged(turns: Sequence[Forwards]) -> Forwards:
    """Return what the networks did in all turns together."""
    whole = Forwards()
    for turn in turns:
        for name, tally in turn.by_class.items():
            own = whole.by_class[name]
            own.calls, own.rows = own.calls + tally.calls, own.rows + tally.rows
            own.seconds, own.cpu = own.seconds + tally.seconds, own.cpu + tally.cpu
    return whole


def _per_row(tally: Any) -> float:
    return tally.cpu / max(tally.rows, 1)


def _vae(tallies: Mapping[str, Any]) -> float:
    return sum(_per_row(tallies[name]) for name in ("Encoder", "Decoder"))


def _judges(tallies: Mapping[str, Any]) -> float:
    return sum(_per_row(tallies[name]) for name in ("CLIPVisionModel", "ResNetForImageClassification"))


if __name__ == "__main__":
    main()
