"""Find pinned hub models in the local Hugging Face cache, and download them only where the user's environment allows it."""

from __future__ import annotations

import os
from pathlib import Path

from httpx2 import HTTPError
from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import HFValidationError, IncompleteSnapshotError, LocalEntryNotFoundError

from audit.errors import CheckpointError

DOWNLOAD_VARIABLE = "ERASURE_AUDIT_DOWNLOAD"
_CONFIGS = ["*.json", "*.txt", "*.model"]
# Not loaded by the audit: the safety checker, half-precision copies beside full ones, non-averaged weights.
_IGNORED = ["safety_checker/*", "*.fp16.safetensors", "*.bf16.safetensors", "*non_ema*"]


def cached_snapshot(repo_id: str, revision: str) -> Path | None:
    """Return the folder of one commit in the local cache, possibly incomplete; None when it is not there. Uses no network.

    Raises `CheckpointError` for a name that no repository of the hub can have.
    """
    try:
        return Path(snapshot_download(repo_id, revision=revision, local_files_only=True))
    except IncompleteSnapshotError as partial:  # whoever fetched only what the audit loads has enough
        return Path(partial.snapshot_path)
    except LocalEntryNotFoundError:
        return None
    except HFValidationError as error:
        raise CheckpointError(
            f"the hub has no repository of this name: {error}",
            where=repo_id,
            next_step="correct the hub id, 'org/name'",
        ) from None


def download_allowed() -> bool:
    """Return whether the environment asks for downloads (`ERASURE_AUDIT_DOWNLOAD=1`) and does not forbid them."""
    return os.environ.get(DOWNLOAD_VARIABLE, "") == "1" and not constants.HF_HUB_OFFLINE


def download(repo_id: str, revision: str) -> Path:
    """Fetch the files that the audit loads, safetensors and configurations but no pickles, and return the snapshot's folder.

    Raises `CheckpointError` when the hub cannot be reached or refuses.
    """
    try:
        folder = Path(snapshot_download(repo_id, revision=revision, allow_patterns=_CONFIGS, ignore_patterns=_IGNORED))
        # Pipeline repositories also carry single-file copies of everything at their top level.
        weights = "*/*.safetensors" if (folder / "model_index.json").is_file() else "*.safetensors"
        snapshot_download(repo_id, revision=revision, allow_patterns=[weights], ignore_patterns=_IGNORED)
    except (OSError, ValueError, HTTPError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise not_available(repo_id, revision, f"the download failed: {first}") from None
    if not folder.is_dir():
        raise not_available(repo_id, revision, "the download failed: the repository holds no model files")
    return folder


def download_configs(repo_id: str, revision: str) -> Path:
    """Fetch the configurations and vocabularies of a pipeline, without weights, and return the snapshot's folder.

    Raises `CheckpointError` when the hub cannot be reached or refuses.
    """
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=_CONFIGS, ignore_patterns=_IGNORED))
    except (OSError, ValueError, HTTPError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise not_available(repo_id, revision, f"the download failed: {first}") from None


def download_artefact(repo_id: str, revision: str, inside: str) -> Path:
    """Fetch one file or folder of a repository (all of it for ""), and return the snapshot's folder.

    Pickles are fetched too: they are only ever read as tensors. Raises `CheckpointError` when the hub refuses.
    """
    wanted = [inside, f"{inside.rstrip('/')}/*"] if inside else ["*"]
    try:
        return Path(snapshot_download(repo_id, revision=revision, allow_patterns=wanted))
    except (OSError, ValueError, HTTPError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise not_available(repo_id, revision, f"the download failed: {first}") from None


def not_available(repo_id: str, revision: str, missing: str) -> CheckpointError:
    """Return the error that names the missing model, the cache that was searched, and both ways to get it."""
    return CheckpointError(
        missing,
        where=f"{repo_id}@{revision} in {constants.HF_HUB_CACHE}",
        next_step=f"run 'hf download {repo_id} --revision {revision}' (or set {DOWNLOAD_VARIABLE}=1 with "
        "HF_HUB_OFFLINE unset); without network, download on a machine with network, then pass the folder",
    )
