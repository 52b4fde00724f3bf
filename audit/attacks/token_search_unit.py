"""One unit of a search for tokens: the search of each item, and as many random tokens in the same places.

The best tokens are those with the lowest loss, read as text. No audited picture is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from audit.attacks.prompt_search import PromptSearch
from audit.attacks.protocol import Found, Row, Search, failed
from audit.attacks.token_search_parameters import RANDOM, TokenSearchParameters
from audit.corpus.images import ImageError, to_model_input
from audit.diffusion.pipeline import Pipeline
from audit.errors import AuditError, CorpusError
from audit.progress import Checkpoint
from audit.records import Status
from audit.spec.content import pairing
from audit.storage.errors import SourceUnavailable

# Gives the search of a number, at its beginning; `random-N` begins as `prompt-N`.
Begin = Callable[[Search, int], PromptSearch]


def run_searches(search: Search, parameters: TokenSearchParameters, begin: Begin) -> Found:
    """Search tokens for each item, and draw random ones for each control; a failed item keeps its row, with the reason."""
    rows = []
    for item in search.items:
        try:
            rows.append(_row(search, item, parameters, begin))
        except SourceUnavailable:
            raise
        except CorpusError as error:
            rows.append(Row(item, Status.UNREADABLE if isinstance(error, ImageError) else Status.ERROR, error.what))
        except AuditError:
            raise  # about the models or the storage as a whole, not about this search
        except Exception as error:
            rows.append(failed(item, error))
    return Found(rows)


def picture_latents(search: Search, number: int, reader: Pipeline) -> torch.Tensor:
    """Return the clean latents (1, C, h, w) of the picture of the corpus that a search has as its target."""
    pixels = to_model_input(search.read_item(search.images[number % len(search.images)]), reader.resolution)
    return search.models.pipeline.encode_images(torch.from_numpy(pixels).permute(2, 0, 1)[None])


def _row(search: Search, item: str, parameters: TokenSearchParameters, begin: Begin) -> Row:
    refused = pairing(search.concept.model_dump(mode="json"))
    one = begin(search, int(item.rpartition("-")[2]))

    def usable(text: str) -> bool:
        return one.prompt.usable(text) and not refused(text)

    if item.startswith(RANDOM):
        return _random(one, item, usable, int(parameters.control_calls()))
    _search(search, item, one, usable)
    calls = int(parameters.search_calls())
    if not one.best.tokens:
        return Row(item, Status.DEGENERATE, "no tokens of the search can be written as a prompt", unet_calls=calls)
    first = one.first if math.isfinite(one.first) else None
    report = {  # without the prompt, which may be explicit: reports show the summary
        "summary": f"{len(one.best.tokens)} tokens at {one.measure} {one.best.loss:.4f} after {one.total} steps",
        one.measure.replace("-", "_").replace(" ", "_"): {"start": first, "end": one.best.loss},
        "tokens": len(one.best.tokens),
    }
    text = one.prompt.text(one.best.tokens)
    return Row(item, Status.OK, None, text, one.best.loss, one.evaluations, calls, report)


def _search(search: Search, item: str, one: PromptSearch, usable: Callable[[str], bool]) -> None:
    """Take all steps that are left, with a check after every so many and one at the end."""
    checkpoint = Checkpoint(search.session, f"{item}.search", "the search")
    checkpoint.restored(lambda path: one.restore(path.read_bytes()))
    if not one.done:
        one.check(usable)
        one.first = one.best.loss
    listener, stage = search.session.listener, f"{item} of {search.concept.name}"
    listener.begin(stage, one.total, one.done)
    while one.done < one.total:
        one.step()
        if one.done % one.check_every == 0 or one.done == one.total:
            one.check(usable)
        listener.update(stage, one.done)
        if checkpoint.due():
            checkpoint.save(lambda path: path.write_bytes(one.dump()))
    listener.end(stage)
    checkpoint.remove()


def _random(one: PromptSearch, item: str, usable: Callable[[str], bool], calls: int) -> Row:
    """Return the row of a control: random tokens, drawn until they can be written as a prompt."""
    generator = one.generator("control", 0)
    texts = (one.prompt.text(one.prompt.random(generator)) for _ in range(100))
    text = next(filter(usable, texts), None)
    if text is None:
        return Row(item, Status.DEGENERATE, "no random tokens can be written as a prompt")
    loss = one.loss_of(text)
    summary = f"random tokens at {one.measure} {loss:.4f}"
    report = {"summary": summary, "tokens": len(one.prompt.slots.places), "control": "random-tokens"}
    return Row(item, Status.OK, None, text, loss, 1, calls, report)
