"""Installed packages that bring plug-ins, made of files as pip leaves them."""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from audit.attacks.registry import ATTACKS
from audit.erasers import ERASERS
from audit.guards import GUARDS
from audit.instruments.detectors.method import DETECTORS
from audit.instruments.quality.method import QUALITY
from audit.methods import registry

REGISTRIES = (ERASERS, GUARDS, ATTACKS, DETECTORS, QUALITY)


def write_package(
    folder: Path, name: str, code: str, points: Mapping[str, Mapping[str, str]], *, version: str | None = "1.0"
) -> None:
    """A module and its metadata in `folder`; `points` are entry points by family. Without a version there is none."""
    module = name.replace("-", "_")
    (folder / f"{module}.py").write_text(code)
    info = folder / f"{module}-{version or 0}.dist-info"
    info.mkdir()
    stated = f"Version: {version}\n" if version else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\n{stated}")
    lines = [
        line
        for family, named in points.items()
        for line in (f"[erasure_audit.{family}]", *(f"{key} = {module}:{value}" for key, value in named.items()), "")
    ]
    (info / "entry_points.txt").write_text("\n".join(lines))


@contextlib.contextmanager
def installed(folder: Path) -> Iterator[None]:
    """A block in which the packages of `folder` are installed."""
    known = [dict(one.loaded) for one in REGISTRIES]
    modules = set(sys.modules)
    sys.path.insert(0, str(folder))
    importlib.invalidate_caches()
    registry.forget()
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in set(sys.modules) - modules:
            if getattr(sys.modules[name], "__file__", None) and str(folder) in str(sys.modules[name].__file__):
                del sys.modules[name]
        registry.forget()
        for one, loaded in zip(REGISTRIES, known, strict=True):
            one.loaded.clear()
            one.loaded.update(loaded)  # type: ignore[arg-type]
