"""The text of a new spec: the settings of a preset and the answers of the writer, each section with a comment."""

from __future__ import annotations

import dataclasses
import textwrap

import yaml

from audit.errors import SpecError
from audit.spec.document import Spec, parse_spec
from audit.spec.presets import FOLDER, Preset
from audit.spec.scenario_base import KINDS
from audit.spec.sections import Concept
from audit.yaml_files import load_yaml

SCHEMA = "erasure-audit.schema.json"  # the file beside a spec that editors read
STABLE_DIFFUSION = "CompVis/stable-diffusion-v1-4@133a221b8aa7292a167afc5127cb63fb5005638b"
# Of EGLOCE: not the CLIP that scores, and smaller than it.
ENERGY = "openai/clip-vit-base-patch32@3d74acf9a28c67741b2f4f2ea7635f0aaf6f0268"
PROMPTED = ("text", "adversarial-text")
NOISE_BASED = "noise-based"
LATENT = ("latent-whitebox", "latent-blackbox")
PICTURED = ("img2img", "completion")  # compare with pictures of another concept, and a new spec has one corpus entry
# A new spec has at most one of each, under the kind's own name. The last three need concepts that nobody has told yet.
SCENARIOS = tuple(kind for kind in KINDS if kind not in (*PICTURED, "relearning", "cycles", "classifier-guidance"))
_MOST_NAME = 64  # characters of a name
_BENIGN_CASES = 32
_WIDTH = 118  # of a line


@dataclasses.dataclass(frozen=True)
class Answers:
    """The choices of a new spec's writer; `eraser` is as a spec has it, or None for guards alone."""

    preset: Preset
    concept: Concept
    backbone: str
    eraser: dict[str, object] | None
    guards: tuple[str, ...] = ()
    corpus: str | None = None
    scenarios: tuple[str, ...] = ()  # () are those that what is given suffices for
    judges: tuple[str, ...] = ()  # () are the preset's
    name: str | None = None

    @property
    def attacks(self) -> tuple[str, ...]:
        """The scenarios, chosen or by default."""
        return self.scenarios or default_scenarios(self.corpus)

    @property
    def on_testbed(self) -> bool:
        """Whether the backbone is the testbed's."""
        return self.backbone.partition("/")[0] == "testbed"


def default_scenarios(corpus: str | None) -> tuple[str, ...]:
    """Return the scenarios of a spec whose writer names none: those that need no pictures, and latents with a corpus."""
    return (*PROMPTED, *LATENT) if corpus else PROMPTED


def write_spec(answers: Answers, *, command: str, erasers: tuple[str, ...], guards: tuple[str, ...]) -> str:
    """Return a commented spec that is valid as it is, as YAML.

    `command` is named in its head; `erasers` and `guards` are the methods that its comments list. Raises `SpecError` for
    answers that do not fit together.
    """
    check(answers)
    text = _rendered(answers, command, erasers, guards)
    _parsed(text)
    return text


def check(answers: Answers) -> None:
    """Return when the scenarios and judges exist and have what they need. Raises `SpecError` otherwise."""
    for option, chosen, known in (
        ("--scenario", answers.attacks, SCENARIOS),
        ("--judge", answers.judges, answers.preset.detector_names()),
    ):
        for value in chosen:
            if value not in known:
                what = option.removeprefix("--")
                raise SpecError(
                    f"there is no {what} {value!r} here", where=option, next_step=f"use one of: {', '.join(known)}"
                )
            if chosen.count(value) > 1:
                raise SpecError(f"{value!r} is given twice", where=option, next_step="give it once")
    without = [name for name in answers.attacks if name not in (*PROMPTED, NOISE_BASED)]
    if without and answers.corpus is None:
        raise SpecError(
            f"the scenario {without[0]} needs pictures of {answers.concept.phrase!r}",
            where="--scenario",
            next_step="name the folder or s3:// prefix that has them, or will have them, with --corpus",
        )


def _parsed(text: str) -> Spec:
    try:
        return parse_spec(load_yaml(text), "the new spec")
    except SpecError as error:
        error.where, error.next_step = "the answers", "mend the option that it came from: erasure-audit init --help"
        raise
    except yaml.YAMLError as error:
        raise SpecError(
            f"an answer cannot stand in a spec: {str(error).splitlines()[0]}",
            where="the answers",
            next_step="write it without control characters",
        ) from None


def _rendered(answers: Answers, command: str, erasers: tuple[str, ...], guards: tuple[str, ...]) -> str:
    import jinja2

    preset, concept = answers.preset, answers.concept
    # What is filled in is YAML, by the filter `flow`, or a comment, by `words` and `comment`: no answer starts a line.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"flow": _flow, "comment": _comment, "words": _words}
    template = environment.from_string((FOLDER / "spec.yaml.jinja").read_text(encoding="utf-8"))
    judges = answers.judges or preset.judges
    values = {
        "schema": SCHEMA,
        "command": command,
        "name": answers.name or concept.name,
        "backbone": answers.backbone,
        "concept": concept.model_dump(mode="json"),
        "corpus": answers.corpus,
        "erasers": erasers,
        "guards": guards,
        "defences": _defences(answers),
        "scenarios": [_scenario(name, answers) for name in answers.attacks],
        "cases": preset.cases,
        "neighbour_cases": preset.neighbour_cases,
        "benign_cases": _BENIGN_CASES,
        "control_cases": preset.control_cases,
        "detectors": preset.detectors_for(concept),
        "judges": judges,
        "retention_judges": [judge for judge in preset.retention_judges if (judge,) != judges],
        "crr_max": preset.crr_max,
        "notes": {name: preset.notes.get(name, "") for name in ("concept", "scenarios", "detectors", "gate")},
    }
    return template.render(values).rstrip() + "\n"


def _defences(answers: Answers) -> list[dict[str, object]]:
    """Return the eraser alone, and under all guards; the guards alone where there is no eraser."""
    eraser = answers.eraser
    guards = [_guard(name, answers) for name in answers.guards]
    stacked = "+".join(answers.guards)
    if eraser is None:
        return [{"name": stacked[:_MOST_NAME], "guards": guards}]
    defences = [{"name": eraser["method"], "eraser": eraser}]
    if guards:
        name = f"{eraser['method']}+{stacked}"[:_MOST_NAME]
        defences.append({"name": name, "eraser": eraser, "guards": guards})
    return defences


def _guard(name: str, answers: Answers) -> dict[str, object]:
    if name == "egloce" and not answers.on_testbed:
        return {"name": name, "parameters": {"energy": ENERGY}}
    return {"name": name}


def _scenario(name: str, answers: Answers) -> dict[str, object]:
    preset = answers.preset
    fields: dict[str, object] = {"name": name, "cases": preset.cases}
    sampler = {"steps": preset.sampler.steps, "guidance": preset.sampler.guidance}
    if name == NOISE_BASED:
        fields["templates"] = list(preset.templates)
    elif name == "text":
        if preset.prompts is not None and preset.lists(answers.concept):
            fields["prompts"] = {"set": preset.prompts}
        fields["templates"] = list(preset.templates)
    elif name == "adversarial-text":
        fields |= {"found": 20, **preset.adversarial}
    elif name in LATENT:
        sampler = {"steps": preset.latent_steps, "guidance": 1.0}
    else:
        fields |= preset.embedding
    return {**fields, "sampler": sampler}


def _flow(value: object) -> str:
    """Return `value` as YAML on one line, or over several where it is long; what no one could read in it is escaped."""
    plain = list(value) if isinstance(value, tuple) else value
    readable = str(plain).isprintable()
    text = yaml.safe_dump([plain], default_flow_style=True, width=_WIDTH - 24, sort_keys=False, allow_unicode=readable)
    return "\n".join(line.strip() for line in text.strip()[1:-1].split("\n"))


def _comment(text: str) -> str:
    """Return `text` as lines of comment, each ended; empty where there is none."""
    lines = textwrap.wrap(_words(text), _WIDTH, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _words(text: str) -> str:
    """Return `text` on one line, whatever it is that YAML takes for a line's end."""
    return " ".join(text.split())
