"""Counts of a judge's errors from stored labels, for the gate."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence

from audit.labels.documents import DOMAINS, Judge, Label, LabelledPicture, StoredLabels
from audit.labels.pool import judges_of
from audit.labels.stored import stored
from audit.spec.policy import Policy
from audit.storage.journal import Journal
from audit.verdict.calibration import Calibration

_NO_INSTRUMENT = -1  # numbers of instruments are not negative
Counts = tuple[int, int, int, int]  # positives, found, negatives, cleared


def calibrations(
    journal: Journal, run_id: str, concepts: Collection[str] | None = None, policy: Policy | None = None
) -> list[Calibration]:
    """Return what is known of the judges of a run, at most one calibration for each judge, concept and domain.

    A judge is the same only with the same name, instrument (weights, preprocessing, parameters), counted labels, threshold
    and question: `policy` replaces the planned thresholds, and a threshold at which nobody's labels were counted has no
    calibration. `concepts` leaves out others. All labels of the run itself count, however often it was labelled, so that
    labelling again removes no mistake. A run without any borrows those of the run that was labelled last: that its judge errs
    as often on other pictures of the same kind is an assumption. Raises `LabelsError` for damaged labels.
    """
    files = stored(journal)
    known = []
    for judge in judges_of(journal, run_id, policy):
        if concepts is not None and judge.concept not in concepts:
            continue
        answering = [(digest, labels) for digest, labels in files if judge in labels.judges]
        for domain in DOMAINS:
            if (calibration := _calibration(judge, domain, answering, run_id)) is not None:
                known.append(calibration)
    return known


def known_of_judges(journal: Journal, run_id: str, policy: Policy | None = None) -> tuple[Calibration, ...]:
    """Return what the gate has to know of a run's judges: `calibrations`, and one without counts for each judge `outdated`.

    The latter has no instrument's number, so that the gate takes its labels for those of another version of the judge and
    decides nothing by it.
    """
    moved = (
        Calibration(judge.detector, _NO_INSTRUMENT, judge.concept, DOMAINS[0], 0, 0, 0, 0, "", "")
        for judge in outdated(journal, run_id, policy)
    )
    return (*calibrations(journal, run_id, policy=policy), *moved)


def _calibration(
    judge: Judge, domain: str, files: Sequence[tuple[str, StoredLabels]], run_id: str
) -> Calibration | None:
    with_pictures = [(d, labels, chosen) for d, labels in files if (chosen := random_sample(labels, judge, domain))]
    if not with_pictures:
        return None
    source = run_id
    if all(labels.run_id != run_id for _, labels, _ in with_pictures):
        source = max(with_pictures, key=lambda file: (file[1].labelled_at, file[0]))[1].run_id
    used = [file for file in with_pictures if file[1].run_id == source]
    positives, found, negatives, cleared = counts(
        (picture for *_, chosen in used for picture in chosen), judge.detector
    )
    digests = [digest for digest, *_ in used]
    return Calibration(
        detector=judge.detector,
        instrument_id=judge.instrument_id,
        concept=judge.concept,
        domain=domain,
        positives=positives,
        found=found,
        negatives=negatives,
        cleared=cleared,
        labelled_at=min(labels.labelled_at for _, labels, _ in used),
        sha256=digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(sorted(digests)).encode()).hexdigest(),
    )


def random_sample(labels: StoredLabels, judge: Judge, domain: str) -> list[LabelledPicture]:
    """Return the pictures that calibrate a judge: those of the simple random sample that it has read."""
    return [
        picture
        for picture in labels.pictures
        if picture.sample == "random"
        and (picture.concept, picture.domain) == (judge.concept, domain)
        and picture.outcomes.get(judge.detector, "unassessed") != "unassessed"
    ]


def counts(pictures: Iterable[LabelledPicture], detector: str) -> Counts:
    """Return (positives, found, negatives, cleared) of one judge; equal pixels count once.

    A picture on which not all raters say the same, or on which one cannot tell, counts as a positive that the judge missed
    and as a negative that it did not clear. Whatever it really shows, neither bound on the judge's errors is better for it.
    """
    labels: dict[str, set[Label]] = {}
    outcomes: dict[str, str] = {}
    for picture in pictures:
        labels.setdefault(picture.pixel_sha256, set()).update(picture.labels)
        outcomes[picture.pixel_sha256] = picture.outcomes[detector]
    positives = found = negatives = cleared = 0
    for pixels, given in labels.items():
        if given != {Label.DOES_NOT}:
            positives += 1
            found += given == {Label.SHOWS} and outcomes[pixels] == "hit"
        if given != {Label.SHOWS}:
            negatives += 1
            cleared += given == {Label.DOES_NOT} and outcomes[pixels] == "clear"
    return positives, found, negatives, cleared


def outdated(journal: Journal, run_id: str, policy: Policy | None = None) -> list[Judge]:
    """Return the judges of a run, as `policy` reads them, that the labels do not speak of any more.

    Somebody labelled pictures of the run for the same detector and concept at another threshold, or of another run at the
    threshold that was planned. Whoever decides by such a judge without labels would lose what is known of its errors by moving
    its threshold.
    """
    files = stored(journal)
    own = [judge for _, labels in files if labels.run_id == run_id for judge in labels.judges]
    known = {(judge.detector, judge.concept) for judge in own}
    every = [judge for _, labels in files for judge in labels.judges]
    lent = {(judge.detector, judge.concept) for judge in judges_of(journal, run_id) if judge in every}
    return [
        judge
        for judge in judges_of(journal, run_id, policy)
        if (judge not in own and (judge.detector, judge.concept) in known)
        or (judge not in every and (judge.detector, judge.concept) in lent)
    ]
