"""Resolve the model references of a spec (testbed names, local folders, single files, pinned hub commits) to digests.

Nothing here loads a model or imports torch, so that planning is quick and identities come from bytes alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from audit.errors import CheckpointError
from audit.identity import key
from audit.weights import families, schedulers, settings
from audit.weights.families import Family
from audit.weights.files import cached_sha256, read_json, safetensors_header
from audit.weights.folders import check_weighted, configs_of, parts_of, weights_of
from audit.weights.hub_names import hub_name
from audit.weights.setting_checks import Settings
from audit.weights.sharing import CONFIG_MARK, SharedModel, copy_of, path_of
from audit.weights.single_file import FORM, SingleFile, config_folder, is_single_file, pieces_of, read_single_file


@dataclasses.dataclass(frozen=True)
class ModelRef:
    """One model on disk. `sha256` depends on its weight and configuration files, and on nothing else."""

    name: str  # as the spec writes it
    source: Literal["testbed", "local", "hub"]
    path: Path
    revision: str | None  # hub commit
    files: Mapping[str, str] = dataclasses.field(
        hash=False
    )  # weight file relative to `path`, '/'-separated -> hex SHA-256
    sha256: str
    variant: str | None = None  # "fp16" or "bf16" where only files of that variant exist
    single: SingleFile | None = None  # holds weights of the pipeline whose settings lie in `path`


def resolve_model(ref: str, *, testbed_name: str | None = None) -> ModelRef:
    """Return the model that `ref` names, with every weight file checked and hashed.

    `ref` is `testbed` (the pipeline, or `testbed_name`), `testbed/NAME`, an existing folder, `org/name@commit`, or a
    pipeline's single file with one of these for its settings, `FILE.safetensors#config=FOLDER`.
    Raises `CheckpointError` when it is missing, incomplete, truncated, unpinned or available as pickles only.
    """
    ref = ref.strip()
    if not ref:
        raise CheckpointError("no model is named", next_step="write 'testbed', a folder, or 'org/name@<40-hex commit>'")
    if ref == "testbed" or ref.startswith("testbed/"):
        return _testbed(ref, testbed_name or "pipeline")
    if is_single_file(ref):
        return _from_single_file(ref)
    folder = path_of(ref)
    if folder.is_dir():
        return _from_folder(ref, "local", folder, None)
    if folder.is_file():
        raise CheckpointError(
            "a model must be a folder in the diffusers or transformers layout, and this is a file, which does not tell the "
            "settings of its networks",
            where=ref,
            next_step=f"pass the folder that holds model_index.json or config.json; for a pipeline in one file, write {FORM}, "
            "where FOLDER is a diffusers folder of its family (weights are not needed there)",
        )
    hub = hub_name(ref)
    if hub is None:
        raise CheckpointError(
            "there is no such model folder",
            where=str(folder.absolute()),
            next_step="pass an existing folder, 'testbed', or a hub id as 'org/name@<40-hex commit>'",
        )
    if hub.commit is None or hub.inside:
        raise unpinned(
            ref,
            "folder",
            ref.partition("@")[2],
            f"write {hub.repo}@<40-hex commit>; the model's page lists it under 'Files and versions', or: "
            f"python -c \"import huggingface_hub as h; print(h.model_info('{hub.repo}').sha)\"",
        )
    return _from_hub(ref, hub.repo, hub.commit)


def unpinned(ref: str, what: str, revision: str, next_step: str) -> CheckpointError:
    """Return the error for a reference that is no local `what` and, as a hub id, does not name a commit."""
    moving = f" ({revision!r} can move)" if revision else ""
    return CheckpointError(
        f"there is no {what} {ref!r}, and as a hub id it is not pinned to a commit{moving}",
        where=ref,
        next_step=next_step,
    )


def shared_model(ref: ModelRef) -> SharedModel:
    """Return the files that another machine needs to compute with a model: weights, configurations and vocabularies."""
    files = {**configs_of(ref.path, parts_of(ref.path)), **ref.files}
    if ref.single is None:
        return SharedModel(ref.name, files, None)
    return SharedModel(ref.name, files, ref.single.path.name, {ref.single.path.name: ref.single.path})


def component_files(ref: ModelRef, component: str) -> dict[str, str]:
    """Return the weight files of one part of a pipeline (`unet`, `vae`, `text_encoder`): relative file -> hex SHA-256.

    Raises `CheckpointError` when the model has no such part.
    """
    files = {name: digest for name, digest in ref.files.items() if PurePosixPath(name).parts[:-1] == (component,)}
    if ref.single is not None and component in ref.single.prefixes:
        return {ref.single.path.name: ref.files[ref.single.path.name]}
    if not files:
        parts = sorted({PurePosixPath(name).parts[0] for name in ref.files if "/" in name})
        raise CheckpointError(
            f"the model has no part called {component!r}",
            where=str(ref.path),
            next_step=f"its parts are: {', '.join(parts) or 'none, it is a single model'}",
        )
    return files


def denoiser_part(folder: Path) -> str:
    """Return the part of a pipeline folder that denoises: `unet` or `transformer`."""
    return "unet" if (folder / "unet").is_dir() else "transformer"


def weight_paths(ref: ModelRef, component: str) -> list[Path]:
    """Return the weight files of one part of a pipeline. Raises `CheckpointError` when the model has no such part."""
    names = component_files(ref, component)
    if ref.single is not None and component in ref.single.prefixes:
        return [ref.single.path]
    return [ref.path / name for name in names]


def stored_shapes(ref: ModelRef, component: str) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a part's tensors by the network's names, from the headers of its files."""
    if ref.single is not None and component in ref.single.prefixes:
        pieces, header = pieces_of(ref.single, component)
        return {name: piece.shape(header[piece.source].shape) for name, piece in pieces.items()}
    headers = [safetensors_header(path) for path in weight_paths(ref, component)]
    return {name: tensor.shape for header in headers for name, tensor in header.items()}


def pipeline_family(ref: ModelRef, samplers: Collection[str] = (schedulers.DDIM,)) -> Family:
    """Return the family of a pipeline folder, decided from its configuration files (`audit.weights.families`).

    Inpainting pipelines, transformers of other families, parts of other classes and settings that a sampler would ignore
    raise a `CheckpointError` that says which of these it is. `samplers` names the schedulers that a run samples with.
    """
    if not (ref.path / "model_index.json").is_file():
        raise _refuse(ref, "is a single model, not a pipeline folder (it has no model_index.json)")
    index = read_json(ref.path / "model_index.json")
    if "unet" not in index and "transformer" not in index:
        raise _refuse(ref, f"is a {index.get('_class_name', 'pipeline')} without a UNet or a transformer")
    has_unet = "transformer" not in index
    unet = _read(ref, "unet", index) if has_unet else {}
    scheduler = _read(ref, "scheduler", index)
    family = families.family_of(index, unet, scheduler)
    if family is None:
        raise _refuse(ref, f"is a {index.get('_class_name', 'pipeline')}, whose transformer is of no known family")
    problem = _unet_kind(unet, scheduler) if has_unet else None
    if family in ("sd1", "sd2") and problem is None:
        problem = _conditioning(unet, _read(ref, "text_encoder", index), index)
    problem = (
        problem
        or families.class_problem(index, family, schedulers.further_classes(samplers))
        or families.settings_problem(family, lambda part: _read(ref, part, index), index, schedulers.WALK)
    )
    if problem is not None:
        raise _refuse(ref, problem)
    problem = (
        settings.scheduler_problem(scheduler, index["scheduler"][1], schedulers.honoured(samplers))
        if has_unet
        else None
    )
    if problem is not None:
        raise _refuse(ref, problem, f"sample with sampler.scheduler {schedulers.AS_PIPELINE} everywhere, or ")
    return family


def _read(ref: ModelRef, part: str, index: Settings) -> Settings:
    """Return the settings of one part. Raises `CheckpointError` when model_index.json does not say how to load it."""
    loader = index.get(part)
    if not (isinstance(loader, list) and len(loader) == 2 and all(isinstance(name, str) for name in loader)):
        raise _refuse(ref, f"has no {part} that model_index.json says how to load")
    return read_json(ref.path / part / ("scheduler_config.json" if part == "scheduler" else "config.json"))


def _unet_kind(unet: Settings, scheduler: Settings) -> str | None:
    """Return why a UNet cannot be sampled from at all, whatever its family; None when it can."""
    if unet.get("in_channels") != 4 or unet.get("out_channels") != 4:
        channels = f"{unet.get('in_channels')} in, {unet.get('out_channels')} out"
        return f"has a UNet with {channels} channels (inpainting or image-conditioned); 4 in, 4 out is needed"
    prediction = scheduler.get("prediction_type", "epsilon")
    if prediction not in ("epsilon", "v_prediction"):
        return f"predicts {prediction!r}; only epsilon and v_prediction are supported"
    return None


def _conditioning(unet: Settings, text: Settings, index: Settings) -> str | None:
    if index["text_encoder"][1] != "CLIPTextModel" or unet.get("cross_attention_dim") != text.get("hidden_size"):
        return "is not conditioned by a CLIPTextModel whose width is the UNet's cross_attention_dim"
    return None


def sampler_settings(ref: ModelRef) -> Settings:
    """Return the settings of a pipeline's scheduler, its class and the defaults of that among them.

    The pipeline must be one that `pipeline_family` knows.
    """
    named = read_json(ref.path / "model_index.json")["scheduler"][1]
    stored = read_json(ref.path / "scheduler" / "scheduler_config.json")
    flow = named not in settings.SCHEDULERS and named not in settings.OWN_SCHEDULERS
    return {**(stored if flow else settings.scheduler_settings(stored, named)), "_class_name": named}


def _refuse(ref: ModelRef, why: str, otherwise: str = "") -> CheckpointError:
    return CheckpointError(
        f"the backbone {why if len(why) <= 500 else f'{why[:500]}...'}",
        where=str(ref.path),
        next_step=f"{otherwise}use a folder of one of these families: {families.SUPPORTED}; or 'testbed'",
    )


def _testbed(ref: str, bare: str) -> ModelRef:
    from audit.weights.testbed import NAMES, weights_path

    name = ref.removeprefix("testbed").removeprefix("/") or bare
    if name not in NAMES:
        raise CheckpointError(
            f"the testbed has no model called {name!r}",
            where=ref,
            next_step="use one of: " + ", ".join(f"testbed/{known}" for known in NAMES),
        )
    return _from_folder(ref, "testbed", weights_path(name), None)


def _from_single_file(ref: str) -> ModelRef:
    """Return the pipeline of one file, with the settings of a folder; the weights that the file lacks come from there too."""
    written, _, config = ref.partition(CONFIG_MARK)
    copy = copy_of(ref)
    file = copy or Path(os.path.expanduser(written.strip()))
    if not file.is_file():
        raise CheckpointError(
            "there is no such file",
            where=str(file.absolute()),
            next_step=f"write {FORM}, where the file is on this machine",
        )
    folder = (file.parent if copy else config_folder(config.strip())).absolute()
    with _readable(folder):
        parts = parts_of(folder)
        single = read_single_file(file.absolute(), folder, parts)
        rest = [part for part, weighted in parts.items() if weighted and part not in single.prefixes]
        check_weighted(folder, rest, file)
        weights, variant = weights_of(folder, rest)
        content = cached_sha256(file)
        digest = key({"weights": {"": content, **weights}, "configs": configs_of(folder, parts)})
    return ModelRef(ref, "local", folder, None, {file.name: content, **weights}, digest, variant, single)


def _from_hub(ref: str, repo_id: str, revision: str) -> ModelRef:
    from audit.weights import hub_cache

    try:
        cached = hub_cache.cached_snapshot(repo_id, revision)
        if cached is not None:
            return _from_folder(ref, "hub", cached, revision)
        missing = "the model is not in the local Hugging Face cache"
    except CheckpointError as error:
        missing = f"the copy in the local Hugging Face cache cannot be used: {error.what} ({error.where})"
    if not hub_cache.download_allowed():
        raise hub_cache.not_available(repo_id, revision, missing)
    return _from_folder(ref, "hub", hub_cache.download(repo_id, revision), revision)


def _from_folder(name: str, source: Literal["testbed", "local", "hub"], folder: Path, revision: str | None) -> ModelRef:
    folder = folder.absolute()
    with _readable(folder):
        return _read_folder(name, source, folder, revision)


@contextlib.contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Turn what the operating system says about a model folder into a `CheckpointError`."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"the model folder cannot be read: {error.strerror or error}",
            where=str(error.filename or folder)[:300],
            next_step="make the folder and everything in it readable for this user",
        ) from None


def _read_folder(name: str, source: Literal["testbed", "local", "hub"], folder: Path, revision: str | None) -> ModelRef:
    parts = parts_of(folder)
    weights, variant = weights_of(folder, (part for part, needs_weights in parts.items() if needs_weights))
    digest = key({"weights": weights, "configs": configs_of(folder, parts)})
    return ModelRef(name, source, folder, revision, weights, digest, variant)
