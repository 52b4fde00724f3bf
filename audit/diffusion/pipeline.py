"""Load a text-to-image pipeline: the testbed, a local diffusers folder, its authors' single file, or a pinned hub snapshot.

Each part is loaded by its own class, from the files that the digest is of and strictly. The safety checker is never
loaded: it would black out exactly the pictures the audit has to see.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, T5EncoderModel, T5TokenizerFast

from audit.diffusion.compiled import Compiled
from audit.diffusion.denoisers import (
    Denoiser,
    JointTransformer,
    PackedTransformer,
    SizedUNet,
    image_tokens,
    is_distilled,
    latent_shape,
)
from audit.diffusion.part_weights import part_shapes, part_tensors
from audit.diffusion.placeholder_tokens import Tokens, Vocabulary
from audit.diffusion.sampling import NoiseModel, Schedule
from audit.diffusion.schedule import make_flow_schedule, make_schedule, training_levels
from audit.diffusion.strict_loading import (
    Misfit,
    diffusers_layout,
    diffusers_network,
    require_shapes,
    require_weights,
    transformers_network,
)
from audit.diffusion.text import check_tokenizer, load_t5_tokenizer
from audit.diffusion.text_encoders import T5, Clip, TextEncoders
from audit.errors import CheckpointError
from audit.files import Document
from audit.weights.families import LAYOUTS, T5_LENGTH, T5_LENGTHS, Family, has_t5
from audit.weights.files import read_json
from audit.weights.references import ModelRef, pipeline_family, sampler_settings
from audit.weights.schedulers import DDIM, Kind, prediction_kind

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A loaded backbone. `vae` and the text encoders run in float32; `unet` in the dtype asked for.

    `unet` is the denoising network, whatever its architecture; `text_encoder` and `tokenizer` are the first that read text.
    """

    ref: ModelRef
    unet: Denoiser
    vae: AutoencoderKL
    text_encoder: CLIPTextModel | CLIPTextModelWithProjection
    tokenizer: CLIPTokenizer
    scheduler_config: Mapping[str, object]
    device: torch.device
    vocabulary: Vocabulary = dataclasses.field(
        default_factory=Vocabulary
    )  # learned words, known beside the tokenizer's
    family: Family = "sd1"
    second: Clip | None = None  # SDXL's and Stable Diffusion 3's
    t5: T5 | None = None
    null_is_zero: bool = False  # SDXL: the empty text is all zeros

    @property
    def resolution(self) -> int:
        """Side of the square pictures, in pixels."""
        return self.latent_shape[1] * self._pixels

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """The (channels, height, width) of one latent."""
        return latent_shape(self.unet)

    @property
    def _pixels(self) -> int:
        """The pixels of a latent's side."""
        return int(2 ** (len(self.vae.config["block_out_channels"]) - 1))

    def latent_shape_of(self, width: int | None, height: int | None) -> tuple[int, int, int]:
        """Return (channels, height, width) of a picture's latent, from its size in pixels; None is the backbone's own side."""
        pixels = self._pixels
        return self.latent_shape[0], (height or self.resolution) // pixels, (width or self.resolution) // pixels

    @property
    def kind(self) -> Kind:
        """What the network predicts."""
        return prediction_kind(self.scheduler_config)

    @property
    def distilled(self) -> bool:
        """Whether guidance is an input of the network, or is left out, so that no null prompt is evaluated."""
        return is_distilled(self.unet)

    def schedule(self, steps: int, size: tuple[int, int] | None = None) -> Schedule:
        """Return the deterministic sampler's `steps` steps on this pipeline's noise levels.

        `size` is the latents' (height, width) where it is not the network's own; some flows shift their grid by it.
        """
        if self.kind != "flow":
            return make_schedule(self.scheduler_config, steps)
        tokens = image_tokens(self.unet, *(size or self.latent_shape[1:]))
        return make_flow_schedule(self.scheduler_config, steps, tokens, linear=self.family == "flux")

    def training_levels(self) -> torch.Tensor:
        """Return the factors of signal and noise (T, 2) at every training timestep, in float32."""
        return training_levels(self.scheduler_config)

    @property
    def attended(self) -> CLIPTokenizer | T5TokenizerFast:
        """The tokenizer of the text that attention reads first: of Flux, whose CLIP gives the pooled state alone, T5's."""
        if self.family == "flux" and self.t5 is not None and self.t5.tokenizer is not None:
            return self.t5.tokenizer
        return self.tokenizer

    @property
    def encoders(self) -> TextEncoders:
        """All that reads text."""
        first = Clip(self.tokenizer, self.text_encoder)
        if self.second is None:
            return TextEncoders(self.family, (first,), self.t5, self.null_is_zero)
        width = int(self.text_encoder.config.hidden_size)
        clips = (
            dataclasses.replace(first, columns=slice(0, width)),
            dataclasses.replace(self.second, columns=slice(width, None)),
        )
        return TextEncoders(self.family, clips, self.t5, self.null_is_zero)

    @property
    def further_encoders(self) -> dict[str, torch.nn.Module]:
        """The text encoders beside the first, by the part of the folder that they lie in."""
        found = (self.second.encoder if self.second else None, self.t5.encoder if self.t5 else None)
        loaded = [encoder for encoder in found if encoder is not None]
        return {f"text_encoder_{number}": encoder for number, encoder in enumerate(loaded, 2)}

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> torch.Tensor:
        """Return text states (B, L, D) in float32, as the network takes them; "" is the null prompt.

        Longer texts than an encoder reads are refused, never cut.
        """
        return self.encoders.states(texts, self.vocabulary)

    @torch.no_grad()
    def first_states(self, texts: Sequence[str]) -> torch.Tensor:
        """Return the final states (B, L, D) of the first text encoder alone, in float32."""
        return self.encoders.clips[0].read(texts, self.vocabulary).last_hidden_state.float()

    def tokens(self, texts: Sequence[str]) -> Tokens:
        """Return texts as the first encoder's tokens (B, L), learned words included."""
        return self.encoders.clips[0].tokens(texts, self.vocabulary)

    @torch.no_grad()
    def encode_images(self, images: torch.Tensor) -> torch.Tensor:
        """Return scaled latents (B, 4, h, w) of images (B, 3, H, W) in [-1, 1]: the posterior's mean, not a sample."""
        mean = self.vae.encode(images.to(self.device, torch.float32)).latent_dist.mean
        shift = self.vae.config["shift_factor"]
        return (mean if shift is None else mean - shift) * self.vae.config["scaling_factor"]

    def unscaled(self, latents: torch.Tensor) -> torch.Tensor:
        """Return latents (B, C, h, w) as the decoder takes them."""
        scaled, shift = latents / self.vae.config["scaling_factor"], self.vae.config["shift_factor"]
        return scaled if shift is None else scaled + shift

    @torch.no_grad()
    def decode_latents(self, latents: torch.Tensor) -> torch.Tensor:
        """Return images (B, 3, H, W), float32, clamped to [-1, 1], of scaled latents (B, 4, h, w).

        What is not finite becomes NaN: clamped, an overflow would look like white.
        """
        images = self.vae.decode(self.unscaled(latents.float())).sample
        return torch.where(torch.isfinite(images), images, torch.nan).clamp(-1, 1)


def noise_model(unet: Denoiser, guidance: float = 1.0, compiled: Compiled | None = None) -> NoiseModel:
    """Return `(latents, timestep, states) -> prediction`, evaluated in the network's own dtype and returned in float32.

    `guidance` is the scale that a network distilled with guidance is told; the others know none. `compiled` is called
    in place of the network.
    """
    dtype, evaluate = unet.dtype, compiled or unet
    told = {"guidance": guidance} if is_distilled(unet) else {}

    def predict(latents: torch.Tensor, timestep: float | torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return evaluate(latents.to(dtype), timestep, encoder_hidden_states=states.to(dtype), **told).sample.float()

    return predict


def load_pipeline(
    ref: ModelRef, device: torch.device, dtype: torch.dtype = torch.float32, *, samplers: Collection[str] = (DDIM,)
) -> Pipeline:
    """Return the loaded backbone, in evaluation mode.

    `samplers` names the schedulers that it samples with. Raises `CheckpointError` when the folder is of no supported family,
    has settings that a sampler would ignore, or when the weights of a part are not exactly those of its network.
    """
    family, index = pipeline_family(ref, samplers), read_json(ref.path / "model_index.json")
    loaded = {}
    for part, loader in _networks(family, index).items():
        with _part(ref, part) as settings:
            tensors = part_tensors(ref, part)
            require_weights(tensors)
            config = _text_config(loader, settings) if part.startswith("text_encoder") else None
            loaded[part] = (
                diffusers_network(loader, settings, tensors)
                if config is None
                else transformers_network(loader, config, tensors)
            ).to(device)
    network = loaded[LAYOUTS[family].network]
    pipeline = Pipeline(
        ref=ref,
        unet=network.to(dtype),
        vae=loaded["vae"],
        text_encoder=loaded["text_encoder"],
        tokenizer=check_tokenizer(ref),
        scheduler_config=sampler_settings(ref),
        device=device,
        family=family,
    )
    if isinstance(network, SizedUNet):
        network.pixels = pipeline.resolution // pipeline.latent_shape[1]
    return _with_further_text(pipeline, index, loaded)


def _with_further_text(pipeline: Pipeline, index: Document, loaded: Mapping[str, torch.nn.Module]) -> Pipeline:
    """Return the pipeline with all that reads text beside its first encoder."""
    ref, family = pipeline.ref, pipeline.family
    second = None
    if family in ("sdxl", "sd3"):
        second = Clip(check_tokenizer(ref, "_2"), loaded["text_encoder_2"])
    t5 = None
    if family in ("sd3", "flux"):
        part = "3" if family == "sd3" else "2"
        encoder = loaded.get(f"text_encoder_{part}")
        tokenizer = load_t5_tokenizer(ref.path / f"tokenizer_{part}") if encoder is not None else None
        length = int(index.get(T5_LENGTH, T5_LENGTHS[family]))
        t5 = T5(tokenizer, encoder, length, int(pipeline.unet.config["joint_attention_dim"]))
    zero = family == "sdxl" and bool(index.get("force_zeros_for_empty_prompt", True))
    return dataclasses.replace(pipeline, second=second, t5=t5, null_is_zero=zero)


def check_weights(ref: ModelRef) -> None:
    """Return when the files of each part hold exactly the tensors of its network, by their headers; no weight is read.

    Raises `CheckpointError` that names the first tensor that is missing, left over or of another shape.
    """
    index = read_json(ref.path / "model_index.json")
    for part, loader in _networks(pipeline_family(ref), index).items():
        with _part(ref, part) as settings:
            if part.startswith("text_encoder"):
                config = _text_config(loader, settings)
                with torch.device("meta"):
                    network: torch.nn.Module = loader(config)
            else:
                network = diffusers_layout(loader, settings)
            require_shapes(network, part_shapes(ref, part))


def _networks(family: Family, index: Document) -> Mapping[str, Any]:
    """Return the class that loads each part with weights, whatever its files name; absent optional ones are left out."""
    denoiser = {"sd1": UNet2DConditionModel, "sd2": UNet2DConditionModel, "sdxl": SizedUNet, "sd3": JointTransformer}
    clip, projected = CLIPTextModel, CLIPTextModelWithProjection
    networks = {LAYOUTS[family].network: denoiser.get(family, PackedTransformer), "vae": AutoencoderKL}
    match family:
        case "sd1" | "sd2":
            return {**networks, "text_encoder": clip}
        case "sdxl":
            return {**networks, "text_encoder": clip, "text_encoder_2": projected}
        case "sd3":
            t5 = {"text_encoder_3": T5EncoderModel} if has_t5(index, family) else {}
            return {**networks, "text_encoder": projected, "text_encoder_2": projected, **t5}
        case "flux":
            return {**networks, "text_encoder": clip, "text_encoder_2": T5EncoderModel}


@contextlib.contextmanager
def _part(ref: ModelRef, part: str) -> Iterator[Mapping[str, object]]:
    """Give the settings of one part; inside, a `Misfit` becomes a `CheckpointError`."""
    try:
        yield read_json(ref.path / part / "config.json")
    except Misfit as error:
        again = "download or copy this part again; it has to be one that save_pretrained wrote"
        single = ref.single is not None and part in ref.single.prefixes
        raise CheckpointError(
            f"the backbone's {part} cannot be loaded: {error}",
            where=f"{ref.single.path} with the settings in {ref.path}"
            if single and ref.single
            else str(ref.path / part),
            next_step="use the config folder of the very model that the file holds" if single else again,
        ) from error


def _text_config(loader: type[PreTrainedModel], settings: Mapping[str, object]) -> PreTrainedConfig:
    try:
        config: PreTrainedConfig = loader.config_class.from_dict(dict(settings))
    except Exception as error:  # the settings come from outside, and what they break is anybody's error
        raise Misfit(f"its configuration makes no network: {' '.join(str(error).split())[:300]}") from error
    return config
