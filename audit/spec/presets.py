"""Presets: the beginnings of specs about the usual concepts, nudity, an object, a style, a person or a trademark.

Each is a file in `preset_files/`, with its sources. A preset is written out into the new spec, which then says everything
itself: a later version of the preset changes no audit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from audit.errors import SpecError
from audit.spec.base import Model, Name, Phrase
from audit.spec.benign import subject_name
from audit.spec.prompts import ShippedSet
from audit.spec.sampler import Sampler
from audit.spec.sections import Concept, words_of
from audit.yaml_files import read_yaml

NAMES = ("nudity", "object", "artist-style", "person", "trademark")
FOLDER = Path(__file__).parent / "preset_files"
TESTBED = "testbed-object"  # the file of `object` on the testbed, which draws nothing else


class Preset(Model):
    """The beginning of a spec. `notes` become comments of the sections that they are named after."""

    about: str
    concepts: Annotated[tuple[Concept, ...], Field(min_length=1)]  # that it knows by name; the first is the default
    neighbours: tuple[Name, ...] = ()  # of any other concept
    only_listed: bool = False  # whether the backbone draws nothing else
    sensitive: bool = False
    prompts: ShippedSet | None = None  # has rows about each of `concepts`, and about nothing else
    templates: Annotated[tuple[Phrase, ...], Field(min_length=1)]
    adversarial: dict[str, object]  # fields of the scenario adversarial-text
    embedding: dict[str, object]  # fields of both embedding scenarios
    sampler: Sampler = Sampler()
    latent_steps: int = 50
    cases: int = 100
    neighbour_cases: int = 32
    control_cases: int = 32
    detectors: tuple[dict[str, Any], ...]  # as a spec has them; `counts` are the labels that mean the concept
    judges: tuple[Name, ...]
    retention_judges: tuple[Name, ...] = ()
    crr_max: float
    notes: dict[str, str] = Field(default_factory=dict)

    def concept(
        self, phrase: str | None = None, synonyms: tuple[str, ...] = (), neighbours: tuple[str, ...] = ()
    ) -> Concept:
        """Return the concept called `phrase`, with what the preset knows of it; the default one without a phrase.

        Synonyms and neighbours, where some are given, replace the preset's. Raises `SpecError` for a phrase that the
        backbone cannot draw or that no name can be made of.
        """
        known = self._known(phrase)
        if known is None and self.only_listed:
            raise SpecError(
                f"the testbed cannot draw {phrase!r}",
                where="--concept",
                next_step=f"choose one of its shapes ({', '.join(c.name for c in self.concepts)}), or another --backbone",
            )
        name = known.name if known else subject_name(phrase or "")
        if not name:
            raise SpecError(
                f"no name can be made of the concept {phrase!r}",
                where="--concept",
                next_step="write it in Latin letters, as prompts do",
            )
        chosen = tuple(map(_neighbour, neighbours)) or (known.neighbours if known else self.neighbours)
        return Concept(
            name=name,
            phrase=known.phrase if known else phrase or "",
            synonyms=synonyms or (known.synonyms if known else ()),
            neighbours=tuple(other for other in dict.fromkeys(chosen) if other != name),
            sensitive=self.sensitive,
        )

    def lists(self, concept: Concept) -> bool:
        """Return whether the preset knows this concept, and its prompt set has rows about it."""
        return any(known.name == concept.name for known in self.concepts)

    def detector_names(self) -> tuple[str, ...]:
        """Return the names of the preset's detectors."""
        return tuple(detector["name"] for detector in self.detectors)

    def detectors_for(self, concept: Concept) -> list[dict[str, object]]:
        """Return the detectors as a spec about `concept` has them: labels filled in, nothing asked for twice."""
        own = {subject_name(words) for words in (concept.name, concept.phrase, *concept.synonyms)}
        own |= set(concept.neighbours)
        filled = []
        for detector in self.detectors:
            entry = {name: value for name, value in detector.items() if name not in ("counts", "parameters")}
            if "counts" in detector:  # no label is called like a subject, so each has to be mapped
                entry["labels"] = {concept.name: detector["counts"], **{name: [] for name in concept.neighbours}}
            parameters = dict(detector.get("parameters", {}))
            if "extra_classes" in parameters:
                parameters["extra_classes"] = [word for word in parameters["extra_classes"] if word not in own]
            filled.append({**entry, "parameters": parameters} if parameters else entry)
        return filled

    def _known(self, phrase: str | None) -> Concept | None:
        if phrase is None:
            return self.concepts[0]
        wanted = " ".join(phrase.split()).casefold()
        return next((c for c in self.concepts if wanted in (c.phrase.casefold(), words_of(c.name))), None)


def _neighbour(text: str) -> str:
    name = subject_name(text)
    if not name:
        raise SpecError(
            f"no name can be made of the neighbour {text!r}",
            where="--neighbour",
            next_step="write it in Latin letters, as prompts do",
        )
    return name


def load_preset(name: str, backbone: str) -> Preset:
    """Return the preset called `name` for a backbone, which is `testbed`, a folder or a hub id.

    Raises `SpecError` for an unknown preset, and for one that the testbed cannot draw.
    """
    if name not in NAMES:
        raise SpecError(f"there is no preset {name!r}", where="--preset", next_step=f"use one of: {', '.join(NAMES)}")
    testbed = backbone.partition("/")[0] == "testbed"
    if testbed and name != "object":
        raise SpecError(
            f"the testbed draws shapes, so it takes no preset {name!r}",
            where="--preset",
            next_step="use --preset object, or another --backbone",
        )
    return Preset.model_validate(read_yaml(FOLDER / f"{TESTBED if testbed else name}.yaml"))
