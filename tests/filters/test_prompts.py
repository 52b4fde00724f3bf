"""The prompt filter: listed words however they are spelled, and a text classifier."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, BertForSequenceClassification

from audit import guards
from audit.errors import AbsentFile, CheckpointError, SpecError
from audit.filters.building import build
from audit.filters.prompt_filter import WordFilter
from audit.filters.protocol import Parts, PromptFilter
from audit.filters.words import WordFinder, word_list
from audit.spec.sections import Concept, Guard
from audit.weights.references import resolve_model
from tests.filters.models import write_text_classifier

RING = Concept(name="ring", phrase="gold ring")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a photo of a ring", ("ring",)),
        ("Earring, rings and ringlets", ()),
        ("a RING.", ("ring",)),
        ("a ｒｉｎｇ", ("ring",)),  # full-width letters
        ("a ri\u200bng", ("ring",)),  # a space without width
        ("a gold  ring", ("gold ring", "ring")),
        ("a gold-ring", ("gold ring", "ring")),
        ("a golden ring", ("ring",)),
        ("STRASSE", ("straße",)),
        ("cafe\u0301", ("café",)),  # decomposed
        ("", ()),
    ],
)
def test_whole_words_are_found_however_they_are_spelled(text: str, words: tuple[str, ...]) -> None:
    finder = WordFinder(word_list(["ring", "Gold Ring", "straße", "café"]))
    assert finder.found(text) == tuple(dict.fromkeys(word for w in words for word in word_list([w])))


def test_a_ruling_names_the_words_and_nothing_else_blocks() -> None:
    blocked, passed = WordFilter(word_list(["ring"])).rule(["one Ring", "one star"])
    assert (blocked.blocked, dict(blocked.facts)) == (True, {"words": "ring"})
    assert (passed.blocked, passed.measures, dict(passed.facts)) == (False, {"words_found": 0}, {})


def test_a_word_file_counts_by_its_content(tmp_path: Path) -> None:
    def values(text: str, name: str) -> dict[str, object]:
        (tmp_path / name).write_text(text)
        parameters = {"words_file": str(tmp_path / name)}
        return dict(guards.resolve(Guard(name="prompt-filter", parameters=parameters), RING)["parameters"])

    first = values("# comment\nring\n\nGold ring\n", "a.txt")
    assert first["words"] == ["gold ring", "ring"]
    assert first == values("# comment\nring\n\nGold ring\n", "b.txt")
    assert first["words_sha256"] != values("ring\nGold ring\n", "a.txt")["words_sha256"]


def test_a_classifier_s_probability_is_that_of_its_own_forward_pass(tmp_path: Path) -> None:
    folder = write_text_classifier(tmp_path / "classifier")
    parameters = {"classifier": str(folder), "label": "unsafe", "threshold": 0.5}
    described = guards.resolve(Guard(name="prompt-filter", parameters=parameters), RING)
    ref = resolve_model(str(folder))
    built = build(described, Parts("cpu", lambda digest: ref if digest == ref.sha256 else pytest.fail(digest)))
    assert isinstance(built, PromptFilter)
    prompts = ["a photo of a ring", "a star", "a " * 30, "", "unknown words"]
    network = BertForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, ruling in zip(prompts, built.rule(prompts), strict=True):
        encoded = tokenizer(prompt, return_tensors="pt", truncation=True, max_length=12)
        with torch.no_grad():
            expected = network(**encoded).logits.double().softmax(-1)[0, 1].item()
        assert ruling.measures["probability"] == pytest.approx(expected, abs=1e-6)
        assert ruling.blocked == (expected >= 0.5)
        assert ruling.measures["tokens_cut"] == (20 if prompt.startswith("a a") else 0)
    assert {
        ruling.blocked for ruling in built.rule([f"{a} {b}" for a in ("ring", "star") for b in ("blue", "red", "a")])
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({}, "give one of words, words_file and classifier, and not nothing"),
        ({"words": ["ring"], "words_file": "x"}, "not words and words_file"),
        ({"words": []}, "the word list is empty"),
        ({"words": ["..."]}, "the word list is empty"),
        ({"classifier": "x"}, "classifier and label belong together"),
        ({"words": ["ring"], "label": "unsafe"}, "classifier and label belong together"),
    ],
)
def test_parameters_that_could_block_nothing_are_refused(parameters: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        guards.parse(Guard(name="prompt-filter", parameters=parameters))


def test_files_that_could_block_nothing_are_refused(tmp_path: Path) -> None:
    def check(**parameters: object) -> None:
        guard = Guard(name="prompt-filter", parameters=parameters)
        parsed = guards.parse(guard)
        models = {role: resolve_model(name) for role, name in parsed.models().items()}
        parsed.check(models, [RING], "defences.guarded")  # type: ignore[attr-defined]

    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    with pytest.raises(AbsentFile, match="the word list cannot be read: No such file"):
        check(words_file=str(tmp_path / "none.txt"))
    with pytest.raises(SpecError, match="the word list is empty"):
        check(words_file=str(tmp_path / "empty.txt"))
    with pytest.raises(SpecError, match="it is no UTF-8 text"):
        check(words_file=str(tmp_path / "latin.txt"))
    folder = str(write_text_classifier(tmp_path / "classifier"))
    check(classifier=folder, label="unsafe")
    with pytest.raises(SpecError, match=r"has no label 'nsfw'.*\n.*\n.*its labels are: safe, unsafe"):
        check(classifier=folder, label="nsfw")
    with pytest.raises(SpecError, match="no sequence classifier"):
        check(classifier="testbed/judge", label="unsafe")
    with pytest.raises(CheckpointError, match="there is no such model folder"):
        check(classifier=str(tmp_path / "none"), label="unsafe")
