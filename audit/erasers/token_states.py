"""The states of prompts that closed forms edit, as the network of each family reads them.

A network reads one sequence of states for each text encoder: of Stable Diffusion 1.x and 2.x CLIP's, of SDXL those of two
CLIPs side by side, of Stable Diffusion 3 CLIP's and then T5's, of Flux T5's. Pooled text embeddings go in beside them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers.phrases import Prompt, prompts, word_positions
from audit.erasers.uce_parameters import EditParameters
from audit.errors import SpecError
from audit.spec.sections import Concept

if TYPE_CHECKING:
    from transformers import T5TokenizerFast


@dataclasses.dataclass(frozen=True)
class Edit:
    """States of one edit: `erase` (n, D) is mapped to the old matrix's output for `guide` (n, D); `preserve` (m, D) stays."""

    erase: torch.Tensor
    guide: torch.Tensor
    preserve: torch.Tensor


def token_states(
    pipeline: Pipeline, concepts: Sequence[Concept], options: EditParameters
) -> tuple[tuple[str, ...], Edit]:
    """Return the prompts that are erased, and the states of the edit, those of their tokens.

    A concept that is erased itself is never preserved as another one's neighbour.
    """
    erased, neighbours = _prompts(pipeline, concepts, options)
    reading = sequences(pipeline)
    # Tails start at the last word, so that end token meets end token; what one has beyond the other is left out.
    rows, guides = list[torch.Tensor](), list[torch.Tensor]()
    for prompt in erased:
        text = _guide(prompt, options)
        states = states_of(pipeline, [text])[0]
        for sequence in reading:
            old = sequence.edited(pipeline, prompt.states[0].cpu(), prompt.text, prompt.phrase, options.tokens)
            new = sequence.edited(pipeline, states, text, text, options.tokens)
            rows.append(old[: len(new)])
            guides.append(new[: len(old)])
    if options.tokens == "last":
        preserve = [
            sequence.edited(pipeline, prompt.states[0].cpu(), prompt.text, prompt.phrase, "last")
            for prompt in neighbours
            for sequence in reading
        ]
    else:  # whole sequences, and always the null prompt's, which the unconditional half of every guided step reads
        preserve = [states_of(pipeline, [""])[0], *(without_pooled(pipeline, p.states)[0] for p in neighbours)]
    return tuple(prompt.text for prompt in erased), Edit(torch.cat(rows), torch.cat(guides), _joined(preserve, rows))


def pooled_states(pipeline: Pipeline, concepts: Sequence[Concept], options: EditParameters, width: int) -> Edit:
    """Return the pooled embeddings of the same prompts, of which a network reads the first `width` columns."""
    erased, neighbours = _prompts(pipeline, concepts, options)

    def pooled(states: torch.Tensor) -> torch.Tensor:
        return states[:, -1, :width].cpu()

    reader = _reader(pipeline)
    rows = [pooled(prompt.states) for prompt in erased]
    guides = [pooled(reader.encode_text([_guide(prompt, options)])) for prompt in erased]
    preserve = [pooled(prompt.states) for prompt in neighbours]
    if options.tokens != "last":
        preserve.append(pooled(reader.encode_text([""])))
    return Edit(torch.cat(rows), torch.cat(guides), _joined(preserve, rows))


def states_of(pipeline: Pipeline, texts: Sequence[str]) -> torch.Tensor:
    """Return every position's state (B, L, D) of texts, on the CPU. Of SDXL, the empty text too is what its encoders read."""
    return without_pooled(pipeline, _reader(pipeline).encode_text(texts))


def without_pooled(pipeline: Pipeline, states: torch.Tensor) -> torch.Tensor:
    """Return the states (B, L, D) of conditioning, on the CPU: all but the row of pooled embeddings, where there is one."""
    return states[:, : sequences(pipeline)[-1].positions.stop].cpu()


def preserved(concepts: Sequence[Concept], wanted: bool) -> dict[str, Concept]:
    """Return the neighbours of the concepts by name, each once, without those that are erased; none where none is `wanted`."""
    if not wanted:
        return {}
    phrases = {name: concept.phrase_of(name) for concept in concepts for name in concept.neighbours}
    gone = {concept.name for concept in concepts}
    return {name: Concept(name=name, phrase=phrase) for name, phrase in phrases.items() if name not in gone}


@dataclasses.dataclass(frozen=True)
class Stretch:
    """The positions of one text encoder's states; `t5` is its tokenizer where it is no CLIP."""

    positions: slice
    t5: T5TokenizerFast | None = None

    def edited(self, pipeline: Pipeline, states: torch.Tensor, text: str, phrase: str, tokens: str) -> torch.Tensor:
        """Return the states (n, D) of the phrase's last token in `text`, or of it and every later position.

        The null prompt has no word: its first position stands for it, or its whole sequence.
        """
        own = states[self.positions]
        if not text.strip():
            return own[:1] if tokens == "last" else own
        if self.t5 is None:
            last = word_positions(pipeline, text, phrase).stop - 1
        else:
            last = _last_piece(self.t5, text, phrase)
        return own[last : last + 1] if tokens == "last" else own[last:]


def sequences(pipeline: Pipeline) -> tuple[Stretch, ...]:
    """Return the sequences that the network reads, in their order; one of a T5 that is missing is left out."""
    t5 = pipeline.t5
    if pipeline.family == "flux" and t5 is not None:
        return (Stretch(slice(0, t5.length), t5.tokenizer),)
    length = int(pipeline.tokenizer.model_max_length)
    first = Stretch(slice(0, length))
    if t5 is None or t5.encoder is None:
        return (first,)
    return first, Stretch(slice(length, length + t5.length), t5.tokenizer)


def _last_piece(tokenizer: T5TokenizerFast, text: str, phrase: str) -> int:
    """Return the number of the T5 piece that holds the last character of the phrase's last occurrence in `text`."""
    end = text.rindex(phrase.strip()) + len(phrase.strip())
    places = tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
    # The piece that begins a word may claim the word's first letter too: the later one holds it.
    last = max((number for number, (begin, stop) in enumerate(places) if begin < end <= stop), default=None)
    if last is None or text[end : places[last][1]].strip():
        raise SpecError(
            f"the phrase {phrase!r} melts into other words in {text!r} for T5",
            where="templates",
            next_step="separate {phrase} from the words around it with spaces",
        )
    return last


def _prompts(
    pipeline: Pipeline, concepts: Sequence[Concept], options: EditParameters
) -> tuple[tuple[Prompt, ...], tuple[Prompt, ...]]:
    """Return the prompts that are erased, and those that are preserved."""
    templates = tuple(dict.fromkeys(("{phrase}", *options.templates)))
    erased = prompts(pipeline, concepts, templates, options.synonyms)
    kept = list(preserved(concepts, options.preserves).values())
    wrapping = templates if options.wrap_preserved else ("{phrase}",)
    return erased, prompts(pipeline, kept, wrapping, False) if kept else ()


def _guide(erased: Prompt, options: EditParameters) -> str:
    """Return the text that an erased prompt is mapped to: the guide, in its template or alone."""
    return erased.template.replace("{phrase}", options.guide) if options.wrap_guide else options.guide


def _reader(pipeline: Pipeline) -> Pipeline:
    return dataclasses.replace(pipeline, null_is_zero=False)


def _joined(preserve: Sequence[torch.Tensor], rows: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(preserve)) if preserve else torch.empty(0, rows[0].shape[1])
