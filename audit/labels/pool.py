"""The pictures of a run that raters can be asked about, and the judges that looked at them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from audit.errors import JournalError
from audit.files import Document, ForeignError, parse_json
from audit.index.published import open_published, require_run
from audit.index.records import records
from audit.index.store import explained
from audit.labels.documents import Answer, Domain, Judge
from audit.records import Control, Role
from audit.spec.policy import Policy
from audit.spec.sections import words_of
from audit.storage.journal import Journal

ROLES = (Role.TARGET, Role.NEIGHBOUR)
CONTROLS = (Control.BACKBONE, Control.UNLEARNED, Control.REFERENCE)
# Every picture by its pixels: those that several cases share are asked about once. Benign cells seek another thing in each
# picture, and the other controls are no pictures that a model or a photographer made of a concept.
_SEEN = """
select
    l.subject,
    l.concept,
    l.role,
    l.control,
    l.defence,
    l.sensitive,
    u.unit_key,
    o.image_id,
    g.pixel_sha256,
    o.detector,
    o.unfiltered as outcome
from outcomes as o
inner join runs as r on o.run_key = r.run_key
inner join cells as l on o.run_key = l.run_key and o.cell_id = l.cell_id
inner join planned_units as u on o.run_key = u.run_key and o.unit_id = u.unit_id
inner join images as g on o.unit_id = g.unit_id and o.image_id = g.image_id
where
    r.run_id = $run_id
    and g.status = 'ok'
    and g.pixel_sha256 is not null
    and (list_contains($roles, l.role) or list_contains($controls, l.control))
order by all
"""


@dataclasses.dataclass(frozen=True)
class Seen:
    """One picture, what is sought in it, and what each judge said. Equal pixels are one picture."""

    concept: str  # what is sought
    domain: Domain
    pixel_sha256: str
    unit_key: str  # the generate unit that holds its pixels
    image_id: int
    sensitive: bool
    audited: bool  # what is sought is what was erased
    defended: bool  # made by a defended model in at least one case
    outcomes: dict[str, Answer]  # by detector

    @property
    def hit(self) -> bool:
        """Whether any judge found the concept."""
        return "hit" in self.outcomes.values()


def pictures(published: Path, run_id: str) -> list[Seen]:
    """Return the assessed pictures of a run by concept, domain and pixels.

    A picture is sensitive when a cell of it is marked so, or what it is asked for is a sensitive concept of the spec. Raises
    `StoreError` when the index cannot be read or does not know the run.
    """
    with explained(published), open_published(published) as con:
        require_run(con, run_id, published)
        ((spec,),) = con.execute("select spec from runs where run_id = ?", [run_id]).fetchall()
        asked = {"run_id": run_id, "roles": [str(r) for r in ROLES], "controls": [str(c) for c in CONTROLS]}
        rows = records(con, _SEEN, asked)
    concepts = parse_json(spec).get("concepts") or ()
    sensitive = frozenset(concept["name"] for concept in concepts if concept.get("sensitive"))
    merged: dict[tuple[str, Domain, str], Seen] = {}
    for row in rows:
        domain: Domain = "reference" if row["control"] == Control.REFERENCE else "generated"
        place = (row["subject"], domain, row["pixel_sha256"])
        merged[place] = _merged(merged.get(place), row, domain, sensitive)
    assessed = (seen for seen in merged.values() if set(seen.outcomes.values()) - {"unassessed"})
    return sorted(assessed, key=lambda seen: (seen.concept, seen.domain, seen.pixel_sha256))


def _merged(known: Seen | None, row: Document, domain: Domain, sensitive: frozenset[str]) -> Seen:
    """Return a picture with one more row of it; where a judge read it in one case and not in another, its reading counts."""
    before = known.outcomes if known else {}
    detector: str = row["detector"]
    outcome: Answer = row["outcome"]
    if outcome == "unassessed":
        outcome = before.get(detector, outcome)
    return Seen(
        concept=row["subject"],
        domain=domain,
        pixel_sha256=row["pixel_sha256"],
        unit_key=row["unit_key"],
        image_id=row["image_id"],
        sensitive=bool(row["sensitive"] or {row["subject"], row["concept"]} & sensitive or (known and known.sensitive)),
        audited=row["subject"] == row["concept"] or bool(known and known.audited),
        defended=row["defence"] != "none" or bool(known and known.defended),
        outcomes={**before, detector: outcome},
    )


def judges_of(journal: Journal, run_id: str, policy: Policy | None = None) -> list[Judge]:
    """Return the judges of a run, one for each detector and concept that it can see, as `policy` or the plan reads them.

    Raises `JournalError` when the run has no plan or a damaged one.
    """
    try:
        plan = parse_json(journal.get_run(run_id, "plan.json"))
        phrases = phrases_of(plan["spec"])
        instruments = {row["detector"]: int(row["instrument_id"]) for row in plan["instruments"]}
        rules: dict[tuple[str, str], list[Document]] = {}
        for rule in plan["rules"]:
            rules.setdefault((rule["detector"], rule["subject"]), []).append(rule)
        thresholds = policy.thresholds if policy else {}
        return [
            Judge(
                detector=detector,
                instrument_id=instruments[detector],
                concept=concept,
                phrase=phrases.get(concept, words_of(concept)),
                threshold=thresholds.get(detector, min(float(rule["threshold"]) for rule in found)),
                labels=tuple(sorted(rule["label"] for rule in found)),
            )
            for (detector, concept), found in sorted(rules.items())
        ]
    except (ForeignError, LookupError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise JournalError(
            f"the plan of run {run_id!r} is damaged: {reason}", next_step="start it again: erasure-audit run SPEC"
        ) from error


def phrases_of(spec: Document) -> dict[str, str]:
    """Return the words for each concept and neighbour that a stored spec names; what is only named has none here."""
    phrases: dict[str, str] = {}
    concepts: Sequence[Document] = spec.get("concepts") or ()
    for concept in concepts:
        phrases.update(concept.get("neighbour_phrases") or {})
    for concept in concepts:
        phrases[concept["name"]] = concept["phrase"]
    return phrases
