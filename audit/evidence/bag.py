"""The folder of a bundle: BagIt 1.0 (RFC 8493) with SHA-256, which `sha256sum -c` checks.

`manifest-sha256.txt` lists the payload below `data/`, `tagmanifest-sha256.txt` the files beside it, the manifest among
them. The latter's digest is what gets signed, so the signatures, below `attestations/`, are in neither.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
from collections.abc import Container, Mapping
from pathlib import Path

from audit.errors import NotVerified
from audit.files import ForeignError, open_regular
from audit.progress.steps import counted

MANIFEST, TAG_MANIFEST = "manifest-sha256.txt", "tagmanifest-sha256.txt"
ATTESTATIONS = "attestations"
TAGS = ("bagit.txt", "bag-info.txt", MANIFEST, "VERIFY.txt")  # what the tag manifest lists
DECLARATION = b"BagIt-Version: 1.0\nTag-File-Character-Encoding: UTF-8\n"
_LINE = re.compile(r"([0-9a-f]{64})  ([A-Za-z0-9_][A-Za-z0-9_./-]*)")
_LARGEST_LIST = 16_000_000  # bytes of a manifest
_CHUNK = 1 << 20


def write_bag(folder: Path, payload: Mapping[str, bytes], info: Mapping[str, str], tags: Mapping[str, bytes]) -> str:
    """Write a bag into an empty folder and return the SHA-256 of its tag manifest.

    `payload` has paths below `data/`, `info` the lines of `bag-info.txt`, `tags` further files beside them.
    """
    files = {f"data/{name}": data for name, data in payload.items()}
    lines = {**info, "Payload-Oxum": f"{sum(map(len, files.values()))}.{len(files)}"}
    beside = {
        "bagit.txt": DECLARATION,
        "bag-info.txt": "".join(f"{key}: {' '.join(value.split())}\n" for key, value in lines.items()).encode(),
        MANIFEST: manifest(files),
        **tags,
    }
    beside[TAG_MANIFEST] = manifest(beside)
    for name, data in {**files, **beside}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return hashlib.sha256(beside[TAG_MANIFEST]).hexdigest()


def manifest(files: Mapping[str, bytes]) -> bytes:
    """Return a manifest of files: a digest and a path a line, as `sha256sum` prints them, sorted by path."""
    return "".join(f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())).encode()


@dataclasses.dataclass(frozen=True)
class Bag:
    """What lies in a bundle's folder, not yet believed: path -> SHA-256 of each file, and what is no file."""

    folder: Path
    digests: Mapping[str, str]
    strange: Mapping[str, str]  # path -> what it is instead of a file

    def read(self, name: str) -> bytes:
        """Return the bytes of a file, which are still those that were hashed. Raises `NotVerified`."""
        try:
            with open_regular(self.folder / name) as stream:
                data = stream.read()
        except (OSError, ForeignError) as error:
            raise NotVerified(f"the file cannot be read: {error}", where=name) from None
        if hashlib.sha256(data).hexdigest() != self.digests.get(name):
            raise NotVerified("the file changed while it was verified", where=name)
        return data

    @property
    def attestations(self) -> list[str]:
        """The paths of the files below `attestations/`, sorted."""
        return sorted(name for name in self.digests if name.startswith(f"{ATTESTATIONS}/"))

    def listed(self, name: str) -> dict[str, str]:
        """Return path -> digest of a manifest. Raises `NotVerified` for one that this tool would not write."""
        if name not in self.digests:
            raise NotVerified("the file is missing", where=name)
        if (self.folder / name).stat().st_size > _LARGEST_LIST:
            raise NotVerified("the file is no manifest: it is too large", where=name)
        found: dict[str, str] = {}
        try:
            text = self.read(name).decode("ascii")
        except UnicodeDecodeError:
            raise NotVerified("the file is no manifest: it is not ASCII text", where=name) from None
        for number, line in enumerate(text.split("\n")[:-1], start=1):
            match = _LINE.fullmatch(line)
            if match is None or match[2] in found or ".." in match[2].split("/"):
                raise NotVerified(f"line {number} is none of a manifest", where=name)
            found[match[2]] = match[1]
        if not text.endswith("\n"):
            raise NotVerified("the last line is not ended", where=name)
        return found


def scan(folder: Path) -> Bag:
    """Return what lies below a folder, every file hashed; links are named and not followed."""
    digests: dict[str, str] = {}
    strange: dict[str, str] = {}

    def unreadable(error: OSError) -> None:
        strange[_name(folder, Path(error.filename))] = f"a folder that cannot be read: {error.strerror}"

    for parent, folders, names in counted(os.walk(folder, onerror=unreadable), "hash", None, "folders"):
        below = Path(parent)
        if below != folder and not folders and not names:
            strange[_name(folder, below)] = "an empty folder"
        for entry in (below / name for name in (*folders, *names)):
            mode = entry.lstat().st_mode
            if stat.S_ISREG(mode):
                try:
                    digests[_name(folder, entry)] = _sha256(entry)
                except (OSError, ForeignError) as error:
                    strange[_name(folder, entry)] = f"unreadable: {error}"
            elif not stat.S_ISDIR(mode):
                strange[_name(folder, entry)] = "a link" if stat.S_ISLNK(mode) else "no regular file"
    return Bag(folder, dict(sorted(digests.items())), strange)


def differences(bag: Bag) -> list[tuple[str, str]]:
    """Return (path, what is wrong) for every file that is not the one that the manifests list, or that they do not list.

    Signatures are left to whoever verifies them. Empty when all is as it was written.
    """
    problems = [(name, f"it is {what}") for name, what in bag.strange.items()]
    listed: dict[str, str] = {}
    for name in (TAG_MANIFEST, MANIFEST):
        try:
            entries = bag.listed(name)
        except NotVerified as error:
            problems.append((name, error.what))
            continue
        misplaced = [path for path in entries if path.startswith("data/") != (name == MANIFEST)]
        problems += [(name, f"it lists {path}, which is not its part") for path in misplaced]
        listed.update(entries)
    unreadable = {name for name, _ in problems if name in (TAG_MANIFEST, MANIFEST)}
    displaced = {digest: path for path, digest in bag.digests.items() if listed.get(path) != digest}
    for name in sorted({*listed, *bag.digests}):
        if name in listed and bag.digests.get(name) != listed[name]:
            what = "the file is not the one that was sealed" if name in bag.digests else "the file is missing"
            if name not in bag.strange:
                problems.append((name, what + lies_at(displaced.get(listed[name]))))
        elif name not in listed and not _may_be_listed(name, unreadable):
            problems.append((name, "the file belongs to no manifest"))
    return list(dict.fromkeys(problems))


def lies_at(path: str | None) -> str:
    """Return the end of a sentence that says at which path the content of a file lies instead; empty for None."""
    return f"; what was sealed lies at {path}" if path else ""


def _may_be_listed(name: str, unreadable: Container[str]) -> bool:
    """Return whether a file may be listed in a manifest that cannot be read, or needs no manifest."""
    if name == TAG_MANIFEST or name.startswith(f"{ATTESTATIONS}/"):
        return True
    if name.startswith("data/"):
        return MANIFEST in unreadable
    return TAG_MANIFEST in unreadable and name in TAGS


def _name(folder: Path, path: Path) -> str:
    return path.relative_to(folder).as_posix()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open_regular(path) as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
