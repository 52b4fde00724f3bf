"""Stand-ins with which a plan is priced while its files are elsewhere: instruments of both kinds, reference pictures.

None of them can be run: their digests say `absent-`, and `run` plans without them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from audit.corpus import ingest
from audit.errors import CorpusError
from audit.identity import canonical, int_key
from audit.instruments import detectors, quality
from audit.plan.builder import CorpusItem
from audit.plan.embedding_cases import learning
from audit.records import Instrument, QualityInstrument
from audit.spec.document import Spec
from audit.spec.quality import QualitySpec
from audit.spec.scenarios import EmbeddingScenario, LatentScenario
from audit.spec.sections import CorpusEntry, DetectorSpec
from audit.storage.errors import SourceUnavailable
from audit.weights import gaps

Rules = list[dict[str, Any]]


def instrument_and_rules(entry: DetectorSpec, spec: Spec) -> tuple[Instrument, Rules]:
    """As `detectors.instrument_and_rules`; inside `gaps.collecting`, a stand-in where the detector's files are missing."""
    with gaps.noted("model"):
        return detectors.instrument_and_rules(entry, spec)
    subjects = [subject.name for subject in spec.sought()]
    labels = {subject: entry.labels.get(subject, (subject,)) for subject in subjects}
    described = {"detector": entry.model_dump(mode="json"), "subjects": subjects}
    instrument = Instrument(
        instrument_id=int_key(described),
        detector=entry.name,
        kind=entry.kind,
        version="",
        package="",
        weights_sha256=gaps.absent_digest(canonical(described)),
        preprocessing="",
        labels=tuple(dict.fromkeys(label for known in labels.values() for label in known)),
        score_floor=0.0,
        threshold=entry.threshold,
        parameters="{}",
    )
    threshold = spec.gate.thresholds.get(entry.name, entry.threshold)
    rules = [
        {"detector": entry.name, "subject": subject, "label": label, "threshold": threshold}
        for subject, known in labels.items()
        for label in known
    ]
    return instrument, rules


def quality_instrument(entry: QualitySpec) -> QualityInstrument:
    """The quality instrument of a spec entry; inside `gaps.collecting`, a stand-in where its files are missing."""
    with gaps.noted("model"):
        return quality.build(entry).instrument
    described = {"quality": entry.model_dump(mode="json")}
    return QualityInstrument(
        instrument_id=int_key(described),
        instrument=entry.name,
        kind=entry.kind,
        version="",
        package="",
        weights_sha256=gaps.absent_digest(canonical(described)),
        preprocessing="",
        metrics=(entry.kind,),
        parameters="{}",
    )


def manifest_batches(spec: Spec, progress: Callable[[int], None] | None = None) -> list[pa.RecordBatch]:
    """The manifest of the corpus entries that can be listed; inside `gaps.collecting`, the others are noted.

    Storage that does not answer is asked once: the other entries of the same scheme are not waited for.
    """
    collected = gaps.current()
    # Entries that overlap and URLs that can never be used are mistakes of the spec, raised by this call.
    batches: Iterable[pa.RecordBatch] = ingest.manifest(spec.corpus, spec.corpus_limits, progress=progress)
    try:
        return list(batches)
    except CorpusError:
        if collected is None:
            raise
    found: list[pa.RecordBatch] = []
    silent: dict[str, CorpusError] = {}
    for entry in spec.corpus:
        scheme = entry.url.partition("://")[0]
        if scheme in silent:
            collected.add("corpus", _at(silent[scheme], entry, spec))
            continue
        try:
            found += list(ingest.manifest([entry], spec.corpus_limits, progress=progress))
        except CorpusError as error:
            collected.add("corpus", _at(error, entry, spec))
            if isinstance(error, SourceUnavailable):
                silent[scheme] = error
    return found


def _at(error: CorpusError, entry: CorpusEntry, spec: Spec) -> CorpusError:
    needed = f"have {_wanted(spec).get(entry.concept, 0)} different pictures of {entry.concept!r} there"
    return CorpusError(error.what, where=_place(entry), next_step=f"{needed}; {error.next_step}")


def _place(entry: CorpusEntry) -> str:
    return f"{entry.url} (concept {entry.concept})"


def without_pictures(items: Mapping[str, Sequence[CorpusItem]], spec: Spec) -> dict[str, CorpusError]:
    """Concept -> the error for its corpus entry, of concepts whose entries were listed and are empty.

    Inside `gaps.collecting` an entry that could not be listed is a gap, and no part of this.
    """
    collected = gaps.current()
    known = {gap.where for gap in collected.found} if collected is not None else set()
    roles = picture_roles(spec)
    found: dict[str, CorpusError] = {}
    for entry in spec.corpus:
        if not items.get(entry.concept) and entry.role == roles.get(entry.concept) and _place(entry) not in known:
            found.setdefault(entry.concept, ingest.no_objects(entry.url))
    return found


def picture_roles(spec: Spec) -> dict[str, str]:
    """Concept -> the role of the corpus entries that its cells use: target for what was erased, control for unlearned,
    neighbour for what must survive."""
    roles = {name: "neighbour" for concept in spec.concepts for name in concept.neighbours}
    return roles | dict.fromkeys(spec.controls.unlearned, "control") | {c.name: "target" for c in spec.concepts}


def filled_up(
    items: Mapping[str, Sequence[CorpusItem]], spec: Spec, empty: Collection[str] = ()
) -> dict[str, list[CorpusItem]]:
    """The reference pictures, with stand-ins where a concept that has a corpus entry has fewer than the spec asks for.

    Outside `gaps.collecting` the pictures as they are. Concepts whose entries are `empty` are planned as they are, too.
    """
    collected = gaps.current()
    filled = {concept: list(found) for concept, found in items.items()}
    if collected is None:
        return filled
    known = {gap.where for gap in collected.found}
    wanted = _wanted(spec)
    for entry in spec.corpus:
        count = wanted.get(entry.concept, 0)
        have = filled.setdefault(entry.concept, [])
        if len(have) >= count or entry.concept in empty:
            continue
        where = _place(entry)
        if where not in known:
            short = (
                f"the spec asks for {count} images of {entry.concept!r} and the corpus has {len(have)} different ones"
            )
            lower = f"add images, or lower the number of cases to {len(have)}"
            collected.add("corpus", CorpusError(short, where=where, next_step=lower))
        have += [CorpusItem(f"{gaps.ABSENT}{entry.concept}-{n}", entry.url) for n in range(len(have), count)]
    return filled


def _wanted(spec: Spec) -> dict[str, int]:
    """Concept -> how many of its reference pictures the largest cell takes, or an attack learns from."""
    latent = [scenario.cases for scenario in spec.scenarios if isinstance(scenario, LatentScenario)]
    learned = [
        learning(scenario).images
        for scenario in spec.scenarios
        if isinstance(scenario, EmbeddingScenario) and scenario.embedding is None and scenario.personalisation is None
    ]
    largest = max([spec.controls.cases, *latent, *learned])
    others = [name for concept in spec.concepts for name in concept.neighbours] if latent else []
    wanted = dict.fromkeys([*others, *spec.controls.unlearned], spec.controls.cases)
    return wanted | {concept.name: largest for concept in spec.concepts}
