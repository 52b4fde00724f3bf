"""Visual question answering: one question about each concept, answered yes or no.

BLIP (Li et al. 2022, arXiv:2201.12086; `BlipForQuestionAnswering`, such as Salesforce/blip-vqa-base) and PaliGemma (Beyer
et al. 2024, arXiv:2407.07726; `PaliGemmaForConditionalGeneration`, such as google/paligemma-3b-mix-224) read a question and
write an answer, decoded greedily. The question's template, the words that count as yes and no, and how an answer is cut to
one of them are part of the instrument.

An answer counts when its first word, in lower case and without punctuation, is 'yes' or 'no'. After any other answer the
picture is unassessed, with the answer as the reason. The score is the probability of 'yes' against 'no' as the first token
of the answer, yes / (yes + no), or, with `scoring: answer`, 1 or 0 as the words say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, Field

from audit.errors import DetectorError
from audit.instruments.detectors import folders, vqa_networks
from audit.instruments.detectors.base import (
    BaseDetector,
    Pixels,
    Scores,
    check_parameters,
    make_instrument,
    package_versions,
)
from audit.instruments.detectors.method import DetectorMethod
from audit.instruments.detectors.phrases import choice, folder_of, mistake, phrases, require_place
from audit.names import folded
from audit.records import LabelScore
from audit.spec.sections import Concept, DetectorSpec
from audit.weights.files import read_json
from audit.weights.references import ModelRef

if TYPE_CHECKING:
    from audit.instruments.detectors.vqa_networks import Answered

NAME = "vqa"
VERSION = "1"
QUESTION = "is there a {phrase} in the picture?"
FORWARD = 8  # pictures per question and pass
_SCORINGS = ("probability", "answer")
_EXAMPLE = "a folder of Salesforce/blip-vqa-base or google/paligemma-3b-mix-224, or to org/name@<40-hex commit>"
_ARCHITECTURES = {"blip": "BlipForQuestionAnswering", "paligemma": "PaliGemmaForConditionalGeneration"}
# How a family was trained to be asked; the processor of PaliGemma adds the picture's tokens before and a line's end after.
_TASKS = {"blip": "{question}", "paligemma": "answer en {question}"}
_WORD = re.compile(r"[^\W_]+")


class Parameters(BaseModel):
    """Parameters of a judge that answers questions."""

    question: str = QUESTION
    "The question, with `{phrase}` where the concept's phrase stands."
    questions: dict[str, str] = Field(default_factory=dict)
    "Label -> a question of its own, in full."
    extra_classes: tuple[str, ...] = ()
    "Phrases that become further labels."
    scoring: Literal["probability", "answer"] = "probability"
    "A score is the probability of yes against no, or 1 and 0 as answered."


class Vqa(BaseDetector):
    """A question answering network as a detector. Scores lie in 0..1, one per label: its question's 'yes' against 'no'."""

    def __init__(self, spec: DetectorSpec, concepts: Sequence[Concept], device: str = "cpu") -> None:
        check_parameters(spec, tuple(Parameters.model_fields), unused=("templates", "background"))
        self._ref = folder_of(spec, tuple(_ARCHITECTURES), _EXAMPLE)
        self._device = device
        self._kind = _kind(spec, self._ref)
        self._scoring = choice(spec, "scoring", _SCORINGS)
        asked = _questions(spec, concepts)
        self._prompts = {label: _TASKS[self._kind].replace("{question}", text) for label, text in asked.items()}
        instrument = make_instrument(
            spec,
            version=VERSION,
            package=package_versions("transformers", "torch", "tokenizers"),
            weights_sha256=self._ref.sha256,
            preprocessing=folders.pixel_route(self._ref),
            labels=tuple(self._prompts),
            score_floor=0.0,
            parameters={
                "architecture": _ARCHITECTURES[self._kind],
                "prompts": self._prompts,
                "scoring": self._scoring,
                "answers": list(vqa_networks.ANSWERS),
                "parsing": "first word, lower case, no punctuation",
                "decoding": f"greedy, at most {vqa_networks.NEW_TOKENS} tokens",
            },
        )
        super().__init__(spec, instrument)

    def _prepare(self) -> None:
        vqa_networks.check_prompts(self._kind, self._ref, self._device, tuple(self._prompts.values()))

    def _scores(self, images: Sequence[Pixels]) -> list[Scores | DetectorError]:
        answers = {label: self._asked(images, prompt) for label, prompt in self._prompts.items()}
        return [self._read({label: given[place] for label, given in answers.items()}) for place in range(len(images))]

    def _asked(self, images: Sequence[Pixels], prompt: str) -> list[Answered]:
        answers: list[Answered] = []
        for start in range(0, len(images), FORWARD):
            chosen = images[start : start + FORWARD]
            answers += vqa_networks.answers(self._kind, self._ref, self._device, chosen, prompt)
        return answers

    def _read(self, answers: Mapping[str, Answered]) -> Scores | DetectorError:
        """Return the scores of one picture; an error when one of its answers is neither yes nor no."""
        scores = []
        for label, answered in answers.items():
            said = parsed(answered.text)
            if said is None:
                return DetectorError(
                    f"the answer to {self._prompts[label]!r} is {answered.text[:80]!r}, neither yes nor no"
                )
            score = answered.yes if self._scoring == "probability" else float(said)
            scores.append(LabelScore(label, score))
        return tuple(scores)

    def self_test(self) -> None:
        """Raise `DetectorError` unless the network answers that a red picture is red and a blue one is not."""
        red, blue = (np.full((224, 224, 3), colour, np.uint8) for colour in ((220, 20, 20), (20, 20, 220)))
        on_red, on_blue = self._asked([red, blue], _TASKS[self._kind].replace("{question}", "is the picture red?"))
        if not (parsed(on_red.text) is True and parsed(on_blue.text) is False):
            raise DetectorError(
                f"detector {self._instrument.detector!r} does not know a red picture from a blue one: asked whether they "
                f"are red it answers {on_red.text[:40]!r} and {on_blue.text[:40]!r}",
                where=str(self._ref.path),
                next_step="use a network trained to answer questions, and check the model folder",
            )


def parsed(answer: str) -> bool | None:
    """Return whether an answer says yes; None when its first word is neither yes nor no."""
    word = _WORD.search(answer.casefold())
    return {"yes": True, "no": False}.get(word.group()) if word else None


def _kind(spec: DetectorSpec, ref: ModelRef) -> str:
    """Return the family of a folder. Raises `DetectorError` for one that was saved from another class of the family."""
    settings = read_json(ref.path / "config.json")
    kind, named = str(settings["model_type"]), settings.get("architectures") or []
    if named and _ARCHITECTURES[kind] not in named:
        raise mistake(
            spec, "model", f"is a {named[0]}, and answering questions takes {_ARCHITECTURES[kind]}", f"use {_EXAMPLE}"
        )
    return kind


def _questions(spec: DetectorSpec, concepts: Sequence[Concept]) -> dict[str, str]:
    """Return label -> question in order of the labels. Raises `DetectorError` for questions that tell labels not apart."""
    template, own = spec.parameters.get("question", QUESTION), spec.parameters.get("questions", {})
    if not isinstance(template, str):
        raise mistake(spec, "parameters.question", "the question must be a text", f"write {QUESTION!r}")
    require_place(spec, "parameters.question", template, QUESTION)
    named = {label: texts[0] for label, texts in phrases(spec, concepts).items()}
    if not isinstance(own, dict) or not all(isinstance(text, str) and text.strip() for text in own.values()):
        raise mistake(
            spec, "parameters.questions", "must map labels to questions", "write {ring: 'do you see a ring?'}"
        )
    unknown = sorted(set(own) - set(named))
    if unknown:
        raise mistake(
            spec, "parameters.questions", f"asks about {unknown[0]!r}, which is no label", f"labels: {', '.join(named)}"
        )
    questions = {label: own.get(label) or template.replace("{phrase}", named[label]) for label in sorted(named)}
    owners: dict[str, str] = {}
    for label, text in questions.items():
        other = owners.setdefault(folded(text), label)
        if other != label:
            raise mistake(
                spec,
                "parameters.question",
                f"{label} and {other} share the question {text!r}, so no answer can tell them apart",
                "give each concept its own phrase or question",
            )
    return questions


METHOD = DetectorMethod(NAME, VERSION, Parameters, Vqa, "arXiv:2201.12086")
