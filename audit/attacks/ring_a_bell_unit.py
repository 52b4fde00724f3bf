"""One unit of Ring-A-Bell: searches in the backbone's text encoder, and their results as text that a user can type.

The control of a search is a draw of as many random tokens, as the search begins with a population of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from audit import identity
from audit.attacks import ring_a_bell
from audit.attacks.parameters import RingABellParameters
from audit.attacks.protocol import Found, Row, Search, failed
from audit.attacks.ring_a_bell import Encode, Space, State
from audit.attacks.token_search_parameters import RANDOM
from audit.diffusion.pipeline import Pipeline
from audit.errors import AuditError
from audit.progress import Checkpoint
from audit.records import Status
from audit.spec.content import pairing

RANDOM_DRAWS = 100  # until the tokens can be written as a prompt


def run(search: Search) -> Found:
    """Search a prompt for each item, and draw random tokens for each control; a failed item keeps its row, with the reason."""
    rows = []
    for item in search.items:
        try:
            rows.append(_row(search, item))
        except AuditError:
            raise  # about the models or the storage as a whole, not about this search
        except Exception as error:
            rows.append(failed(item, error))
    return Found(rows)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """A prompt as text, with the fitness of that text and how many tokens it has between start and end."""

    text: str
    fitness: float
    tokens: int


def _row(search: Search, item: str) -> Row:
    parameters = RingABellParameters.model_validate(search.parameters)
    concept, pipeline = search.concept, search.models.pipeline
    space, encode = space_of(pipeline, parameters.tokens, parameters.first_id), encoder_of(pipeline)
    target = target_of(pipeline, parameters, concept.phrase)
    seed = identity.int_key({"seed": search.seed, "item": item})
    pairs = pairing(concept.model_dump(mode="json"))
    if item.startswith(RANDOM):
        return _random(item, pipeline, encode, target, space, seed, pairs)
    checkpoint = Checkpoint(search.session, f"{item}.search", "the search")

    def save(state: State) -> None:
        if checkpoint.due():
            checkpoint.save(lambda path: path.write_bytes(state.dump()))

    restored = checkpoint.restored(lambda path: State.load(path.read_bytes()))
    state = ring_a_bell.search(
        encode, target, space, parameters, seed, batch_size=search.batch_size, state=restored, save=save
    )
    checkpoint.remove()
    best = best_prompt(pipeline, encode, target, state, pairs, search.batch_size, answers=parameters.answers)
    if best is None:
        return Row(item, Status.DEGENERATE, "no survivor of the search can be written as a prompt")
    report = {  # without the prompt, which may be explicit: reports show the summary
        "summary": f"{best.tokens} tokens at distance {best.fitness:.1f} after {state.evaluations} evaluations",
        "distance": {"start": state.history[0], "end": state.history[-1], "text": best.fitness},
        "generations": len(state.history),
        "tokens": best.tokens,
    }
    return Row(item, Status.OK, None, best.text, best.fitness, state.evaluations, 0, report)


def _random(
    item: str,
    pipeline: Pipeline,
    encode: Encode,
    target: torch.Tensor,
    space: Space,
    seed: int,
    refused: Callable[[str], bool],
) -> Row:
    """Return the row of a control: random tokens, drawn until they can be written as a prompt."""
    genes = space.random(RANDOM_DRAWS, torch.Generator().manual_seed(seed))
    text, ids = next(iter(_read(pipeline, genes.tolist(), refused).items()), ("", []))
    if not text:
        return Row(item, Status.DEGENERATE, "no random tokens can be written as a prompt")
    (distance,) = ring_a_bell.fitness(encode, _padded(pipeline, [ids]), target, 1).tolist()
    if not math.isfinite(distance):
        return Row(item, Status.DEGENERATE, "the text encoder gives no numbers for random tokens", evaluations=1)
    report = {
        "summary": f"{len(ids) - 2} random tokens at distance {distance:.1f}",
        "tokens": len(ids) - 2,
        "control": "random-tokens",
    }
    return Row(item, Status.OK, None, text, distance, 1, 0, report)


def space_of(pipeline: Pipeline, tokens: int, first_id: int = 0) -> Space:
    """Return the space of all ids of the tokenizer from `first_id` on, but for its special ones."""
    tokenizer = pipeline.tokenizer
    special = {*tokenizer.all_special_ids, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    allowed = [i for i in range(first_id, len(tokenizer)) if i not in special]
    return Space(
        torch.tensor(allowed),
        tokenizer.bos_token_id,
        tokenizer.eos_token_id,
        tokenizer.pad_token_id,
        int(tokenizer.model_max_length),
        tokens,
    )


def encoder_of(pipeline: Pipeline) -> Encode:
    """Return the backbone's first text encoder as a function of token ids (B, L)."""

    def encode(ids: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = pipeline.text_encoder(ids.to(pipeline.device)).last_hidden_state
        return states

    return encode


def target_of(pipeline: Pipeline, parameters: RingABellParameters, phrase: str) -> torch.Tensor:
    """Return the states (L, D) that the search comes close to."""
    first, *pairs = parameters.first_texts(phrase)
    vector = ring_a_bell.concept_vector(pipeline.first_states(pairs[::2]), pipeline.first_states(pairs[1::2]))
    return ring_a_bell.target_states(pipeline.first_states([first])[0], vector, parameters.eta)


def best_prompt(
    pipeline: Pipeline,
    encode: Encode,
    target: torch.Tensor,
    state: State,
    refused: Callable[[str], bool],
    batch_size: int = 64,
    *,
    answers: int = 32,
) -> Prompt | None:
    """Return the best survivor, as text, of the first `answers`; None when none can be written.

    Tokens rarely survive being written and read again, so the fitness of the text is measured. Texts that the encoder cannot
    read whole, or that pair minors with sexual content (`refused`), are left out.
    """
    finite = state.genes[torch.isfinite(state.fitness)][:answers].tolist()
    read = _read(pipeline, finite, refused)
    if not read:
        return None
    scores = ring_a_bell.fitness(encode, _padded(pipeline, [*read.values()]), target, batch_size).tolist()
    score, text = min(zip(scores, read, strict=True))
    return Prompt(text, score, len(read[text]) - 2) if math.isfinite(score) else None


def _read(pipeline: Pipeline, found: Sequence[list[int]], refused: Callable[[str], bool]) -> dict[str, list[int]]:
    """Return the texts that tokens can be written as, in their order, with the ids that these are read as."""
    tokenizer, special = pipeline.tokenizer, set(pipeline.tokenizer.all_special_ids)
    texts = dict.fromkeys(tokenizer.decode(genes, skip_special_tokens=True).strip() for genes in found)
    read = {text: tokenizer(text)["input_ids"] for text in texts if text and not refused(text)}
    length = int(tokenizer.model_max_length)
    return {text: ids for text, ids in read.items() if len(ids) <= length and not special & set(ids[1:-1])}


def _padded(pipeline: Pipeline, read: Sequence[list[int]]) -> torch.Tensor:
    """Return token ids (B, L) as the text encoder reads them."""
    length, pad = int(pipeline.tokenizer.model_max_length), pipeline.tokenizer.pad_token_id
    return torch.tensor([ids + [pad] * (length - len(ids)) for ids in read])
