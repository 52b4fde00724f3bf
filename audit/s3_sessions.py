"""Sessions of boto in which no answer of a server is followed without an end."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any


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
