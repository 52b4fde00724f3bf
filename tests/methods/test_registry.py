"""Methods of other packages: found by their entry points, part of identities, and refused by name where they are broken."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from audit import guards
from audit.errors import AuditError, DetectorError
from audit.instruments import detectors
from audit.methods.registry import MethodError, Registry
from audit.plan.preflight.methods import check_methods, require_planned
from audit.spec.document import Spec, load_spec
from audit.spec.sections import Concept, DetectorSpec, Guard
from flows.cli import main
from tests.flows.audits import tiny_spec
from tests.methods.packages import REGISTRIES, installed, write_package

RING = Concept(name="ring", phrase="ring")
GUARD = """
from audit.guards.parameters import GuardMethod, Parameters

class Fade(Parameters):
    steps: int = 3

METHOD = GuardMethod("fade", {version!r}, Fade, "acme:build")
"""
DETECTOR = """
from audit.instruments.detectors.base import BaseDetector, make_instrument
from audit.instruments.detectors.method import DetectorMethod
from audit.spec.base import Model

class Parameters(Model):
    dark: int = 10

class Ink(BaseDetector):
    def __init__(self, entry, concepts, device):
        shared = dict(weights_sha256="", preprocessing="none", labels=("ink",), score_floor=0.0, parameters={})
        super().__init__(entry, make_instrument(entry, version="1", package="numpy 2", **shared))
    def _prepare(self): pass
    def _scores(self, images): return [()] * len(images)

METHOD = DetectorMethod("ink", "1", Parameters, Ink)
"""


def fade(folder: Path, version: str = "1", distribution: str | None = "1.0", name: str = "fade") -> None:
    write_package(folder, "acme", GUARD.format(version=version), {"guards": {name: "METHOD"}}, version=distribution)


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda one: one.family)
def test_every_method_of_ours_is_an_entry_point_that_works(registry: Registry[Any]) -> None:
    points = tomllib.loads(Path("pyproject.toml").read_text())["project"]["entry-points"][registry.group]
    assert sorted(points) == [item.entry.name for item in registry.installed()]
    assert [item.problem for item in registry.installed() if item.problem] == []
    assert all(registry.origin(name, "here") == {} for name in points)  # the code digest covers them


def test_our_methods_are_known_without_torch() -> None:
    code = "import sys; from flows.cli import main; main(['methods', '--json']); sys.exit('torch' in sys.modules)"
    listed = json.loads(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)
    assert {entry["family"] for entry in listed} == {"erasers", "guards", "attacks", "detectors", "quality"}
    uce = next(entry for entry in listed if entry["name"] == "uce")
    assert (uce["version"], uce["distribution"], uce["paper"]) == (
        "3",
        "erasure-audit",
        "Gandikota et al. 2024, arXiv 2308.14761",
    )
    assert uce["parameters"]["regularisation"] == 0.5 and "testbed" in uce["presets"]


def test_a_guard_of_another_package_is_part_of_identities_with_its_versions(tmp_path: Path) -> None:
    seen = []
    for number, (version, distribution) in enumerate((("1", "1.0"), ("2", "1.0"), ("1", "1.1"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        fade(folder, version, distribution)
        with installed(folder):
            seen.append(guards.resolve(Guard(name="fade"), RING))
            assert guards.extra_calls([seen[-1]], [900, 1], 3.0) == 0
    own = {"name": "fade", "parameters": {"steps": 3}}
    assert seen[0] == {**own, "plugin": {"distribution": "acme", "version": "1.0", "method_version": "1"}}
    assert len({json.dumps(one) for one in seen}) == 3


def test_a_unit_is_not_made_with_another_version_than_it_was_planned_with(tmp_path: Path) -> None:
    for number in ("1.0", "1.1"):
        (tmp_path / number).mkdir()
        fade(tmp_path / number, distribution=number)
    with installed(tmp_path / "1.0"):
        planned = {"guards": [guards.resolve(Guard(name="fade"), RING), guards.resolve(Guard(name="sld"), RING)]}
        require_planned("generate", planned)
    with installed(tmp_path / "1.1"), pytest.raises(AuditError, match=r"with acme 1\.0, .* and here it is acme 1\.1, "):
        require_planned("generate", planned)
    with pytest.raises(AuditError, match="and here it is not installed"):
        require_planned("generate", planned)
    require_planned("erase", {"checkpoint": "0" * 64, "claim": "fade"})  # what is claimed makes nothing


def test_a_mistake_in_a_plugin_s_parameters_reads_as_in_ours(tmp_path: Path) -> None:
    fade(tmp_path)
    with (
        installed(tmp_path),
        pytest.raises(AuditError, match="guard fade parameter step: "),
    ):
        guards.resolve(Guard(name="fade", parameters={"step": 1}), RING)


BROKEN = {
    "fails to import": ("import nowhere_at_all\n", "1.0", "ModuleNotFoundError: No module named 'nowhere_at_all'"),
    "ends the process": ("import sys\nsys.exit(3)\n", "1.0", "SystemExit: 3"),
    "has no such object": ("", "1.0", "AttributeError"),
    "has a distribution without a version": (GUARD.format(version="1"), None, "the distribution has no version"),
    "has no version": (GUARD.format(version=""), "1.0", "the method has no version"),
    "has another name": (GUARD.format(version="1").replace('"fade"', '"other"'), "1.0", "its name is 'other'"),
    "is another thing": ("METHOD = 3\n", "1.0", "it is no GuardMethod"),
    "has parameters of another kind": (
        GUARD.format(version="1").replace("class Fade(Parameters)", "from pydantic import BaseModel\nclass Fade(BaseModel)"),
        "1.0",
        "its parameters are no audit.guards.parameters.Parameters",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_a_plugin_that_is_broken_is_named_and_disturbs_nothing_else(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, version, problem = BROKEN[case]
    write_package(tmp_path, "acme", code, {"guards": {"fade": "METHOD"}}, version=version)
    with installed(tmp_path):
        assert guards.resolve(Guard(name="sld"), RING)["name"] == "sld"
        with pytest.raises(MethodError) as raised:
            guards.resolve(Guard(name="fade"), RING)
        assert main(["methods", "--json"]) == 0
        listed = json.loads(capsys.readouterr().out)
        assert main(["methods"]) == 0
    told = str(raised.value)
    assert told.startswith("guard 'fade' cannot be used: acme:METHOD of acme") and problem in told
    assert "where: defences" in told and "next:  mend or uninstall acme" in told
    assert [entry["name"] for entry in listed if entry["problem"]] == ["fade"]
    assert "BROKEN  fade: acme:METHOD of acme" in capsys.readouterr().out


def test_a_name_that_is_taken_belongs_to_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = GUARD.format(version="1").replace('"fade"', '"sld"')
    write_package(tmp_path, "acme", code, {"guards": {"sld": "METHOD"}})
    with installed(tmp_path):
        guards.GUARDS.loaded.pop("sld", None)
        assert guards.resolve(Guard(name="safree"), RING)["name"] == "safree"
        with pytest.raises(MethodError, match=r"erasure-audit 0.1.0 and acme 1.0 both claim the name"):
            guards.resolve(Guard(name="sld"), RING)
        assert main(["methods"]) == 0
    assert capsys.readouterr().out.count("BROKEN  sld") == 2


def test_what_a_plugin_prints_does_not_spoil_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_package(tmp_path, "acme", "print('hello')\n" + GUARD.format(version="1"), {"guards": {"fade": "METHOD"}})
    with installed(tmp_path):
        assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    (entry,) = (entry for entry in listed if entry["distribution"] == "acme")
    assert entry["parameters"] == {"steps": 3} and entry["distribution_version"] == "1.0"


def test_a_detector_of_another_package_names_it_in_its_instrument(tmp_path: Path) -> None:
    write_package(tmp_path, "acme", DETECTOR, {"detectors": {"ink": "METHOD"}}, version="2.5")
    with installed(tmp_path):
        built = detectors.build(DetectorSpec(name="mine", kind="ink"), [RING])
        assert built.instrument.package == "acme 2.5, numpy 2"
        with pytest.raises(AuditError, match="detector ink parameter darker: "):
            detectors.build(DetectorSpec(name="mine", kind="ink", parameters={"darker": 1}), [RING])


def test_an_instrument_that_hides_its_package_is_refused(tmp_path: Path) -> None:
    code = DETECTOR.replace(
        "make_instrument(entry,", "make_instrument(entry.model_copy(update={'kind': 'classifier'}),"
    )
    write_package(tmp_path, "acme", code, {"detectors": {"ink": "METHOD"}})
    with installed(tmp_path), pytest.raises(DetectorError, match="its instrument does not name the package"):
        detectors.build(DetectorSpec(name="mine", kind="ink"), [RING])


def spec(folder: Path, **changes: object) -> Spec:
    return load_spec(tiny_spec(folder, folder, **changes))


UNKNOWN: dict[str, tuple[dict[str, object], str]] = {
    "a detector": (
        {"detectors": [{"name": "nude", "kind": "magic", "labels": {"ring": ["x"]}}]},
        "detectors.0.kind: Input should be 'classifier', 'clip-zero-shot', 'face', 'grounding-dino', 'nudenet', 'q16', 'siglip', "
        "'style' or 'vqa'",
    ),
    "a quality instrument": (
        {"quality": [{"name": "q", "kind": "magic"}]},
        "quality.0.kind: Input should be 'clip-score', 'features', 'gmsd', 'lpips', 'psnr' or 'ssim'",
    ),
    "an attack": (
        {"scenarios": [{"name": "adversarial-text", "cases": 1, "method": "magic"}]},
        "scenarios.0.adversarial-text.method: Input should be 'mma-diffusion', 'p4d', 'ring-a-bell' or 'unlearndiffatk'",
    ),
    "an attack of another scenario": (
        {"scenarios": [{"name": "adversarial-text", "cases": 1, "method": "textual-inversion"}]},
        "scenarios.0.adversarial-text.method: Input should be 'mma-diffusion', 'p4d', 'ring-a-bell' or 'unlearndiffatk'",
    ),
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unknown_method_is_refused_with_those_that_are_known(case: str, tmp_path: Path) -> None:
    changes, message = UNKNOWN[case]
    with pytest.raises(AuditError) as raised:
        check_methods(spec(tmp_path, **changes))
    assert message in str(raised.value)


def test_the_plan_of_a_spec_with_an_unknown_detector_ends_with_one_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_spec(
        tmp_path, tmp_path / "absent", detectors=[{"name": "nude", "kind": "magic", "labels": {"ring": ["x"]}}]
    )
    assert yaml.safe_load(path.read_text())["detectors"][0]["kind"] == "magic"
    assert main(["plan", str(path), "--root", str(tmp_path / "runs")]) == 2
    assert "detectors.0.kind: Input should be 'classifier'" in capsys.readouterr().err
