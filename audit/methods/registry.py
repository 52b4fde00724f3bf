"""The installed methods of one family, found by entry points. A plug-in is imported when its method is asked for.

A plug-in that cannot be imported, claims a name that is taken or has no version is refused by `find`, with its name, and
disturbs nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import BaseModel

from audit.errors import SpecError
from audit.methods.method import Method

OWN = "erasure-audit"
_NAME = re.compile(r"[a-z0-9][a-z0-9._+-]{0,63}")  # what a spec can write

M = TypeVar("M", bound=Method)


class MethodError(SpecError):
    """A method that a spec names is installed and cannot be used."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry point: the method's name, the object that it names, and the distribution that brings it."""

    name: str
    value: str  # module:attribute
    distribution: str
    version: str  # of the distribution; empty where its metadata has none

    @property
    def package(self) -> str:
        """Return the name and version of the distribution."""
        return f"{self.distribution} {self.version}".rstrip()


@dataclasses.dataclass(frozen=True)
class Installed(Generic[M]):
    """An entry point with its method, or with the reason why there is none."""

    entry: Entry
    method: M | None
    problem: str | None = None


class Registry(Generic[M]):
    """The methods of one family. Messages call each a `word`; it is a `record` with parameters derived from `parameters`."""

    def __init__(self, family: str, word: str, record: type[M], parameters: type[BaseModel] = BaseModel) -> None:
        self.family, self.word, self._record, self._parameters = family, word, record, parameters
        self.loaded: dict[str, M] = {}

    @property
    def group(self) -> str:
        """The name of the entry-point group."""
        return f"erasure_audit.{self.family}"

    def names(self) -> tuple[str, ...]:
        """Return the names of all installed methods, in order; imports none of them."""
        return tuple(sorted(self._entries() | self.loaded.keys()))

    def find(self, name: str, where: str) -> M:
        """Return the method `name`, imported if need be.

        Raises KeyError when nothing installed has that name, and `MethodError` when it cannot be used; `where` is the
        place in the spec that names it.
        """
        if name not in self.loaded:
            entries = self._entries()[name]
            installed = self._load(entries)
            if installed.method is None:
                packages = sorted({entry.distribution for entry in entries if entry.distribution != OWN})
                raise MethodError(
                    f"{self.word} {name!r} cannot be used: {installed.problem}",
                    where=where,
                    next_step=f"mend or uninstall {' or '.join(packages) or OWN}; "
                    "erasure-audit methods lists what works",
                )
            self.loaded[name] = installed.method
        return self.loaded[name]

    def entry(self, name: str) -> Entry | None:
        """Return the entry point of a method; None for one that is not installed."""
        return next(iter(self._entries().get(name, ())), None)

    def foreign(self, name: str) -> Entry | None:
        """Return the entry point of a method that another distribution brings; None for our own and for unknown ones."""
        entry = self.entry(name)
        return None if entry is None or entry.distribution == OWN else entry

    def origin(self, name: str, where: str) -> dict[str, dict[str, str]]:
        """Return what an identity says of a method that another distribution brings, as `plugin`; nothing for our own.

        The code digest covers our own methods. Raises as `find`.
        """
        entry = self.foreign(name)
        if entry is None:
            return {}
        version = self.find(name, where).version
        return {"plugin": {"distribution": entry.distribution, "version": entry.version, "method_version": version}}

    def installed(self) -> list[Installed[M]]:
        """Import every method of the family; one item for each entry point, by name."""
        items = []
        for _, entries in sorted(self._entries().items()):
            installed = self._load(entries)
            items += [dataclasses.replace(installed, entry=entry) for entry in entries]
        return items

    def _entries(self) -> Mapping[str, Sequence[Entry]]:
        return _by_group().get(self.group, {})

    def _load(self, entries: Sequence[Entry]) -> Installed[M]:
        entry = entries[0]
        if len(entries) > 1:
            return Installed(entry, None, f"{' and '.join(one.package for one in entries)} both claim the name")
        who = f"{entry.value} of {entry.package}"
        if not entry.version:
            return Installed(entry, None, f"{who}: the distribution has no version")
        if not _NAME.fullmatch(entry.name):
            return Installed(entry, None, f"{who}: no spec can write that name")
        try:
            module, _, attribute = entry.value.partition(":")
            with contextlib.redirect_stdout(sys.stderr):  # standard output may be a JSON document
                named: object = importlib.import_module(module.strip())
                for part in attribute.strip().split("."):
                    named = getattr(named, part)
        except (Exception, SystemExit) as error:  # somebody else's code: whatever it raises, the tool goes on
            return Installed(
                entry, None, f"{who}: {type(error).__name__}: {(str(error) or 'no message').splitlines()[0]}"
            )
        problem = self._problem(named, entry.name)
        method = named if problem is None and isinstance(named, self._record) else None
        return Installed(entry, method, None if problem is None else f"{who}: {problem}")

    def _problem(self, named: object, name: str) -> str | None:
        if not isinstance(named, self._record):
            return f"it is no {self._record.__name__}"
        if named.name != name:
            return f"its name is {named.name!r}"
        if not isinstance(named.version, str) or not named.version.strip():
            return "the method has no version"
        if not (isinstance(named.parameters, type) and issubclass(named.parameters, self._parameters)):
            return f"its parameters are no {self._parameters.__module__}.{self._parameters.__name__}"
        return None


@functools.cache
def _by_group() -> Mapping[str, Mapping[str, Sequence[Entry]]]:
    """Return group -> name -> entry points; our own stand first where several claim a name."""
    groups: dict[str, dict[str, list[Entry]]] = {}
    for group, entry in (*_own(), *_others()):
        if entry not in groups.setdefault(group, {}).setdefault(entry.name, []):
            groups[group][entry.name].append(entry)
    return groups


def one_of(names: Sequence[str]) -> str:
    """Return the names as a message lists them: 'a', 'b' or 'c'."""
    *others, last = (repr(name) for name in names)
    return f"{', '.join(others)} or {last}" if others else last


def forget() -> None:
    """Look for entry points again at the next question: for processes that install plug-ins while they run."""
    _by_group.cache_clear()


def _own() -> Iterator[tuple[str, Entry]]:
    """Yield our own entry points: those of the source tree where this is one, whose installed metadata may be older."""
    file = Path(__file__).parent.parent.parent / "pyproject.toml"
    if file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == OWN:
            for group, points in project.get("entry-points", {}).items():
                yield from ((group, Entry(name, value, OWN, project["version"])) for name, value in points.items())
            return
    yield from _points(importlib.metadata.distribution(OWN))


def _others() -> Iterator[tuple[str, Entry]]:
    names = {_name_of(one) for one in importlib.metadata.distributions() if "[erasure_audit." in _points_file(one)}
    for name in sorted(names - {"", OWN}):
        yield from _points(importlib.metadata.distribution(name))  # the first on the path, which is what Python imports


def _points(distribution: importlib.metadata.Distribution) -> Iterator[tuple[str, Entry]]:
    """Yield group and entry point of the methods that a distribution brings; damaged metadata names none."""
    try:
        points, version = list(distribution.entry_points), _field(distribution, "Version")
    except Exception:
        return
    for point in points:
        if point.group.startswith("erasure_audit."):
            yield point.group, Entry(point.name, point.value, _name_of(distribution), version)


def _points_file(distribution: importlib.metadata.Distribution) -> str:
    try:
        return distribution.read_text("entry_points.txt") or ""
    except (OSError, ValueError):
        return ""


def _name_of(distribution: importlib.metadata.Distribution) -> str:
    """Return a distribution's normalised name; "" where its metadata has none."""
    try:
        return re.sub(r"[-_.]+", "-", _field(distribution, "Name")).lower()
    except Exception:
        return ""


def _field(distribution: importlib.metadata.Distribution, name: str) -> str:
    values = distribution.metadata.get_all(name)
    return str(values[0]) if values else ""
