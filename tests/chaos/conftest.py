"""A storage root on S3 behind the harmful proxy."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

import pytest

from audit.storage.objects import ObjectStore
from tests.chaos.proxy import Proxy
from tests.chaos.s3_rules import HARMS, Harm
from tests.servers import moto_server, use


@dataclasses.dataclass
class Storage:
    """A storage root behind a proxy."""

    store: ObjectStore
    proxy: Proxy

    def harm(self, name: str, left: int, seed: int = 1) -> Harm:
        rule = HARMS[name](random.Random(seed), left)
        self.proxy.hits, self.proxy.rule = 0, rule
        return rule


@pytest.fixture(scope="module")
def storage() -> Iterator[Storage]:
    import boto3

    with (
        moto_server() as environment,
        Proxy(environment["AWS_ENDPOINT_URL"]) as proxy,
        pytest.MonkeyPatch.context() as m,
    ):
        use(m, {**environment, "AWS_ENDPOINT_URL": proxy.url})
        client = boto3.client("s3")
        client.create_bucket(Bucket="audits")
        client.close()
        yield Storage(ObjectStore("s3://audits/root"), proxy)


@pytest.fixture
def quiet(storage: Storage) -> Iterator[Storage]:
    storage.proxy.rule = None
    yield storage
    storage.proxy.rule = None
