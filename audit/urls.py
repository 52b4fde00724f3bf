"""Addresses of objects, and text about them, without credentials. Pure functions; nothing here opens anything."""

from __future__ import annotations

import os
import re
from collections.abc import Container
from pathlib import Path

_USERINFO = re.compile(r"(?<=://)[^/\s@\"']+@")
_S3_USERINFO = re.compile(r"(s3a?://)(?!arn:)[^/:\s@\"']+:[^\s@\"']*@")  # secret keys may hold slashes
_SIGNED = re.compile(
    r"([?&](?:x-amz-(?:signature|credential|security-token)|awsaccesskeyid|signature|sig|token|access_key|secret_key)=)"
    r"[^&\s\"']+",
    re.IGNORECASE,
)
SCHEMES = ("file", "s3")  # of corpora and storage roots
_LONGEST = 300  # characters of what another library or server says
_SECRET_VARIABLES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID")


def scheme(url: str) -> str:
    """The protocol of `url` in lower case; `file` for a plain path."""
    head, separator, _ = url.partition("://")
    if separator:
        return {"s3a": "s3", "local": "file"}.get(head.lower(), head.lower())
    return "file"


def scheme_problem(url: str, also: Container[str] = ()) -> str | None:
    """Return why `url` is on no storage that is meant here, None for a path, `file://`, `s3://` and schemes in `also`.

    fsspec would open many more: archives inside files, web pages, references, other people's servers.
    """
    kind = scheme(url)
    if kind in SCHEMES or kind in also:
        return None if kind == "file" or "::" not in url else "addresses that are chained with '::' are not read"
    return f"the protocol {kind!r} is not supported; folders (a path or file:///folder) and s3://bucket/prefix are"


def has_credentials(url: str) -> bool:
    """Whether `url` carries a user, a password or a signature. A path on disk never does."""
    authority = url.partition("://")[2].partition("/")[0]
    keys = scheme(url) == "s3" and ":" in authority and not authority.startswith("arn:")
    return scheme(url) != "file" and (keys or redact(url) != url)


def redact(text: str) -> str:
    """`text` with user information and signatures in URLs, and the values of AWS key variables, replaced by `***`."""
    text = _USERINFO.sub("***@", _S3_USERINFO.sub(r"\1***@", text))
    text = _SIGNED.sub(r"\1***", text)
    for name in _SECRET_VARIABLES:
        value = os.environ.get(name, "")
        if len(value) >= 8:  # shorter values are no keys, and would blank ordinary words
            text = text.replace(value, "***")
    return text


def readable(text: str) -> str:
    """Return the text of a foreign error as one short line: without credentials and unprintable characters, cut when long."""
    shown = "".join(c if c.isprintable() else "?" for c in " ".join(redact(text).split()))
    return shown if len(shown) <= _LONGEST else shown[: _LONGEST - 3] + "..."


def absolute(url: str) -> str:
    """`url` as it is recorded: `file:///absolute/path` (relative paths start at the current directory), `s3://b/key`.

    The rest is taken literally: names are not percent-decoded, because object keys and files may hold any character.
    """
    kind = scheme(url)
    if kind != "file":
        return f"{kind}://{url.partition('://')[2]}"
    rest = url.partition("://")[2] if "://" in url else url.removeprefix("file:")
    path = Path(os.path.expanduser(rest)).absolute()  # Path.expanduser raises for an unknown user
    return "file:///" + os.path.normpath(path).lstrip("/")
