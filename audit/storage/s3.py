"""Open S3 servers, all by the same settings: how long an answer may take, and how many redirections are followed."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Mapping, MutableMapping
from typing import Any

import fsspec

# A wrong endpoint must be named within seconds: botocore alone would wait 60 s and try five times.
CONFIG: Mapping[str, object] = {
    "connect_timeout": 3,
    "read_timeout": 30,
    "retries": {"total_max_attempts": 2, "mode": "standard"},
    "max_pool_connections": 16,
}
_TRIES = 2  # of s3fs, each of which botocore repeats; its own default is 5, and broken servers would take 20 s
# Several S3 servers lack the newer default, or answer partial reads with the checksum of the whole object. Bytes are
# hashed here anyway.
_CHECKSUMS = {
    "AWS_RESPONSE_CHECKSUM_VALIDATION": "response_checksum_validation",
    "AWS_REQUEST_CHECKSUM_CALCULATION": "request_checksum_calculation",
}


def s3_filesystem() -> Any:
    """Return an S3 file system for the AWS settings of this moment; kept as long as process and settings stay the same.

    Settings come from the environment and the usual AWS files. A cached instance of fsspec's own would keep the endpoint
    and the credentials of the first one opened in this process.
    """
    settings = sorted((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
    return _file_system(hashlib.sha256(repr(settings).encode()).hexdigest(), os.getpid())


@functools.lru_cache(maxsize=2)
def _file_system(settings: str, process: int) -> Any:
    config = dict(CONFIG)
    config |= {option: "when_required" for name, option in _CHECKSUMS.items() if name not in os.environ}
    system: Any = fsspec.filesystem(
        "s3", session=_session(), skip_instance_cache=True, use_listings_cache=False, config_kwargs=config
    )
    system.retries = _TRIES
    return system


def read_whole(system: Any, path: str) -> bytes:
    """Return the bytes of an object, asked for at once; s3fs alone would begin with a HEAD request for its size."""
    return bytes(system.cat_file(path, max_concurrency=1))


def _session() -> Any:
    """Return a session of aiobotocore for `s3fs`.

    A request that is redirected asks for the bucket's region with another one. Where that is redirected too and names
    no region, boto would ask again and again; here the second redirect is an answer like any other.
    """
    from aiobotocore.session import AioSession

    created = AioSession()
    created.register("before-call.s3.HeadBucket", _redirected)
    return created


def _redirected(params: MutableMapping[str, Any], **_: object) -> None:
    """Mark a question for a bucket's region as one that was redirected already, which boto redirects no further."""
    context = params.setdefault("context", {})
    context["s3_redirect"] = {**context.get("s3_redirect", {}), "redirected": True}
