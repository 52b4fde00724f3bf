"""List and hash the files of an erased checkpoint: a file, a folder or a pinned hub commit.

Nothing here reads tensors or imports torch: plans and identities come from bytes alone. What the files are is decided
from their content by `audit.checkpoints`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Literal

from audit.errors import CheckpointError
from audit.identity import key
from audit.weights.files import cached_sha256, loaded_weights, unreadable
from audit.weights.hub_names import hub_name
from audit.weights.references import unpinned
from audit.weights.sharing import SharedModel, path_of

Kind = Literal["file", "pipeline", "unet", "text-encoder", "receler"]

_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
_START = 16  # bytes that tell the containers apart
_LORA = "pytorch_lora_weights.*"  # as diffusers saves it
_RECELER = ("eraser_weights.safetensors", "eraser_weights.pt")
PEFT_FILES = ("adapter_model.safetensors", "adapter_model.bin")  # of PEFT's `save_pretrained`
PEFT_CONFIG = "adapter_config.json"


@dataclasses.dataclass(frozen=True)
class CheckpointRef:
    """One erased checkpoint on disk. `sha256` depends on the content of its files and on nothing else."""

    name: str  # as the user wrote it
    kind: Kind  # how the folder is laid out; `file` for a single weight file
    path: Path
    revision: str | None  # hub commit
    files: Mapping[str, str] = dataclasses.field(hash=False)  # file relative to `path` or its folder -> hex SHA-256
    sha256: str

    def paths(self, part: str = "") -> list[Path]:
        """Return the weight files of one part (`unet`, `text_encoder`), or all of them. Configuration files are left out."""
        folder = self.path if self.path.is_dir() else self.path.parent
        names = [n for n in self.files if n.endswith(_SUFFIXES) or self.kind == "file"]
        return [folder / name for name in names if not part or PurePosixPath(name).parts[0] == part]


def resolve_checkpoint(ref: str) -> CheckpointRef:
    """Return the checkpoint that `ref` names: a file, a folder, or `org/name@<40-hex commit>[/path inside]`, with digests.

    Raises `CheckpointError` when it is missing, unpinned, a folder without one clear artefact, or an intermediate one.
    """
    path, revision = located(ref)
    return _from_path(ref.strip(), path, revision)


def located(ref: str, what: str = "checkpoint") -> tuple[Path, str | None]:
    """Return the file or folder that `ref` names, and the commit of one from the hub.

    `ref` is a path of this machine, or `org/name@<40-hex commit>[/path inside]`, which is fetched where downloads are allowed;
    `what` names it in errors. Raises `CheckpointError` when it is missing or unpinned.
    """
    ref = ref.strip()
    path = path_of(ref)
    if ref and path.exists():
        return path.absolute(), None
    hub = hub_name(ref)
    if hub is None or (hub.revision is None and path.suffix in _SUFFIXES):
        raise CheckpointError(
            f"there is no such {what}",
            where=str(path.absolute()) if ref else None,
            next_step="pass an existing file or folder, or a hub id as 'org/name@<40-hex commit>/path'",
        )
    inside = hub.inside
    if hub.commit is None:
        raise unpinned(
            ref,
            "file or folder",
            hub.revision or "",
            f"write {hub.repo}@<40-hex commit>{'/' + inside if inside else ''}; "
            "the model's page lists commits under 'Files and versions'",
        )
    if ".." in PurePosixPath(inside).parts:
        raise CheckpointError("the path inside the repository leaves it", where=ref, next_step="write it without '..'")
    return _fetched(hub.repo, hub.commit, inside), hub.commit


def names_repository(ref: str) -> bool:
    """Return whether `ref` is a whole repository of the hub, `org/name@commit`, and nothing on this machine."""
    hub = None if path_of(ref.strip()).exists() else hub_name(ref)
    return hub is not None and hub.revision is not None and not hub.inside


def shared_checkpoint(ref: CheckpointRef) -> tuple[SharedModel, Path]:
    """Return the files that another machine needs to compute with a checkpoint, and the folder that they lie in."""
    if ref.path.is_dir():
        return SharedModel(ref.name, ref.files, None), ref.path
    return SharedModel(ref.name, ref.files, ref.path.name), ref.path.parent


def is_safetensors(path: Path) -> bool:
    """Return whether a file's content is, or claims to be, safetensors. Its name counts only where the content tells nothing.

    A Git LFS pointer counts, so that the check of safetensors can name the problem.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(_START)
    except OSError as error:
        raise unreadable(path, error) from None
    if start[8:9] == b"{" or start.startswith(b"version "):
        return True
    return path.suffix == ".safetensors" and not start.startswith((b"PK", b"\x80"))


def _fetched(repo_id: str, revision: str, inside: str) -> Path:
    from audit.weights import hub_cache

    folder = hub_cache.cached_snapshot(repo_id, revision)
    if folder is None or not (folder / inside).exists():
        missing = f"{inside or 'the repository'} is not in the local Hugging Face cache"
        if not hub_cache.download_allowed():
            raise hub_cache.not_available(repo_id, revision, missing)
        folder = hub_cache.download_artefact(repo_id, revision, inside)
    return folder / inside


def _from_path(name: str, path: Path, revision: str | None) -> CheckpointRef:
    try:
        if path.is_file():
            return _made(name, "file", path, revision, _beside(path))
        if not path.is_dir():
            raise CheckpointError(
                "the checkpoint is a named pipe, a socket or a device, not a file",
                where=str(path),
                next_step="copy its content to a file, and name that",
            )
        kind, files = _folder(path)
    except OSError as error:
        raise unreadable(path, error) from None
    if kind == "file":
        return _made(name, kind, files[0], revision, _beside(files[0]))
    return _made(name, kind, path, revision, files)


def _made(name: str, kind: Kind, path: Path, revision: str | None, files: list[Path]) -> CheckpointRef:
    folder = path if path.is_dir() else path.parent
    digests = {file.relative_to(folder).as_posix(): cached_sha256(file) for file in files}
    sha256 = next(iter(digests.values())) if len(files) == 1 else key(sorted(digests.values()))
    return CheckpointRef(name, kind, path, revision, digests, sha256)


def _beside(path: Path) -> list[Path]:
    """Return a weight file, with the configuration that Receler's official code or PEFT saves next to it."""
    configs = dict.fromkeys(_RECELER, "eraser_config.json") | dict.fromkeys(PEFT_FILES, PEFT_CONFIG)
    config = path.parent / configs.get(path.name, "")
    return [path, config] if config.is_file() else [path]


def _folder(folder: Path) -> tuple[Kind, list[Path]]:
    """Return the kind of a checkpoint folder, and its files that matter."""
    loras = any(folder.rglob(_LORA))
    pipeline = (folder / "model_index.json").is_file()
    if (pipeline and (loras or (folder / "lora").is_dir())) or any(folder.glob(f"lora/*/{_LORA}")):
        raise CheckpointError(
            "the folder is MACE's intermediate state, before its LoRAs are fused (CFR_with_multi_LoRAs): "
            "it is not the erased model",
            where=str(folder),
            next_step="pass the folder that MACE writes last, LoRA_fusion_model",
        )
    own = sorted(folder.glob(_LORA))
    if len(own) == 1:
        return "file", own
    if loras:
        raise CheckpointError(
            "the folder holds several LoRAs, or one in a folder of its own, so it is not clear which is the checkpoint",
            where=str(folder),
            next_step="name the LoRA's file itself",
        )
    if pipeline:
        parts = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3")
        files = [file for part in parts if (folder / part).is_dir() for file in loaded_weights(folder / part)[0]]
        return "pipeline", files
    for name in _RECELER:
        if (folder / name).is_file():
            return "receler", _beside(folder / name)
    if (folder / "diffusion_pytorch_model.safetensors").is_file() or any(folder.glob("diffusion_pytorch*.index*.json")):
        return "unet", loaded_weights(folder)[0]
    if (folder / "config.json").is_file() and any(folder.glob("model.safetensors*")):
        return "text-encoder", loaded_weights(folder)[0]
    weights = sorted(file for file in folder.iterdir() if file.is_file() and file.suffix in _SUFFIXES)
    if len(weights) == 1:
        return "file", weights
    listed = f"{len(weights)} weight files: {', '.join(f.name for f in weights[:4])}" if weights else "no weight file"
    raise CheckpointError(
        f"the folder holds {listed}, so it is not clear what the checkpoint is",
        where=str(folder),
        next_step="name the weight file itself" if weights else "name the checkpoint's file, or copy the whole folder",
    )
