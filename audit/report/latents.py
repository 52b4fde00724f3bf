"""The section on inverted latents: what a latent CRR can show, and the readings that it has to be read with."""

from __future__ import annotations

from audit.records import Control
from audit.report.likelihoods import groups
from audit.report.tables import CASES, INSTRUMENT, by_scenario, three_counts
from audit.report.view import Column, Index, Section, Table, defence_name, perturbation_name
from audit.report.words import count, interval, number, percent, plain

_FACTS = (
    (
        "Unlearned class",
        "The same scenario with images of a class that the diffusion model has never seen. A concept that comes back no "
        "more often than this class shows that the latent carries the picture, not that the model kept the concept. A rate "
        "above it speaks for kept knowledge. It cannot show that nothing was kept: both rates may be near 100 %.",
    ),
    (
        "Likelihood of the latents",
        "The negative log-likelihood under N(0, I), the noise that a sampler starts from: 1.419 nats per dimension for such "
        "noise. A concept's latents that lie where those of known classes lie, apart from the unlearned class, can be drawn "
        "by chance as theirs can. It cannot show more than the latent's length: a value below 1.419 is a short latent, not "
        "a better one, and the autocorrelation beside it shows structure that noise does not have.",
    ),
    (
        "Perturbed latents",
        "The rate after noise on the latent. Where the model knows the class, a moved latent still gives it; where the latent "
        "only carried the picture, the rate falls sooner. Read a curve against those of the un-erased backbone and of the "
        "unlearned class: a curve that falls as fast as the backbone's says how fragile the attack is, not that the concept "
        "is gone. These cells never enter a decision.",
    ),
)


def section(index: Index) -> Section | None:
    """Return the section on inverted latents, or None when no scenario inverts images."""
    if not index.result.latents and not index.perturbed():
        return None
    sentences = (
        "Inversion and regeneration through one model, under one prompt at guidance 1, are nearly an identity for any "
        "image: a high white-box rate by itself is no proof that the concept survived. Three readings stand beside it.",
    )
    tables = (_likelihood(index), _perturbed(index))
    used = tuple(
        fact for fact, is_there in zip(_FACTS, (_unlearned(index), *map(bool, tables)), strict=True) if is_there
    )
    return Section("latents", "What the latents say", sentences, facts=used, tables=tuple(t for t in tables if t))


def _unlearned(index: Index) -> bool:
    return any(row.control == Control.UNLEARNED and row.kind.startswith("latent-") for row in index.result.crr)


def _likelihood(index: Index) -> Table | None:
    lines = []
    for group in groups(index):
        row, cell = group.row, group.cell
        lines.append(
            (
                plain(cell.subject),
                group.is_a,
                defence_name(cell),
                plain(cell.scenario),
                count(row.latents),
                number(row.nll_median, 3),
                f"{number(row.nll_low, 3)}–{number(row.nll_high, 3)}",
                number(row.rms_median, 3),
                number(row.autocorr_median, 3),
            )
        )
    if not lines:
        return None
    columns = (
        Column("Class"),
        Column("Which is", minor=1),
        Column("Defence"),
        Column("Scenario"),
        Column("Latents", "number"),
        Column("NLL, median", "number"),
        Column("Middle 80 %", "number", minor=2),
        Column("RMS", "number", minor=3),
        Column("Autocorrelation", "number", minor=4),
    )
    return Table("Negative log-likelihood of inverted latents, in nats per dimension", columns, tuple(lines))


def _perturbed(index: Index) -> Table | None:
    rows = by_scenario(index.perturbed())
    lines = []
    for row in rows:
        default = index.undisturbed(row)
        lines.append(
            (
                plain(row.subject),
                defence_name(row),
                plain(row.scenario),
                perturbation_name(row),
                *index.instrument(row),
                three_counts(row),
                percent(row.rate),
                interval(row.ci_low, row.ci_high),
                percent(default.rate if default else None),
            )
        )
    if not lines:
        return None
    columns = (
        Column("Sought"),
        Column("Defence"),
        Column("Scenario", minor=1),
        Column("Perturbation"),
        *INSTRUMENT,
        Column(CASES, "number"),
        Column("CRR", "number"),
        Column(f"{index.confidence()} interval", "number", minor=2),
        Column("Undisturbed", "number"),
    )
    return Table("CRR after a perturbation", columns, tuple(lines), heads=2)
