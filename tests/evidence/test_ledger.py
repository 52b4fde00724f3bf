"""The ledger: one chain on disk and in a bucket, whoever writes; whatever is changed in it is named."""

from __future__ import annotations

import datetime as dt
import itertools
import json
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest

from audit.evidence import keys, ledger, registration
from audit.evidence.ledger import GENESIS, LedgerError, check_chain, check_order, name_of, raw_entries, read_entries
from audit.evidence.registration import Criteria, check_head, check_signatures, record_head, recorded_head
from audit.spec.policy import Limit, Policy
from audit.storage.journal import Journal
from audit.storage.objects import ObjectStore
from audit.verdict.record import policy_sha256
from tests import servers

NOON = dt.datetime(2026, 11, 2, 12, 0, tzinfo=dt.UTC)
POLICY = Policy(version="release-1", limits=(Limit(crr_max=0.05),), judges=("judge",))
CRITERIA = Criteria("demo", POLICY, {"objects": 3, "sha256": "c" * 64}, {"backbone": "b" * 64, "defences": []})


def clock(start: dt.datetime = NOON) -> Callable[[], dt.datetime]:
    """A clock that moves on by a minute whenever it is asked."""
    minutes = itertools.count()
    return lambda: start + dt.timedelta(minutes=next(minutes))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[keys.PrivateKey, keys.PublicKey]:
    path = tmp_path_factory.mktemp("keys") / "officer.pem"
    public = keys.generate(path)
    return keys.load_private_key(path), public


@pytest.fixture(scope="module")
def bucket() -> Iterator[servers.Environment]:
    with servers.moto_server() as variables:
        yield variables


@pytest.fixture(params=["file", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ObjectStore:
    if request.param == "file":
        return ObjectStore(str(tmp_path / "runs"))
    servers.use(monkeypatch, request.getfixturevalue("bucket"))
    name = f"ledger-{uuid.uuid4().hex}"
    boto3.client("s3").create_bucket(Bucket=name)
    return ObjectStore(f"s3://{name}/prefix")


@pytest.fixture
def three(tmp_path: Path, pair: tuple[keys.PrivateKey, keys.PublicKey]) -> ObjectStore:
    store, now = ObjectStore(str(tmp_path / "runs")), clock()
    for _ in range(3):
        registration.register(store, CRITERIA, pair[0], "Ada", now)
    return store


def test_entries_follow_each_other_and_count_attempts(
    store: ObjectStore, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    now = clock()
    written = [registration.register(store, CRITERIA, pair[0], "Ada", now) for _ in range(2)]
    other = Criteria("demo", POLICY, CRITERIA.corpus, {"backbone": "d" * 64, "defences": []})
    written.append(registration.register(store, other, pair[0], "Ada", now))
    entries = read_entries(store)
    assert entries == written
    assert [entry.previous for entry in entries] == [GENESIS, entries[0].sha256, entries[1].sha256]
    assert [entry.predicate["attempt"] for entry in entries] == [1, 2, 1]
    said = entries[0].predicate
    assert (said["alpha"], said["limits"], said["policy_sha256"]) == (
        0.05, [POLICY.limits[0].model_dump(mode="json")], policy_sha256(POLICY)
    )  # fmt: skip
    assert said["registered_by"] == {"name": "Ada", "keyid": pair[1].keyid}
    assert check_signatures(entries, [pair[1]]) == ([], [])


def test_writers_at_once_all_land_in_one_chain(
    store: ObjectStore, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    def write(number: int) -> int:
        now = lambda: dt.datetime.now(dt.UTC)  # noqa: E731
        return registration.register(store, CRITERIA, pair[0], f"writer {number}", now).number

    many = 12 if store.local else 4
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(write, range(many)))
    entries = read_entries(store)
    assert sorted(numbers) == [entry.number for entry in entries] == list(range(1, many + 1))
    writers = {entry.predicate["registered_by"]["name"] for entry in entries}  # type: ignore[index, call-overload]
    assert len(writers) == many
    assert sorted(entry.predicate["attempt"] for entry in entries) == list(range(1, many + 1))  # type: ignore[type-var]


def replace(store: ObjectStore, number: int, data: bytes) -> None:
    store.put(name_of(number), data)


def edited(data: bytes, **changes: object) -> bytes:
    return json.dumps({**json.loads(data), **changes}, sort_keys=True, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda store, raw: store.delete(name_of(2)), "ledger/000002.json is missing"),
        (lambda store, raw: store.delete(name_of(1)), "ledger/000001.json is missing"),
        (lambda store, raw: replace(store, 2, raw[2][:-9]), "ledger/000002.json cannot be read"),
        (lambda store, raw: replace(store, 2, edited(raw[2], version=2)), "it is of version 2"),
        (lambda store, raw: replace(store, 2, raw[3]), "ledger/000002.json says that it is number 3"),
        (lambda store, raw: replace(store, 3, edited(raw[3], at=NOON.isoformat())), "a clock ran backwards"),
        (
            lambda store, raw: replace(store, 2, edited(raw[2], envelope=json.loads(raw[1])["envelope"])),
            "ledger/000002.json holds a statement that was made for another place",
        ),
        (
            lambda store, raw: replace(store, 1, edited(raw[1], kind="purge")),
            "ledger/000002.json does not follow ledger/000001.json as it is now",
        ),
        (lambda store, raw: replace(store, 1, edited(raw[1], previous="a" * 64)), "is the first and names one before"),
    ],
)
def test_whatever_is_changed_is_named(
    three: ObjectStore, damage: Callable[[ObjectStore, dict[int, bytes]], None], sentence: str
) -> None:
    assert check_chain(raw_entries(three)) == []
    damage(three, raw_entries(three))
    assert any(sentence in problem for problem in check_chain(raw_entries(three)))
    with pytest.raises(LedgerError, match="the ledger is broken"):
        read_entries(three)


def test_a_cut_end_is_noticed_by_who_noted_the_head(three: ObjectStore) -> None:
    head = read_entries(three)[-1].sha256
    assert check_chain(raw_entries(three), head) == []
    three.delete(name_of(3))
    assert check_chain(raw_entries(three)) == []
    assert "cut off or written anew" in check_chain(raw_entries(three), head)[0]


def test_a_clock_that_runs_backwards_is_refused(
    three: ObjectStore, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    with pytest.raises(LedgerError, match="the clock runs backwards"):
        registration.register(three, CRITERIA, pair[0], "Ada", clock(NOON - dt.timedelta(days=1)))
    assert len(read_entries(three)) == 3
    just_behind = read_entries(three)[-1].time - dt.timedelta(milliseconds=50)
    entry = registration.register(three, CRITERIA, pair[0], "Ada", lambda: just_behind)
    assert entry.time == read_entries(three)[2].time


def test_signatures_of_other_keys_and_of_nobody_are_named(
    three: ObjectStore, tmp_path: Path, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    stranger = keys.generate(tmp_path / "stranger.pem")
    entries = read_entries(three)
    problems, _ = check_signatures(entries, [stranger])
    assert len(problems) == 3 and all("none that you trust" in problem for problem in problems)
    raw = raw_entries(three)
    envelope = {**json.loads(raw[3])["envelope"], "signatures": []}
    replace(three, 3, edited(raw[3], envelope=envelope))
    problems, unsigned = check_signatures(read_entries(three), [pair[1]])
    assert problems == ["ledger/000003.json registers a policy, and nobody signed it"]
    assert unsigned == [name_of(3)]
    forged = raw[3].replace(b'"sig":"', b'"sig":"AAAA')
    replace(three, 3, forged)
    problems, _ = check_signatures(read_entries(three), [pair[1]])
    assert problems and problems[0].startswith("ledger/000003.json: ")


def test_a_registration_counts_when_it_came_before_the_plan(three: ObjectStore) -> None:
    entries, digest = read_entries(three), policy_sha256(POLICY)
    second = entries[1].time
    assert ledger.registered(entries, digest, second) == entries[0]
    assert ledger.registered(entries, digest, second + dt.timedelta(seconds=1)) == entries[1]
    assert ledger.registered(entries, digest, entries[0].time) is None
    assert ledger.registered(entries, "0" * 64, NOON + dt.timedelta(days=1)) is None


def test_the_chain_says_what_was_registered_after_planning(
    three: ObjectStore, pair: tuple[keys.PrivateKey, keys.PublicKey]
) -> None:
    journal = Journal(three.root)
    record_head(journal, "run-1")
    late = registration.register(three, CRITERIA, pair[0], "Ada", clock(NOON + dt.timedelta(hours=1)))
    entries, head = read_entries(three), recorded_head(journal, "run-1")
    assert head == (3, entries[2].sha256)
    assert check_head(entries, entries[1], head) == []
    assert check_head(entries, entries[1], None) == []
    assert "was registered after the run was planned" in check_head(entries, late, head)[0]
    assert "cut off or written anew" in check_head(entries, entries[1], (3, "0" * 64))[0]


def test_steps_in_the_wrong_order_are_named() -> None:
    hours = [NOON + dt.timedelta(hours=n) for n in range(4)]
    assert check_order(*hours) == []
    assert check_order(hours[0], hours[1], None, hours[3]) == []
    swapped = check_order(hours[1], hours[0], hours[2], hours[3])
    assert len(swapped) == 1 and swapped[0].startswith("the run was planned at 2026-11-02T12:00:00")
    assert len(check_order(hours[0], hours[1], hours[3], hours[2])) == 1
    assert len(check_order(hours[3], hours[1], None, None)) == 1
