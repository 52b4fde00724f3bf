"""UnlearnDiffAtk: tokens before a prompt, found through the erased network's own noise-prediction loss; white box.

Zhang et al. 2023, "To Generate or Not? Safety-Driven Unlearned Diffusion Models Are Still Easy To Generate Unsafe Images",
arXiv 2310.11868. For a target picture z0 and a prompt c' with K searched tokens before it:

    c* = argmin over c'  E_{t, eps} || eps - eps_theta*(x_t, t, c') ||^2        theta* are the erased weights

No classifier and no other diffusion model takes part. Timesteps are taken one after another, each for several iterations.

Differences from the official code: gradient steps are signed ones on embeddings, projected to the nearest token, where it
relaxes one-hot vectors over the whole vocabulary; the best tokens are those with the lowest loss on held-out draws, read
as text, and no audited picture is looked at, where it draws a picture after each timestep and stops at the first success;
targets are pictures of the corpus.

Its control is in the same unit: as many random tokens in the same places, for the same model.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from audit import identity
from audit.attacks.parameters import RANDOM, UnlearnDiffAtkParameters
from audit.attacks.protocol import Found, Row, Search
from audit.attacks.token_search import TokenPrompt, TokenSearch, prefixed
from audit.corpus.images import ImageError, to_model_input
from audit.errors import AuditError, CorpusError
from audit.progress import Checkpoint
from audit.records import Status
from audit.spec.content import pairing
from audit.spec.templates import PHRASE
from audit.storage.errors import SourceUnavailable

log = logging.getLogger(__name__)


def run(search: Search) -> Found:
    """Search tokens for each item, and draw random ones for each control; a failed item keeps its row, with the reason."""
    rows = []
    for item in search.items:
        try:
            rows.append(_row(search, item))
        except SourceUnavailable:
            raise
        except CorpusError as error:
            rows.append(Row(item, Status.UNREADABLE if isinstance(error, ImageError) else Status.ERROR, error.what))
        except AuditError:
            raise  # about the models or the storage as a whole, not about this search
        except Exception as error:
            log.warning("the search for %s failed: %s: %s", item, type(error).__name__, error)
            first = (str(error) or "no message").splitlines()[0]
            rows.append(Row(item, Status.ERROR, f"{type(error).__name__}: {first}"[:500]))
    return Found(rows)


def search_of(search: Search, item: str) -> TokenSearch:
    """Return the search of one item at its beginning; the control `random-N` begins as `prompt-N` does."""
    p = UnlearnDiffAtkParameters.model_validate(search.parameters)
    number = int(item.rpartition("-")[2])
    reader, text = search.models.reader(search.model), p.prompt.replace(PHRASE, search.concept.phrase)
    pixels = to_model_input(search.read_item(search.images[number % len(search.images)]), reader.resolution)
    latents = search.models.pipeline.encode_images(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    return TokenSearch(
        TokenPrompt(reader, prefixed(reader, text, p.tokens), text),
        search.models.noise_model(search.model, "float32", [text]),
        latents,
        identity.int_key({"seed": search.seed, "number": number}),
        timesteps=p.timesteps,
        iterations=p.iterations,
        learning_rate=p.learning_rate,
        held_out=p.held_out,
    )


def _row(search: Search, item: str) -> Row:
    refused = pairing(search.concept.model_dump(mode="json"))
    one = search_of(search, item)

    def usable(text: str) -> bool:
        return bool(text) and not refused(text) and _read_whole(one, text)

    if item.startswith(RANDOM):
        return _random(one, item, usable)
    checkpoint = Checkpoint(search.session, f"{item}.search", "the search")
    checkpoint.restored(lambda path: one.restore(path.read_bytes()))
    if not one.done:
        one.check(usable)
        one.first = one.best.loss
    listener, stage = search.session.listener, f"unlearndiffatk {item}"
    listener.begin(stage, one.total, one.done)
    while one.done < one.total:
        one.step()
        if one.done % one.iterations == 0:
            one.check(usable)
        listener.update(stage, one.done)
        if checkpoint.due():
            checkpoint.save(lambda path: path.write_bytes(one.dump()))
    listener.end(stage)
    checkpoint.remove()
    calls = 3 * one.total + (one.timesteps + 1) * one.held
    if not one.best.tokens:
        return Row(item, Status.DEGENERATE, "no tokens of the search can be written as a prompt", unet_calls=calls)
    report = {  # without the prompt, which may be explicit: reports show the summary
        "summary": f"{len(one.best.tokens)} tokens at held-out loss {one.best.loss:.4f} after {one.total} steps",
        "held_out_loss": {"start": one.first if one.first - one.first == 0 else None, "end": one.best.loss},
        "tokens": len(one.best.tokens),
    }
    text = one.prompt.text(one.best.tokens)
    return Row(item, Status.OK, None, text, one.best.loss, one.total, calls, report)


def _random(one: TokenSearch, item: str, usable: Callable[[str], bool]) -> Row:
    """Return the row of a control: random tokens, drawn until they can be written as a prompt."""
    generator = one.generator("control", 0)
    texts = (one.prompt.text(one.prompt.random(generator)) for _ in range(100))
    text = next(filter(usable, texts), None)
    if text is None:
        return Row(item, Status.DEGENERATE, "no random tokens can be written as a prompt")
    loss = one.held_out(text)
    summary = f"random tokens at held-out loss {loss:.4f}"
    report = {"summary": summary, "tokens": len(one.prompt.slots.places), "control": "random-tokens"}
    return Row(item, Status.OK, None, text, loss, 1, one.held, report)


def _read_whole(one: TokenSearch, text: str) -> bool:
    """Return whether the text, read again, fits every text encoder and holds no special token inside."""
    for clip in one.prompt.clips:
        ids = clip.tokenizer(text)["input_ids"]
        if len(ids) > int(clip.tokenizer.model_max_length) or set(clip.tokenizer.all_special_ids) & set(ids[1:-1]):
            return False
    return True
