"""The reference pictures of a spec: those that its corpus lists, or stand-ins for a forecast where the corpus is elsewhere."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Sequence

import pyarrow as pa

from audit import identity, locations
from audit.corpus import ingest
from audit.corpus.regions import Pictured, Region, read_regions
from audit.errors import AuditError, CorpusError
from audit.plan.attributes import read_attributes
from audit.plan.embedding_cases import learning
from audit.plan.relearning_cases import held_out, training
from audit.plan.resolved import ABSENT, CorpusItem, Pictures, Problem
from audit.spec.document import Spec
from audit.spec.picture_scenarios import PictureScenario
from audit.spec.relearning import TrainingScenario
from audit.spec.scenarios import EmbeddingScenario, LatentScenario
from audit.spec.sections import CorpusEntry
from audit.storage.errors import SourceUnavailable

Progress = Callable[[int], None]
_BATCH_ROWS = 10_000  # of a manifest as Python objects at a time


def listed_pictures(spec: Spec, manifest: pa.Table, unlisted: Collection[CorpusEntry] = ()) -> Pictures:
    """Return the pictures of a manifest. Concepts of which an entry is `unlisted` are not taken to be empty."""
    items, problems = _with_regions(spec, manifest, _items(spec, manifest))
    items, of_attributes = _with_attributes(spec, manifest, items, unlisted)
    roles = _roles(spec)
    empty: dict[str, CorpusError] = {}
    for entry in spec.corpus:
        if not items.get(entry.concept) and entry.role == roles.get(entry.concept) and entry not in unlisted:
            empty.setdefault(entry.concept, ingest.no_objects(entry.url))
    return Pictures(items, empty, manifest, (*problems, *of_attributes))


def forecast_pictures(spec: Spec, progress: Progress | None = None) -> Pictures:
    """Return the pictures that a run of `spec` would have: those that can be listed, and names of those that cannot.

    Raises `CorpusError` for entries that overlap and URLs that can never be used, which are mistakes of the spec.
    """
    batches, unlisted = _listed(spec, progress) if spec.corpus else ([], {})
    manifest = pa.Table.from_batches(batches, schema=ingest.MANIFEST_SCHEMA)
    listed = listed_pictures(spec, manifest, list(unlisted))
    items = {concept: list(pictures) for concept, pictures in listed.items.items()}
    problems = [*listed.problems, *(Problem.of("corpus", error) for error in unlisted.values())]
    wanted = _wanted(spec)
    for entry in spec.corpus:
        count = wanted.get(entry.concept, 0)
        have = items.setdefault(entry.concept, [])
        if len(have) >= count or entry.concept in listed.empty:
            continue
        if entry not in unlisted:
            problems.append(Problem.of("corpus", _too_few(entry, count, len(have))))
        have += [CorpusItem(f"{ABSENT}{entry.concept}-{n}", entry.url) for n in range(len(have), count)]
    return Pictures(items, listed.empty, manifest, tuple(problems))


def _items(spec: Spec, manifest: pa.Table) -> dict[str, list[CorpusItem]]:
    """Return the different reference images of each concept, in URI order, of the role that its cells use.

    Objects that cannot be decoded stay in: their cases are unassessed, not dropped from the denominator.
    """
    roles = _roles(spec)
    items: dict[str, dict[str, CorpusItem]] = {}
    rows = manifest.select(["uri", "role", "concept", "pixel_sha256"]).sort_by("uri")
    for row in (row for batch in rows.to_batches(_BATCH_ROWS) for row in batch.to_pylist()):
        if row["role"] != roles.get(row["concept"]):
            continue
        item = row["pixel_sha256"] or f"unreadable-{identity.key(row['uri'])[:32]}"
        items.setdefault(row["concept"], {}).setdefault(item, CorpusItem(item, row["uri"]))
    return {concept: list(different.values()) for concept, different in items.items()}


def _with_regions(
    spec: Spec, manifest: pa.Table, items: dict[str, list[CorpusItem]]
) -> tuple[dict[str, list[CorpusItem]], list[Problem]]:
    """Return the pictures with the masks of their regions, where an instrument measures outside them, and what is wrong."""
    if not any(entry.where for entry in spec.quality):
        return items, []
    sizes = {row["uri"]: row for row in manifest.select(["uri", "width", "height"]).to_pylist() if row["width"]}
    found: dict[str, Region] = {}  # by item
    problems = []
    roles = _roles(spec)
    for entry in spec.corpus:
        below = locations.absolute(entry.url).rstrip("/") + "/"
        own = [item for item in items.get(entry.concept, ()) if item.uri.startswith(below) and item.uri in sizes]
        if entry.regions is None or entry.role != roles.get(entry.concept):
            continue
        try:
            masks = read_regions(entry, [Pictured(**sizes[item.uri]) for item in own], spec.corpus_limits)
            for item, region in zip(own, masks, strict=True):
                if found.setdefault(item.item, region).sha256 != region.sha256:
                    raise _two_regions(item, found[item.item], region)
        except CorpusError as error:
            problems.append(Problem.of("corpus", error))
    regions = {item: {"region": mask.sha256, "region_uri": mask.uri} for item, mask in found.items()}
    with_masks = {
        concept: [dataclasses.replace(item, **regions.get(item.item, {})) for item in pictures]
        for concept, pictures in items.items()
    }
    return with_masks, problems


def _with_attributes(
    spec: Spec, manifest: pa.Table, items: dict[str, list[CorpusItem]], unlisted: Collection[CorpusEntry]
) -> tuple[dict[str, list[CorpusItem]], list[Problem]]:
    """Return the pictures with what the tables of listed entries say of them, and what is wrong."""
    entries = [entry for entry in spec.corpus if entry.attributes is not None and entry not in unlisted]
    if not entries:
        return items, []
    uris: list[str] = manifest["uri"].to_pylist()
    found: dict[str, str] = {}  # by URI
    problems = []
    for entry in entries:
        below = locations.absolute(entry.url).rstrip("/") + "/"
        try:
            found |= read_attributes(entry, [uri for uri in uris if uri.startswith(below)])
        except AuditError as error:
            problems.append(Problem.of("corpus", error))
    described = {
        concept: [dataclasses.replace(item, attributes=found.get(item.uri)) for item in pictures]
        for concept, pictures in items.items()
    }
    return described, problems


def _two_regions(item: CorpusItem, one: Region, other: Region) -> CorpusError:
    return CorpusError(
        f"one picture has two different regions, {one.uri} and {other.uri}",
        where=item.uri,
        next_step="list the picture for one concept, or audit the other one in a spec of its own",
    )


def _listed(spec: Spec, progress: Progress | None) -> tuple[Sequence[pa.RecordBatch], dict[CorpusEntry, CorpusError]]:
    """Return the manifest of the entries that can be listed, and why the others cannot.

    Storage that does not answer is asked once: the other entries of the same scheme are not waited for.
    """
    batches = ingest.manifest(spec.corpus, spec.corpus_limits, progress=progress)
    try:
        return list(batches), {}
    except CorpusError:
        pass  # entry by entry, then
    rows: list[pa.RecordBatch] = []
    unlisted: dict[CorpusEntry, CorpusError] = {}
    silent: dict[str, CorpusError] = {}
    for entry in spec.corpus:
        scheme = entry.url.partition("://")[0]
        try:
            if scheme in silent:
                raise silent[scheme]
            rows += list(ingest.manifest([entry], spec.corpus_limits, progress=progress))
        except CorpusError as error:
            unlisted[entry] = _not_listed(entry, error, spec)
            if isinstance(error, SourceUnavailable):
                silent[scheme] = error
    return rows, unlisted


def _not_listed(entry: CorpusEntry, error: CorpusError, spec: Spec) -> CorpusError:
    needed = f"have {_wanted(spec).get(entry.concept, 0)} different pictures of {entry.concept!r} there"
    return CorpusError(error.what, where=_place(entry), next_step=f"{needed}; {error.next_step}")


def _too_few(entry: CorpusEntry, count: int, have: int) -> CorpusError:
    return CorpusError(
        f"the spec asks for {count} images of {entry.concept!r} and the corpus has {have} different ones",
        where=_place(entry),
        next_step=f"add images, or lower the number of cases to {have}",
    )


def _place(entry: CorpusEntry) -> str:
    return f"{entry.url} (concept {entry.concept})"


def _roles(spec: Spec) -> dict[str, str]:
    """Return the role of the corpus entries that each concept's cells use: target for what was erased, control for
    unlearned, neighbour for what must survive. What only controls of picture probes start from has that of its first entry."""
    others = _others(spec)
    roles = {entry.concept: str(entry.role) for entry in reversed(spec.corpus) if entry.concept in others}
    roles |= {name: "neighbour" for concept in spec.concepts for name in concept.neighbours}
    return roles | dict.fromkeys(spec.never_learned(), "control") | {c.name: "target" for c in spec.concepts}


def _wanted(spec: Spec) -> dict[str, int]:
    """Return how many reference pictures of each concept the largest cell takes, or an attack learns from."""
    latent = [scenario.cases for scenario in spec.scenarios if isinstance(scenario, LatentScenario)]
    probes = [scenario.cases for scenario in spec.scenarios if isinstance(scenario, PictureScenario)]
    learned = [
        (scenario.control_concept, learning(scenario).images)
        for scenario in spec.scenarios
        if isinstance(scenario, EmbeddingScenario) and scenario.embedding is None and scenario.personalisation is None
    ]
    largest = max([spec.controls.cases, *latent, *probes, *(count for _, count in learned)])
    others = [name for concept in spec.concepts for name in concept.neighbours] if latent else []
    wanted = dict.fromkeys([*others, *spec.controls.unlearned, *_others(spec)], spec.controls.cases)
    wanted |= {concept.name: largest for concept in spec.concepts}
    for name, count in learned:
        if name is not None:
            wanted[name] = max(wanted.get(name, 0), count)
    for scenario in (scenario for scenario in spec.scenarios if isinstance(scenario, TrainingScenario)):
        for name in (*(concept.name for concept in spec.concepts), scenario.control_concept):
            wanted[name] = max(wanted.get(name, 0), held_out(spec, name) + training(scenario).images)
    return wanted


def _others(spec: Spec) -> set[str]:
    """Return the concepts whose pictures the controls of picture probes start from."""
    named = {
        scenario.other_pictures(spec.corpus, concept.name)
        for scenario in spec.scenarios
        if isinstance(scenario, PictureScenario)
        for concept in spec.concepts
    }
    return {name for name in named if name is not None}
