"""One sealed run with a reviewer's signature for all of these tests; each may change a copy of it."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from audit.evidence.sign import sign
from tests.evidence.bundles import NOW, SEALED, Bundle, key_pair, sealed


@pytest.fixture(scope="session")
def sealed_once(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle that nobody changes."""
    bundle = sealed(tmp_path_factory.mktemp("sealed"))
    private, public = key_pair(bundle.public.path.parent, "officer")
    sign(bundle.folder, private, "R. Fuchs", "compliance officer", SEALED)
    assert NOW > SEALED
    return dataclasses.replace(bundle, officer=public)


@pytest.fixture
def bundle(sealed_once: Bundle, tmp_path: Path) -> Bundle:
    """A copy of the bundle, to change."""
    return dataclasses.replace(sealed_once, folder=Path(shutil.copytree(sealed_once.folder, tmp_path / "evidence")))
