"""Check whether this machine can run an audit: one finding per check, with what a failure means and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shlex
import shutil
from collections.abc import Callable, Iterator

from packaging.version import Version

from audit import locations
from audit import locations as urls
from audit.corpus import sources
from audit.doctor import machine
from audit.doctor.findings import Finding, Level
from audit.errors import AuditError
from audit.plan.resolve import resolve
from audit.plan.resolved import Measuring, Missing, Resolved
from audit.spec.document import Spec
from audit.spec.sections import DetectorSpec
from audit.storage.journal import Journal
from audit.weights import testbed
from audit.weights.references import resolve_model

LOW_DISK = 2e9  # bytes; a testbed run needs far less, ten thousand 512-pixel pictures about 5 GB
_OLDEST_PYTHON = "3.11"
_ENDS_EARLY = "the run would end before anything is planned"
_PINS = (
    ("fastapi", "0.151", "a Prefect server refuses deployments and workers"),
    ("torch", "2.14", "pip may replace a CPU build by gigabytes of CUDA packages"),
)
_PACKAGES = (
    "torch", "diffusers", "transformers", "safetensors", "duckdb", "pyarrow", "pandas", "nudenet", "onnxruntime",
    "fsspec", "s3fs", "great-expectations", "prefect", "pydantic", "scipy",
)  # fmt: skip


def examine(root: str, spec: Spec | None = None) -> list[Finding]:
    """Return all findings for this machine, for the storage `root` and, when given, for the needs of `spec`. Raises nothing."""
    checks: list[Callable[[], Iterator[Finding]]] = [
        _python,
        _packages,
        _pins,
        _devices,
        lambda: _disk(root),
        lambda: _root(root),
        _trainings,
        machine.check_threads,
        machine.check_folders,
        machine.check_proxies,
        machine.check_telemetry,
        machine.check_endpoint,
        _nudenet,
    ]
    checks.append(_testbed if spec is None else lambda: _models(spec))
    if spec is not None:
        checks.append(lambda: _corpus(spec))
    return [finding for check in checks for finding in _safely(check)]


def _safely(check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """Yield the findings of a check; a check that cannot run is a finding too."""
    name = getattr(check, "__name__", "check").removeprefix("check_").strip("_<>")
    try:
        yield from check()
    except Exception as error:  # doctor is what is run when something is broken: it reports, and goes on
        yield Finding(
            name,
            "problem",
            f"the check itself failed: {type(error).__name__}: {error}",
            "what it looks at is probably broken",
            "run: erasure-audit --debug doctor",
        )


def _python() -> Iterator[Finding]:
    found = platform.python_version()
    if Version(found) < Version(_OLDEST_PYTHON):
        needed = f"the tool needs {_OLDEST_PYTHON}"
        yield Finding("python", "problem", found, needed, "make a new environment with a later Python")
    else:
        yield Finding("python", "ok", found)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _packages() -> Iterator[Finding]:
    missing = [name for name in _PACKAGES if _version(name) is None]
    if missing:
        found = f"missing: {', '.join(missing)}"
        yield Finding("packages", "problem", found, "parts of the tool cannot be imported", "pip install erasure-audit")
    else:
        yield Finding("packages", "ok", f"all {len(_PACKAGES)} installed")


def _pins() -> Iterator[Finding]:
    for package, limit, breaks in _PINS:
        version = _version(package)
        if version is None:
            continue
        if Version(Version(version).base_version) >= Version(limit):
            found = f"{version}, not below {limit}"
            yield Finding(package, "problem", found, breaks, f"pip install '{package}<{limit}'")
        else:
            yield Finding(package, "ok", f"{version}, below {limit}")


def _devices() -> Iterator[Finding]:
    import torch

    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            name, memory = torch.cuda.get_device_name(index), torch.cuda.get_device_properties(index).total_memory
            yield Finding(f"cuda:{index}", "ok", f"{name}, {memory / 2**30:.0f} GiB")
        return
    if "+cpu" not in torch.__version__ and shutil.which("nvidia-smi"):
        yield Finding(
            "device",
            "warning",
            f"torch {torch.__version__} sees no GPU although a driver is installed",
            "audits of real backbones would take days on the CPU",
            "check nvidia-smi and that torch's CUDA version fits the driver",
        )
        return
    yield Finding("device", "ok", f"CPU, {os.cpu_count()} cores: enough for the testbed, slow for Stable Diffusion")


def _disk(root: str) -> Iterator[Finding]:
    folder = locations.local_folder(root) or locations.database_path(root).parent
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK:
        yield Finding(
            "disk",
            "warning",
            f"{free / 1e9:.1f} GB free in {folder}",
            "a run that fills the disk stops and has to be resumed",
            "free space, or set ERASURE_AUDIT_ROOT to another disk or an s3:// address",
        )
    else:
        yield Finding("disk", "ok", f"{free / 1e9:.0f} GB free in {folder}")


def _root(root: str) -> Iterator[Finding]:
    shown = urls.redact(root)
    try:
        Journal(root).probe()
    except AuditError as error:
        yield _from_error("storage root", error, "no run can start or be resumed there")
    else:
        yield Finding("storage root", "ok", f"{shown} can be written, read and deleted from")


def _trainings() -> Iterator[Finding]:
    """Yield what unfinished trainings have left; nothing when there is none."""
    folder = locations.trainings_folder()
    unfinished = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    if unfinished:
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        found = f"{len(unfinished)} unfinished in {folder}, {size / 1e6:,.0f} MB; a resumed run goes on from them"
        yield Finding("trainings", "ok", f"{found}; once no run needs them: rm -r {shlex.quote(str(folder))}")


def _from_error(check: str, error: AuditError, means: str, level: Level = "problem") -> Finding:
    found = f"{error.what} ({error.where})" if error.where else error.what
    return Finding(check, level, found, means, error.next_step or "see the message")


def _testbed() -> Iterator[Finding]:
    for name in testbed.NAMES:
        reference = "testbed" if name == "pipeline" else f"testbed/{name}"
        try:
            model = resolve_model(reference)
        except AuditError as error:
            yield _from_error(reference, error, "the demo and the tests cannot run; other backbones can", "warning")
        else:
            yield Finding(reference, "ok", f"weights {model.sha256[:12]}")


def _models(spec: Spec) -> Iterator[Finding]:
    """Yield what `run` would refuse about the backbone, the checkpoints, the detectors and the quality instruments."""
    resolved = resolve(spec)
    yield _backbone(resolved)
    yield from _checkpoints(resolved)
    for entry in spec.detectors:
        yield _detector(spec, entry, resolved.detectors[entry.name])
    for asked in spec.quality:
        instrument = resolved.quality[asked.name]
        if isinstance(instrument, Missing):
            yield _from_error(f"quality {asked.name}", instrument.error, _ENDS_EARLY)
        else:
            weights = instrument.weights_sha256[:12] or "none needed"
            yield Finding(f"quality {asked.name}", "ok", f"{asked.kind}, weights {weights}")


def _detector(spec: Spec, entry: DetectorSpec, found: Measuring | Missing) -> Finding:
    """Return whether a detector can be loaded and reads pictures whose answer is known."""
    from audit.instruments import detectors

    check = f"detector {entry.name}"
    if isinstance(found, Missing):
        return _from_error(check, found.error, _ENDS_EARLY)
    try:
        detectors.build(entry, spec.sought(), "cpu").self_test()
    except AuditError as error:
        return _from_error(check, error, "every case would be unassessed by it")
    weights = found.instrument.weights_sha256[:12]
    return Finding(check, "ok", f"{entry.kind}, weights {weights}; it passes its self-test")


def _backbone(resolved: Resolved) -> Finding:
    from audit.diffusion.pipeline import check_weights

    backbone = resolved.backbone
    if isinstance(backbone, Missing):
        return _from_error("backbone", backbone.error, _ENDS_EARLY)
    try:
        check_weights(backbone)
    except AuditError as error:
        return _from_error("backbone", error, _ENDS_EARLY)
    return Finding("backbone", "ok", f"{backbone.name}, weights {backbone.sha256[:12]}")


def _checkpoints(resolved: Resolved) -> Iterator[Finding]:
    """Yield each checkpoint recognised and measured against the backbone; only looked for when there is no backbone."""
    from audit.checkpoints.inspection import inspect

    for defence in resolved.spec.defences:
        if defence.eraser is None or defence.eraser.checkpoint is None:
            continue
        check, method, backbone = f"defence {defence.name}", defence.eraser.method, resolved.backbone
        ref = resolved.checkpoints[defence.eraser.checkpoint]
        if isinstance(ref, Missing):
            yield _from_error(check, ref.error, _ENDS_EARLY)
            continue
        try:
            warnings = [] if isinstance(backbone, Missing) else inspect(ref, backbone, method)["warnings"]
        except AuditError as error:
            yield _from_error(check, error, _ENDS_EARLY)
            continue
        found = f"checkpoint {ref.sha256[:12]}, claimed to be {method}"
        if warnings:
            command = f"erasure-audit inspect {ref.name} --backbone {resolved.spec.backbone} --claim {method}"
            means = "the run goes on, and its report says so"
            yield Finding(check, "warning", f"{found}: {' '.join(warnings)}", means, f"see: {command}")
        else:
            yield Finding(check, "ok", found)


def _corpus(spec: Spec) -> Iterator[Finding]:
    for entry in spec.corpus:
        shown = urls.redact(entry.url)
        try:
            first = next(iter(sources.open_source(entry.url).objects()), None)
        except AuditError as error:
            yield _from_error(f"corpus {entry.concept}", error, "the run would end while it lists the corpus")
            continue
        if first is None:
            found = f"nothing under {shown}"
            yield Finding(f"corpus {entry.concept}", "problem", found, "there is nothing to invert", "upload pictures")
        else:
            yield Finding(f"corpus {entry.concept}", "ok", f"{shown} can be listed")


def _nudenet() -> Iterator[Finding]:
    from audit.instruments import detectors

    if importlib.util.find_spec("nudenet") is None:
        return
    entry = DetectorSpec(name="nudenet", kind="nudenet")
    try:
        detectors.build(entry, (), "cpu").self_test()
    except AuditError as error:
        yield _from_error("nudenet", error, "specs with a nudenet detector would measure nothing")
    else:
        yield Finding("nudenet", "ok", "finds the known face with the expected label")
