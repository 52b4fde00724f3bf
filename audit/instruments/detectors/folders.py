"""Transformers model folders as detectors use them: settings without torch, strict loading, one route for pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from audit.errors import DetectorError
from audit.instruments.detectors.base import Pixels
from audit.spec.sections import DetectorSpec
from audit.weights.files import read_json
from audit.weights.references import ModelRef, resolve_model

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel
    from transformers.image_processing_base import ImageProcessingMixin

    from audit.diffusion.strict_loading import Loader

TESTBED_NAMES = {"clip-zero-shot": "judge", "classifier": "classifier"}  # what `testbed` means, by kind of detector


def resolve(spec: DetectorSpec) -> ModelRef:
    """Return the model folder of a spec entry. Raises `DetectorError` when the entry names none."""
    testbed_name = TESTBED_NAMES.get(spec.kind, spec.kind)
    if spec.model is None:
        raise DetectorError(
            f"detector {spec.name!r} names no model",
            where=f"detectors.{spec.name}.model",
            next_step=f"set 'model' to testbed/{testbed_name}, a local folder or org/name@<40-hex commit>",
        )
    return resolve_model(spec.model, testbed_name=testbed_name)


def model_type(ref: ModelRef) -> str | None:
    """Return the kind of network that a folder says it holds; None when it is no model folder."""
    config = ref.path / "config.json"
    if not config.is_file():
        return None
    kind: str | None = read_json(config).get("model_type")
    return kind


def pixel_route(ref: ModelRef) -> str:
    """Return one line on how pixels reach the network, from the folder's preprocessor settings."""
    settings = read_json(ref.path / "preprocessor_config.json")
    steps = ["uint8 RGB", "PIL"]
    if settings.get("do_resize", True) and "size" in settings:
        steps.append(f"resize {_size(settings['size'])} resample {settings.get('resample')}")
    if settings.get("do_center_crop") and "crop_size" in settings:
        steps.append(f"centre crop {_size(settings['crop_size'])}")
    if settings.get("do_rescale", True):
        steps.append(f"times {settings.get('rescale_factor', 1 / 255):.6g}")
    if settings.get("do_normalize", True):
        steps.append(f"mean {settings.get('image_mean')} std {settings.get('image_std')}")
    return " > ".join([*steps, "float32"])


def _size(size: object) -> str:
    return " ".join(f"{key} {value}" for key, value in size.items()) if isinstance(size, dict) else str(size)


def load_network(loader: Loader, ref: ModelRef, device: str) -> PreTrainedModel:
    """Load the network in float32 on `device`, for inference. Raises `DetectorError` when any weight is missing or misfits.

    Strict, because transformers fills missing weights with random numbers and goes on.
    """
    from transformers import AutoConfig

    from audit.diffusion.strict_loading import Misfit, read_tensors, transformers_network  # imports torch

    try:
        settings = (getattr(loader, "config_class", None) or AutoConfig).from_pretrained(
            ref.path, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        raise unusable(ref, " ".join(str(error).split())[:300]) from error
    try:
        network = transformers_network(loader, settings, read_tensors([ref.path / name for name in ref.files]))
    except Misfit as error:
        raise unusable(ref, str(error)) from error
    try:
        moved: PreTrainedModel = network.to(device)
        return moved
    except RuntimeError as error:
        raise DetectorError(
            f"the detector cannot be moved to device {device!r}: {str(error).splitlines()[0]}",
            next_step="choose another device; 'erasure-audit doctor' lists those it finds",
        ) from error


def load_image_processor(ref: ModelRef) -> ImageProcessingMixin:
    """Load the folder's image processor on Pillow: its resampling differs from torchvision's, and scores with it."""
    from transformers import AutoImageProcessor

    try:
        return AutoImageProcessor.from_pretrained(
            ref.path, backend="pil", local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        raise unusable(ref, " ".join(str(error).split())[:300]) from error


def pixel_values(processor: ImageProcessingMixin, images: Sequence[Pixels], device: str) -> torch.Tensor:
    """Return the network's input, images x channels x height x width, in float32."""
    from PIL import Image

    pictures = [Image.fromarray(image) for image in images]  # arrays would make the processor guess the axes
    values: torch.Tensor = processor(pictures, return_tensors="pt")["pixel_values"]
    return values.to(device)


def unusable(ref: ModelRef, why: str) -> DetectorError:
    """Return the error for a model folder that makes no detector."""
    return DetectorError(
        f"the detector's model cannot be loaded: {why}",
        where=str(ref.path),
        next_step="use a folder saved by save_pretrained for this kind of detector",
    )
