"""Parameters of the prompt filter, and the filter as a guard. Imports no torch."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from audit.errors import AbsentFile
from audit.files import ForeignError, read_bounded
from audit.filters.parameters import FilterParameters, mistake
from audit.filters.words import word_list
from audit.guards.parameters import GuardMethod, Text
from audit.methods.parameters import Values
from audit.spec.base import Probability
from audit.spec.sections import Concept
from audit.weights.files import read_json
from audit.weights.references import ModelRef

_MAX_BYTES = 1_000_000


class PromptFilterParameters(FilterParameters):
    """What a prompt is blocked for: a word of a list, or the verdict of a text classifier."""

    words: tuple[Text, ...] | None = None
    "Words and phrases that block a prompt which has one of them as whole words; case and Unicode forms do not count."
    words_file: str | None = Field(None, min_length=1)
    "A text file with one word or phrase a line instead; lines that start with # are comments. It counts by its content."
    classifier: str | None = Field(None, min_length=1)
    "A text classifier instead: a folder or org/name@<40-hex commit> of transformers' sequence classification."
    label: str | None = Field(None, min_length=1)
    "The classifier's label that blocks."
    threshold: Probability = 0.5
    "Least probability of the label that blocks."

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        ways = [name for name in ("words", "words_file", "classifier") if getattr(self, name) is not None]
        if len(ways) != 1:
            named = " and ".join(ways) or "nothing"
            raise ValueError(f"give one of words, words_file and classifier, and not {named}")
        if self.words is not None and not word_list(self.words):
            raise ValueError("the word list is empty, so it would block nothing; list words in Latin or other letters")
        if (self.classifier is None) != (self.label is None):
            raise ValueError("classifier and label belong together: name the label that blocks")
        return self

    def resolved(self, concept: Concept) -> Values:
        """Return the words as they are compared, or the classifier's label and threshold."""
        if self.classifier is not None:
            return {"label": self.label, "threshold": self.threshold}
        if self.words is not None:
            return {"words": list(word_list(self.words))}
        try:
            data = read_bounded(Path(str(self.words_file)).expanduser(), _MAX_BYTES)
            return {"words": list(word_list(_lines(data))), "words_sha256": hashlib.sha256(data).hexdigest()}
        except (OSError, ForeignError):  # `check` tells it; such a plan is never stored
            return {"words": [], "words_sha256": "absent"}

    def models(self) -> dict[str, str]:
        """Return the classifier by its role."""
        return {"classifier": self.classifier} if self.classifier is not None else {}

    def check(self, models: Mapping[str, ModelRef], concepts: Sequence[Concept], where: str) -> None:
        """Check that the word file has words, and that the classifier is one and has the label."""
        if self.words_file is not None:
            self._check_file(where)
        if "classifier" in models:
            labels = labels_of(models["classifier"])
            if self.label not in labels:
                raise mistake(
                    METHOD.name,
                    f"the classifier {self.classifier} has no label {self.label!r}",
                    where,
                    f"its labels are: {', '.join(labels) or 'none: it is no sequence classifier'}",
                )

    def _check_file(self, where: str) -> None:
        path = Path(str(self.words_file)).expanduser()
        try:
            words = word_list(_lines(read_bounded(path, _MAX_BYTES)))
        except OSError as error:
            raise AbsentFile(
                f"guard {METHOD.name}: the word list cannot be read: {error.strerror or error}",
                where=str(path),
                next_step="name an existing text file as words_file, or list the words in the spec",
            ) from None
        except ForeignError as error:
            raise mistake(
                METHOD.name, f"the word list cannot be used: {error}", str(path), "name a text file"
            ) from None
        if not words:
            raise mistake(
                METHOD.name, "the word list is empty, so it would block nothing", str(path), "write one word a line"
            )


def _lines(data: bytes) -> list[str]:
    try:
        lines = data.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ForeignError("it is no UTF-8 text") from None
    return [line for line in lines if not line.lstrip().startswith("#")]


def labels_of(classifier: ModelRef) -> tuple[str, ...]:
    """Return the labels of a sequence classifier in the order of its outputs; none when the folder holds no classifier."""
    config = read_json(classifier.path / "config.json")
    named = config.get("id2label")
    if not isinstance(named, dict) or not any(
        "ForSequenceClassification" in str(a) for a in config.get("architectures") or ()
    ):
        return ()
    return tuple(str(named[number]) for number in sorted(named, key=lambda number: int(number)))


METHOD = GuardMethod("prompt-filter", "1", PromptFilterParameters, "audit.filters.prompt_filter:build", reads="prompt")
