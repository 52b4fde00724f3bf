"""Check prompt sets against the spec and its models. A row that a model cannot use costs that row, never the run."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from audit import erasers, guards
from audit.corpus import prompt_files
from audit.corpus.prompts import PromptRow, PromptSet, prompt_sources
from audit.diffusion.text import too_long
from audit.errors import SpecError
from audit.plan.preflight.guards import energy_problems
from audit.plan.preflight.irece import unseen
from audit.plan.preflight.network_shapes import least_cells, network_settings, pixels_of_a_cell
from audit.plan.resolved import Resolved, absent_digest
from audit.spec.content import pairing
from audit.spec.document import Spec
from audit.weights.families import FLUX_SIDE
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from transformers import CLIPTokenizer

log = logging.getLogger(__name__)
_SHOWN = 5  # unusable rows that a warning names; the plan names all
_NOT_READ = "(absent)"  # the prompt of each row of a file that is missing
_REFUSED = "it pairs minors with sexual content; such prompts are never sampled, and there is no override"


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The picture sizes that a backbone can sample.

    They depend on its own side, the multiple that sides must be of, and whether only squares work. `unseen(side)`
    returns why a guard cannot work on pictures of that side; None when all can.
    """

    side: int
    multiple: int
    square: bool
    unseen: Callable[[int], str | None]

    def problem(self, size: tuple[int, int]) -> str | None:
        """Return why pictures of `size` (width, height) cannot be sampled; None when they can."""
        pixels = f"{size[0]} x {size[1]} pixels"
        if any(side % self.multiple for side in size):
            return f"{pixels}: the backbone's sides are multiples of {self.multiple}"
        if max(size) > 2 * self.side:
            return f"{pixels} is more than twice the backbone's side of {self.side}"
        if self.square and size[0] != size[1]:
            return f"{pixels}: the spec's guards work on square pictures only"
        reason = self.unseen(size[0])
        return reason and f"{pixels}: {reason}"


def usable_prompt_sets(resolved: Resolved) -> dict[str, PromptSet]:
    """Return each scenario's prompt set, with a problem on every row that cannot be sampled.

    Where the backbone is missing, rows are returned as the file has them. The set of a missing file has as many rows as
    there are cases.
    """
    sets = {name: chosen for name, chosen in resolved.prompt_sets.items() if isinstance(chosen, PromptSet)}
    if isinstance(resolved.backbone, ModelRef):
        sets = {name: _judged(chosen, resolved, resolved.backbone) for name, chosen in sets.items()}
        for name, chosen in sets.items():
            _warn(name, chosen)
    cases: dict[str, int] = {scenario.name: scenario.cases for scenario in resolved.spec.scenarios}
    return {
        name: sets[name] if name in sets else _unread(str(source.file), cases[name])
        for name, source in prompt_sources(resolved.spec).items()
    }


def _unread(name: str, cases: int) -> PromptSet:
    rows = tuple(PromptRow(number, str(number), _NOT_READ, None, None, None, None) for number in range(cases))
    return PromptSet(Path(name).name, absent_digest(name), prompt_files.ROW_NUMBER, {}, rows)


def _judged(chosen: PromptSet, resolved: Resolved, backbone: ModelRef) -> PromptSet:
    """Return the set with the problems that the spec and its models have with its rows."""
    spec = resolved.spec
    texts = list(dict.fromkeys(row.prompt for row in chosen.rows if row.prompt is not None))
    problems = {
        prompt: f"its prompt has {used} tokens, and the backbone's text encoder reads {longest}"
        for prompt, (used, longest) in too_long(resolved.tokenizers.backbone(backbone), texts).items()
    }
    for (_, prompt), problem in energy_problems(resolved, texts).items():
        problems.setdefault(prompt, problem.replace(f"the prompt {prompt[:60]!r}", "its prompt"))
    pairs = pairing(spec.model_dump(mode="json", exclude={"gate"}))
    sizes = _sizes(spec, backbone)
    rows = (_without_minors(row) if pairs(_words(row)) else _checked(row, problems, sizes) for row in chosen.rows)
    return dataclasses.replace(chosen, rows=tuple(rows))


def unreadable_prompts(resolved: Resolved, backbone: ModelRef, prompts: Sequence[str]) -> dict[str, SpecError]:
    """Return the error of each prompt that is not read in full by the backbone's text encoder or by a guard's energy model.

    Raises `CheckpointError` for a tokenizer that cannot be used.
    """
    shorten = "shorten the template or the concept's phrase"
    unreadable = {
        prompt: SpecError(
            f"the prompt {prompt[:80]!r} has {used} tokens, and the backbone's text encoder reads {longest}",
            where="scenarios",
            next_step=shorten,
        )
        for prompt, (used, longest) in too_long(resolved.tokenizers.backbone(backbone), prompts).items()
    }
    for (defence, prompt), problem in energy_problems(resolved, prompts).items():
        shorter = SpecError(
            problem, where=f"defences.{defence}", next_step="shorten the template, or set retention to 0"
        )
        unreadable.setdefault(prompt, shorter)
    return unreadable


def check_phrases(resolved: Resolved, backbone: ModelRef) -> None:
    """Check that the backbone's tokenizer has tokens for every phrase that is audited or erased, and erasers' own words.

    Raises `SpecError` for a phrase that has no token or unknown ones, or that an eraser's file cannot hold: before the
    first concept is erased, not between the first and the second.
    """
    tokenizer, defences = resolved.tokenizers.backbone(backbone), resolved.spec.defences
    trained = {d.name: d.eraser for d in defences if d.eraser is not None and d.eraser.checkpoint is None}
    for number, concept in enumerate(resolved.spec.concepts):
        for eraser in trained.values():
            erasers.check_phrase(eraser.method, concept.phrase, f"concepts.{number}")
        for phrase in (concept.phrase, *concept.synonyms):
            # Erasers find a phrase by its tokens, so that one unknown token is one too many.
            _check_tokens(tokenizer, phrase, bool(trained), f"concepts.{number}")
    for name, eraser in trained.items():
        values = erasers.resolve_parameters(eraser, resolved.spec.backbone)
        for word in erasers.find(eraser.method).words:
            if str(values.get(word) or "").strip():
                _check_tokens(tokenizer, str(values[word]), True, f"defences.{name}.eraser.parameters.{word}")


def _check_tokens(tokenizer: CLIPTokenizer, phrase: str, strict: bool, where: str) -> None:
    """Return when a phrase has tokens, none of them unknown where `strict`; raises `SpecError` otherwise."""
    ids = tokenizer(phrase, add_special_tokens=False)["input_ids"]
    unknown = [token == tokenizer.unk_token_id for token in ids]
    if all(unknown) or (strict and any(unknown)):
        problem = "part of it is unknown to its vocabulary" if ids else "it falls into no token at all"
        raise SpecError(
            f"the text encoder has no tokens for the phrase {phrase!r}: {problem}",
            where=where,
            next_step="use words of the backbone's vocabulary",
        )


def _words(row: PromptRow) -> str:
    return f"{row.prompt or ''} {row.concept or ''}"


def _without_minors(row: PromptRow) -> PromptRow:
    """Return the row without its text, which must not be kept either."""
    return dataclasses.replace(row, prompt=None, problem=f"row {row.number}: {_REFUSED}")


def _checked(row: PromptRow, problems: Mapping[str, str], sizes: Sizes) -> PromptRow:
    own = None if row.size == (sizes.side, sizes.side) else row.size
    problem = row.prompt is not None and problems.get(row.prompt)
    problem = problem or (own and sizes.problem(own))
    if problem and row.problem is None:
        return dataclasses.replace(row, problem=f"row {row.number}: {problem}")
    return dataclasses.replace(row, size=own)


def _sizes(spec: Spec, backbone: ModelRef) -> Sizes:
    network, factor = network_settings(backbone), pixels_of_a_cell(backbone)
    return Sizes(
        side=int(network.get("sample_size", FLUX_SIDE)) * factor,
        multiple=factor * least_cells(network),
        square=any(guards.sampling(defence.guards) for defence in spec.defences),
        unseen=lambda side: unseen(spec, backbone, side // factor),
    )


def _warn(scenario: str, chosen: PromptSet) -> None:
    bad = [row.problem for row in chosen.rows if row.problem]
    if bad:
        more = f"; and {len(bad) - _SHOWN} more, all in the plan" if len(bad) > _SHOWN else ""
        log.warning(
            "scenario %s: %d of %d rows of %s cannot be used and stay unassessed: %s%s",
            scenario, len(bad), len(chosen.rows), chosen.name, "; ".join(bad[:_SHOWN]), more,
        )  # fmt: skip
