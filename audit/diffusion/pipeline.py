"""Load a Stable-Diffusion-shaped pipeline: the testbed, a local diffusers folder, or a pinned hub snapshot.

Each part is loaded by its own class, from the files that the digest is of and strictly. The safety checker is never
loaded: it would black out exactly the pictures the audit has to see.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from audit.diffusion.placeholder_tokens import Tokens, Vocabulary, encode, tokenize
from audit.diffusion.sampling import NoiseModel, Schedule, make_schedule
from audit.diffusion.strict_loading import (
    Misfit,
    diffusers_layout,
    diffusers_network,
    read_tensors,
    require_shapes,
    require_weights,
    stored_shapes,
    transformers_network,
)
from audit.diffusion.text import check_tokenizer
from audit.errors import CheckpointError
from audit.weights.files import read_json
from audit.weights.references import ModelRef, component_files, pipeline_family, sampler_settings
from audit.weights.schedulers import DDIM

# The parts of a backbone, and the classes that load them, whatever its files name.
_PARTS: Mapping[str, type[UNet2DConditionModel | AutoencoderKL | CLIPTextModel]] = {
    "unet": UNet2DConditionModel,
    "vae": AutoencoderKL,
    "text_encoder": CLIPTextModel,
}


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A loaded backbone. `vae` and `text_encoder` run in float32; `unet` in the dtype asked for."""

    ref: ModelRef
    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, object]
    device: torch.device
    vocabulary: Vocabulary = dataclasses.field(
        default_factory=Vocabulary
    )  # learned words, known beside the tokenizer's

    @property
    def resolution(self) -> int:
        """Side of the square pictures, in pixels."""
        return int(self.unet.config["sample_size"]) * 2 ** (len(self.vae.config["block_out_channels"]) - 1)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The (channels, height, width) of one latent."""
        side = int(self.unet.config["sample_size"])
        return int(self.unet.config["in_channels"]), side, side

    def latent_shape_of(self, width: int | None, height: int | None) -> tuple[int, int, int]:
        """Return (channels, height, width) of a picture's latent, from its size in pixels; None is the backbone's own side."""
        channels, side, _ = self.latent_shape
        factor = self.resolution // side
        return channels, (height or self.resolution) // factor, (width or self.resolution) // factor

    def schedule(self, steps: int) -> Schedule:
        """Return the DDIM coefficients of this pipeline's noise levels for `steps` steps."""
        return make_schedule(self.scheduler_config, steps)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Return text-encoder states (B, L, D) in float32; "" is the null prompt. Longer texts are refused, never cut."""
        states: torch.Tensor = encode(self.text_encoder, self.tokens(texts)).last_hidden_state
        return states.float()

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return texts as tokens (B, L), learned words included."""
        return tokenize(self.tokenizer, texts, self.vocabulary)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return scaled latents (B, 4, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mean, not a sample."""
        mean = self.vae.encode(images.to(self.device, torch.float32)).latent_dist.mean
        return mean * self.vae.config["scaling_factor"]

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W), float32, clamped to [-1, 1], of scaled latents (B, 4, h, w).

        What is not finite becomes NaN: clamped, an overflow would look like white.
        """
        images = self.vae.decode(latents.float() / self.vae.config["scaling_factor"]).sample
        return torch.where(torch.isfinite(images), images, torch.nan).clamp(-1, 1)


def noise_model(unet: UNet2DConditionModel) -> NoiseModel:
    """Return `(latents, timestep, states) -> noise`, evaluated in the UNet's own dtype and returned in float32."""
    dtype = unet.dtype

    def predict(latents: torch.Tensor, timestep: int | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return unet(latents.to(dtype), timestep, encoder_hidden_states=states.to(dtype)).sample.float()

    return predict


def load_pipeline(
    ref: ModelRef, device: torch.device, dtype: torch.dtype = torch.float32, *, samplers: Collection[str] = (DDIM,)
) -> Pipeline:
    """Return the loaded backbone, in evaluation mode.

    `samplers` names the schedulers that it samples with. Raises `CheckpointError` when the folder is another family
    (SD 2.x, SDXL), has settings that a sampler would ignore, or when the weights of a part are not exactly those of its
    network.
    """
    pipeline_family(ref, samplers)
    tokenizer = check_tokenizer(ref)
    loaded = {}
    for part in _PARTS:
        with _part(ref, part) as (settings, files):
            tensors = read_tensors(files)
            require_weights(tensors)
            if part == "text_encoder":
                loaded[part] = transformers_network(CLIPTextModel, _text_config(settings), tensors)
            else:
                loaded[part] = diffusers_network(_PARTS[part], settings, tensors)
    return Pipeline(
        ref=ref,
        unet=loaded["unet"].to(device, dtype),
        vae=loaded["vae"].to(device),
        text_encoder=loaded["text_encoder"].to(device),
        tokenizer=tokenizer,
        scheduler_config=sampler_settings(ref),
        device=device,
    )


def check_weights(ref: ModelRef) -> None:
    """Return when the files of each part hold exactly the tensors of its network, by their headers; no weight is read.

    Raises `CheckpointError` that names the first tensor that is missing, left over or of another shape.
    """
    for part in _PARTS:
        with _part(ref, part) as (settings, files):
            if part == "text_encoder":
                config = _text_config(settings)
                with torch.device("meta"):
                    network: torch.nn.Module = CLIPTextModel(config)
            else:
                network = diffusers_layout(_PARTS[part], settings)
            require_shapes(network, stored_shapes(files))


@contextlib.contextmanager
def _part(ref: ModelRef, part: str) -> Iterator[tuple[Mapping[str, object], list[Path]]]:
    """Give the settings of one part and the files that its digest is of; inside, a `Misfit` becomes a `CheckpointError`."""
    try:
        yield read_json(ref.path / part / "config.json"), [ref.path / name for name in component_files(ref, part)]
    except Misfit as error:
        raise CheckpointError(
            f"the backbone's {part} cannot be loaded: {error}",
            where=str(ref.path / part),
            next_step="download or copy this part again; it has to be one that save_pretrained wrote",
        ) from error


def _text_config(settings: Mapping[str, object]) -> CLIPTextConfig:
    try:
        return CLIPTextConfig.from_dict(dict(settings))
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        raise Misfit(f"its configuration makes no network: {' '.join(str(error).split())[:300]}") from error
