"""Sessions of boto in which no answer of a server is followed without an end."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import MutableMapping
from typing import Any

import fsspec

# A wrong endpoint must be named within seconds: botocore alone would wait 60 s and try five times.
_S3_CONFIG: dict[str, Any] = {
    "connect_timeout": 3,
    "read_timeout": 30,
    "retries": {"total_max_attempts": 2, "mode": "standard"},
    "max_pool_connections": 16,
}
_S3_TRIES = 2  # s3fs repeats reads that broke off; its own default is 5
# Several S3 servers answer partial reads with the checksum of the whole object. Bytes are hashed here anyway.
_S3_CHECKSUMS = {
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "response_checksum_validation",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "request_checksum_calculation",
}


def session() -> Any:
    """Return a session of aiobotocore for `s3fs`, whose settings come from the environment and the usual AWS files.

    A request that is redirected asks for the bucket's region with another one. Where that is redirected too and names
    no region, boto would ask again and again; here the second redirect is an answer like any other.
    """
    from aiobotocore.session import AioSession

    made = AioSession()
    made.register("before-call.s3.HeadBucket", _redirected)
    return made


def _redirected(params: MutableMapping[str, Any], **_: Any) -> None:
    """Mark a question for a bucket's region as one that was redirected already, which boto redirects no further."""
    context = params.setdefault("context", {})
    context["s3_redirect"] = {**context.get("s3_redirect", {}), "redirected": True}


def s3_filesystem() -> Any:
    """An S3 file system for the AWS settings of this moment; kept as long as process and settings stay the same."""
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _s3_for(hashlib.sha256(repr(settings).encode()).hexdigest(), os.getpid())


@functools.lru_cache(maxsize=2)
def _s3_for(settings: str, process: int) -> Any:
    config = dict(_S3_CONFIG)
    config |= {option: "when_required" for name, option in _S3_CHECKSUMS.items() if name not in os.environ}
    system: Any = fsspec.filesystem(
        "s3",
        session=session(),
        skip_instance_cache=True,
        use_listings_cache=False,
        max_concurrency=1,  # otherwise every read begins with a HEAD request; whole objects are read in parallel here
        config_kwargs=config,
    )
    system.retries = _S3_TRIES
    return system
