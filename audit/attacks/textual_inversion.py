"""Textual inversion: an input embedding, learned until a model denoises pictures of the concept with it in the prompt.

Gal et al. 2022, arXiv 2208.01618, eq. 2, in the form of diffusers' examples/textual_inversion; through an erased model it
is Concept Inversion, Pham et al. 2023, arXiv 2308.01508:

    v* = argmin_v  E_{z0, eps, t, template} || eps - eps_theta(sqrt(abar_t) z0 + sqrt(1 - abar_t) eps, t, c(template(v))) ||^2

Only v moves (AdamW, weight decay on v as in the scripts), from the embedding of a neutral word. z0 is the mean of the
VAE's posterior, encoded once and mirrored at random. The loss is what the model does by itself: guards are not trained
through. Several learning rates are tried as rows of one batch, each on an embedding of its own, with the same draws; units
that differ only in their concept are rows of that batch too, where it has room. The attacker's best is the rate with the
lowest loss on held-out draws of noise and timestep; no audited case is looked at.
Where no rate comes below the initial word's loss, the attack has found nothing: its cases are unassessed, never clear.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from audit.attacks.embedding_learner import Learner, learn
from audit.attacks.parameters import BEST, TextualInversionParameters, candidate
from audit.attacks.protocol import Found, Row, Search
from audit.attacks.training_pictures import clean_latents
from audit.attacks.training_prompts import Prompts
from audit.corpus.images import ImageError
from audit.errors import CorpusError
from audit.records import Status
from audit.spec.templates import MARK
from audit.storage.errors import SourceUnavailable

ROUNDING = 1e-5  # relative; equal losses of float32 rows differ by less, however they are packed


def run(search: Search) -> Found:
    """Learn one embedding (n, D) per learning rate; return a row for each and the attacker's best of them.

    The search's companions are learned in the same loop, up to a checkpoint from which each continues in its own turn.
    """
    p = TextualInversionParameters.model_validate(search.parameters)
    texts = [template.replace(MARK, p.initial) for template in p.templates[:1]]
    # SPM scales itself by the prompt; while an embedding is learned it acts as on the neutral word.
    predict = search.models.noise_model(search.model, "float32", texts)
    prompts = Prompts(search.models.reader(search.model), p)

    learners, sessions = [], []
    for one in (search, *search.companions):
        try:
            latents = clean_latents(one)
        except SourceUnavailable:
            raise
        except CorpusError as error:
            if one is not search:
                continue  # said when it is its turn; it does not concern this unit
            status = Status.UNREADABLE if isinstance(error, ImageError) else Status.ERROR
            return Found([Row(item, status, error.what) for item in search.items])
        learners.append(Learner(prompts, predict, latents, p, one.seed, search.batch_size))
        sessions.append(one.session)
    learn(learners, sessions)
    return result_of(learners[0])


def result_of(learner: Learner) -> Found:
    """Return the rows and embeddings of a learner, with their losses on held-out noise."""
    vectors = [v.detach() for v in learner.vectors]
    before, *scores = learner.held_out([learner.prompts.initial, *vectors])
    calls = 3 * learner.p.iterations * learner.p.batch_size + learner.p.held_out
    rows, tensors = [], {}
    for rate, vector, score, losses in zip(
        learner.p.learning_rates, vectors, scores, zip(*learner.losses, strict=True), strict=True
    ):
        good = bool(torch.isfinite(vector).all()) and score - score == 0
        report = {
            "learning_rate": rate,
            "held_out_loss_initial": before if before - before == 0 else None,
            "training_loss_first": _mean(losses[: max(1, len(losses) // 10)]),
            "training_loss_last": _mean(losses[-max(1, len(losses) // 10) :]),
            "norm": float(vector.norm(dim=1).mean()) if good else None,
            "images": len(learner.latents),
        }
        status, error = (Status.OK, None) if good else (Status.DEGENERATE, "the embedding is not finite")
        if good:
            tensors[candidate(rate)] = vector.cpu()
        evaluations = learner.p.iterations * learner.p.batch_size
        rows.append(Row(candidate(rate), status, error, None, score if good else None, evaluations, calls, report))
    best = _best(rows, before, learner.p.initial)
    if best.status is Status.OK:
        tensors[BEST] = tensors[str(best.report["chosen"])].clone()
    return Found([best, *rows], tensors)


def _best(rows: Sequence[Row], before: float, initial: str) -> Row:
    """Return the attacker's best: the rate with the lowest held-out loss; not ok when none is below the initial word's."""
    good = [row for row in rows if row.status is Status.OK and row.score is not None]
    if not good:
        return Row(BEST, Status.DEGENERATE, "no learning rate gave a finite embedding")
    best = min(good, key=lambda row: row.score or 0.0)
    facts = {**best.report, "chosen": best.item}
    loss = best.score or 0.0
    if not loss < before * (1 - ROUNDING):  # also when `before` is not finite: nothing says that the attack acted
        error = (
            f"no learning rate helped: the lowest loss on held-out noise, {loss:.4f} of {best.item}, is no lower than with "
            f"the initial word {initial!r}, {before:.4f}; try other learning_rates, more iterations or more images"
        )
        return Row(BEST, Status.DEGENERATE, error, score=best.score, report=facts)
    summary = (
        f"attacker's best of {len(rows)} learning rates: {best.report['learning_rate']:g}, by the loss on held-out noise "
        f"({best.score:.4f}, {before:.4f} with the initial word)"
    )
    return Row(BEST, Status.OK, score=best.score, report={**facts, "summary": summary})


def _mean(values: Sequence[float]) -> float | None:
    mean = sum(values) / len(values)
    return mean if mean - mean == 0 else None
