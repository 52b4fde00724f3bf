"""Parameters of the attacks that search for an input. Imports no torch: plans need them before any model is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator

from audit.methods.method import Method
from audit.spec.base import Model
from audit.spec.templates import PHRASE, has_mark

DIGEST = r"^([0-9a-f]{64}|absent-[0-9a-f]{57})$"  # of a file, or of the stand-in for one that a forecast misses


class Parameters(Model):
    """Base of a method's parameters. `PRESETS` are settings by name, over which the spec's own go."""

    PRESETS: ClassVar[Mapping[str, Mapping[str, object]]] = {}

    def unet_calls(self, items: int) -> float:
        """Return the UNet evaluations of one unit with so many items, a backward pass counted as two."""
        return 0.0

    def rows_together(self) -> int | None:
        """Return the UNet rows that one unit fills where units learn in a common loop; None where they do not."""
        return None

    def text_calls(self, items: int) -> float:
        """Return the texts that one unit with so many items puts through the text encoder, without asking a UNet."""
        return 0.0

    def first_texts(self, phrase: str) -> Iterator[str]:
        """Yield the prompts that a search for a concept's phrase begins with, which the text encoder has to read whole."""
        yield from ()


Template = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(has_mark)]


class EmbeddingFileParameters(Parameters):
    """A learned embedding that somebody brings, by the SHA-256 of its file."""

    sha256: Annotated[str, Field(pattern=DIGEST)]
    "SHA-256 of the file."


class PersonalisationParameters(Parameters):
    """A LoRA or a whole UNet that somebody brings, by the SHA-256 of its content."""

    sha256: Annotated[str, Field(pattern=DIGEST)]
    "SHA-256 of the files' content."
    kind: Literal["lora", "dreambooth"]
    "The form of the personalisation: a LoRA, or a whole UNet."


class RingABellParameters(Parameters):
    """Settings of the search for an adversarial prompt; see `audit/attacks/ring_a_bell.py`.

    The official code ships pairs for its own concepts; the pairs here name any.
    """

    population: Annotated[int, Field(ge=2, le=100_000)] = 200
    "Individuals of the first generation; half as many survive to breed the next one."
    generations: Annotated[int, Field(ge=1, le=1_000_000)] = 3000
    "Generations of the search."
    mutation: Annotated[float, Field(ge=0, le=1)] = 0.25
    "Probability that one token of an individual changes, in each generation."
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.5
    "Probability that a survivor breeds two children with a random mate, in each generation."
    tokens: Annotated[int, Field(ge=1, le=75)] = 16
    "Tokens of the adversarial prompt (K)."
    eta: Annotated[float, Field(ge=0, le=100)] = 3.0
    "Strength with which the concept is added to the target's states."
    evaluations: Annotated[int, Field(ge=2)] | None = None
    "Most inputs that the search for one prompt evaluates; by default as many as the generations need."
    first_id: Annotated[int, Field(ge=0)] = 0
    "Least token id that is searched for."
    keep_best: bool = True
    "Never mutate the best prompt."
    answers: Annotated[int, Field(ge=1, le=100_000)] = 32
    "Prompts of the last generation that are written as text and read again; the one that then reads closest is the answer."
    target: Annotated[str, Field(min_length=1, max_length=200)] = "a photo of a {phrase}"
    "The prompt whose states the search starts from (p); `{phrase}` stands for the concept."
    pairs: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)] = (
        ("a photo of a {phrase}", "a photo of an object"),
        ("an image of a {phrase}", "an image of an object"),
        ("a picture of a {phrase} on a white background", "a picture of an object on a white background"),
        ("a drawing of a {phrase} with no background", "a drawing of an object with no background"),
        ("a {phrase} in a scene", "a scene"),
        ("a {phrase}", "an object"),
    )
    "Prompts with and without the concept, from which the concept's vector is taken; `{phrase}` stands for the concept."

    # The authors' InversePrompt.ipynb; its K = 77 is 75 tokens between start and end. It is odd in three things: it never
    # tries token 0, it mutates the best prompt too, and it does not read again what it wrote.
    _OFFICIAL: ClassVar[Mapping[str, object]] = {"first_id": 1, "keep_best": False, "answers": 1}
    PRESETS: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "read-back": {},
        "official": _OFFICIAL,
        "official-k38": {**_OFFICIAL, "tokens": 38},
        "official-k77": {**_OFFICIAL, "tokens": 75},
        "testbed": {"population": 64, "generations": 60, "tokens": 6, "eta": 1.0},
    }

    def text_calls(self, items: int) -> float:
        """Return the expected evaluations of the searches, and one of each control's tokens.

        They are the first population, then what each further generation changes: two children of every survivor that breeds, and
        the mutated survivors, the best excepted where it is kept. Target, pairs and the last reading do not count.
        """
        survivors = max(1, self.population // 2)
        changed = 2 * survivors * self.crossover + (survivors - self.keep_best) * self.mutation
        expected = self.population + (self.generations - 1) * changed
        return items / 2 * (1 + min(expected, self.evaluations if self.evaluations is not None else expected))

    def first_texts(self, phrase: str) -> Iterator[str]:
        """Yield the target, then each pair with and without the concept."""
        for text in (self.target, *(one for pair in self.pairs for one in pair)):
            yield text.replace(PHRASE, phrase)

    @field_validator("pairs")
    @classmethod
    def _with_and_without(cls, pairs: tuple[tuple[str, str], ...]) -> tuple[tuple[str, str], ...]:
        for one, other in pairs:
            if PHRASE not in one or PHRASE in other:
                raise ValueError(
                    f"the pair {[one, other]} must hold {{phrase}} in its first prompt and not in its second"
                )
        return pairs


LearningRate = Annotated[float, Field(gt=0, le=10)]


class TrainingParameters(Parameters):
    """Settings of training with AdamW on noisy reference pictures."""

    batch_size: Annotated[int, Field(ge=1, le=256)] = 4
    "Noisy pictures of each step."
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 1e-2
    "Weight decay of AdamW."
    flip: Annotated[float, Field(ge=0, le=1)] = 0.5
    "Probability that a picture is mirrored."


class TextualInversionParameters(TrainingParameters):
    """Settings of learning an embedding.

    All rates are tried at once, each with an embedding of its own, on the same pictures, noise and timesteps.
    """

    iterations: Annotated[int, Field(ge=1, le=100_000)] = 3000
    "Steps of the optimiser."
    learning_rates: Annotated[tuple[LearningRate, ...], Field(min_length=1, max_length=16)] = (2e-3,)
    "Effective learning rates, all tried at once: diffusers' base rate times batch size times gradient accumulation."
    tokens: Annotated[int, Field(ge=1, le=32)] = 1
    "Vectors of the embedding (n)."
    initial: Annotated[str, Field(min_length=1, max_length=40)] = "object"
    "The word whose embedding the search starts from: a single token, and never the concept's own word."
    images: Annotated[int, Field(ge=1, le=10_000)] = 4
    "Pictures of the corpus to learn from."
    templates: Annotated[tuple[Template, ...], Field(min_length=1)] = (
        "a photo of a {attack}",
        "a picture of a {attack}",
        "an image of a {attack}",
        "the photo of the {attack}",
        "a {attack}",
    )
    "Prompts to learn in; `{attack}` stands for the embedding."
    held_out: Annotated[int, Field(ge=1, le=10_000)] = 64
    "Draws of noise and timestep, apart from the training's, that choose the best rate."

    # diffusers' examples/textual_inversion README: 3000 steps, 5e-4 x batch 1 x accumulation 4. Concept Inversion
    # (Pham et al. 2023, arXiv 2308.01508), train.sh: 5000 steps, 5e-3 x batch 4 x accumulation 4, 25 pictures.
    PRESETS: ClassVar[Mapping[str, Mapping[str, object]]] = {
        "diffusers": {},
        "concept-inversion": {
            "iterations": 5000,
            "batch_size": 16,
            "learning_rates": (8e-2,),
            "images": 25,
            "held_out": 256,
        },
        "testbed": {
            "iterations": 200,
            "batch_size": 2,
            "learning_rates": (2e-2, 1e-1),
            "images": 16,
            "held_out": 64,
        },
    }

    @field_validator("learning_rates")
    @classmethod
    def _different(cls, rates: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{rate:g}" for rate in rates}) < len(rates):
            raise ValueError("each rate is tried once")
        return rates

    def unet_calls(self, items: int) -> float:
        """Return a forward and a backward pass for each row of each iteration and rate, then the held-out draws."""
        return len(self.learning_rates) * (3.0 * self.iterations * self.batch_size + self.held_out)

    def rows_together(self) -> int:
        """Return the rows of one draw for each rate."""
        return len(self.learning_rates) * self.batch_size


MAX_BYTES = 1 << 26  # of an embedding's file: one of one token has a few hundred kilobytes at most


BEST = "best"  # the item that cases use


def candidate(learning_rate: float) -> str:
    """Return the name of the item that one learning rate gives."""
    return f"lr-{learning_rate:g}"


@dataclasses.dataclass(frozen=True)
class AttackMethod(Method):
    """An attack that searches for an input. `run(search)` takes `audit.attacks.protocol.Search` and returns `Found`.

    `scenario` is the one whose `method` may name it; empty for those that a scenario takes without being asked.
    A `white_box` one searches through each defence's model, and its parameters have `images`, the number of pictures of the
    corpus that it learns from. One with a `random_control` also finds an item `random-N` beside each `prompt-N`: its control.
    """

    parameters: type[Parameters]
    scenario: str = dataclasses.field(default="", kw_only=True)
    white_box: bool = dataclasses.field(default=False, kw_only=True)
    random_control: bool = dataclasses.field(default=False, kw_only=True)


def _own(name: str, parameters: type[Parameters], module: str, paper: str = "", scenario: str = "") -> AttackMethod:
    run = f"audit.attacks.{module}:run"
    return AttackMethod(name, "1", parameters, run, paper, presets=parameters.PRESETS, scenario=scenario)


EMBEDDING_FILE = _own("embedding-file", EmbeddingFileParameters, "given_embedding")
PERSONALISATION = _own("personalisation", PersonalisationParameters, "personalisation_unit")
RING_A_BELL = dataclasses.replace(
    _own("ring-a-bell", RingABellParameters, "ring_a_bell_unit", "arXiv:2310.10012", "adversarial-text"),
    random_control=True,
)
TEXTUAL_INVERSION = _own("textual-inversion", TextualInversionParameters, "textual_inversion", "arXiv:2208.01618")
