"""Train the testbed's second backbone: an SD3-shaped transformer with joint attention, by flow matching on the same scenes.

The VAE and the first text encoder are those of the first backbone, frozen, as Stable Diffusion 3's are; the second text
encoder is trained with the transformer. There is no T5. While it trains, the image tokens in the middle of the transformer
also name what the scene shows at their place, by heads that are then dropped: with that the transformer learns what words
mean in a fraction of the steps.

It is trained in four phases, each from the averaged weights of the one before. The second takes larger batches of more scenes,
and Muon for the matrices, whose loss on held-back batches fell faster than with AdamW for all. The last two draw
more often the classes that came least surely before.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

from audit.diffusion.compiled import keep_code_private
from audit.machine.compilers import has_compiler
from audit.testbed.captions import ALL_CLASSES, BACKGROUNDS, COLOURS, FILLS
from audit.testbed.data import NOTHING, Scenes, load_scenes
from audit.testbed.loop import Training, build
from audit.testbed.saving import WEIGHTS
from audit.testbed.tokenizer import CONTEXT, make_tokenizer
from audit.testbed.train_diffusion import SCENES, WIDTH, draw_caption, encode_scenes


@dataclasses.dataclass(frozen=True)
class Phase:
    """`steps` steps of `batch` of the first `scenes` scenes; `peak` is the highest learning rate, `name` the checkpoint's.

    A phase that goes `further` begins with what the phase before it left in the build folder, or else with what ships, trains
    matrices by Muon, and computes in bfloat16 where the machine does. Scenes that show one of the classes `oftener` are drawn
    `OFTENER` times as often as others.
    """

    name: str
    steps: int
    scenes: int
    batch: int
    peak: float
    seed: int
    further: bool
    oftener: tuple[str, ...] = ()


FIRST = Phase("flow", 12_000, SCENES, 32, 1.2e-3, 61, further=False)
SECOND = Phase("flow-further", 5_000, 2 * SCENES, 64, 1e-3, 62, further=True)
THIRD = Phase("flow-finish", 2_000, 2 * SCENES, 64, 7e-4, 64, further=True, oftener=("cross", "hexagon"))
FOURTH = Phase("flow-corners", 2_500, 2 * SCENES, 64, 5e-4, 65, further=True, oftener=("star", "cross", "hexagon"))
PHASES = (FIRST, SECOND, THIRD, FOURTH)
OFTENER = 4
SEED = 61  # of the weights that the first phase begins with
LAYERS, HEADS, HEAD_WIDTH = 6, 5, 32
NAMING_LAYER, NAMING_WEIGHT = 3, 0.1
NAMED = (
    len(ALL_CLASSES) + 1,
    len(COLOURS) + 1,
    len(FILLS) + 1,
    len(BACKGROUNDS),
)  # the last of each but the last: nothing
TIMESTEPS = 1000


def _make_transformer() -> SD3Transformer2DModel:
    transformer = SD3Transformer2DModel(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=LAYERS,
        num_attention_heads=HEADS,
        attention_head_dim=HEAD_WIDTH,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=HEADS * HEAD_WIDTH,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=16,
        qk_norm="rms_norm",
    )
    # Each block begins as the identity (adaLN-Zero, arXiv 2212.09748), and so does the velocity, which begins as zero.
    for name, module in transformer.named_modules():
        if isinstance(module, nn.Linear) and (
            name.endswith((".norm1.linear", ".norm1_context.linear")) or name == "proj_out"
        ):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return transformer


def _make_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModelWithProjection:
    return CLIPTextModelWithProjection._from_config(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=WIDTH,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        ),
        attn_implementation="eager",
    )


def first_text_encoder() -> CLIPTextModelWithProjection:
    """Return the first backbone's text encoder, in float32; what it pools is projected by the identity."""
    encoder = CLIPTextModelWithProjection.from_pretrained(
        WEIGHTS / "pipeline" / "text_encoder",
        dtype=torch.float32,
        projection_dim=WIDTH,
        attn_implementation="eager",
        ignore_mismatched_sizes=True,
    )
    nn.init.eye_(encoder.text_projection.weight)
    return encoder.eval().requires_grad_(False)


def shifted(vae: AutoencoderKL, latents: torch.Tensor) -> AutoencoderKL:
    """Return the VAE with SD3's settings, by which its latents have mean 0 and variance 1.

    `latents` (N, 4, h, w) are scaled by the factor that the VAE has.
    """
    raw = latents.double() / vae.config["scaling_factor"]
    vae.register_to_config(shift_factor=round(float(raw.mean()), 5), scaling_factor=round(1 / float(raw.std()), 5))
    return vae


def text_states(
    encoders: tuple[CLIPTextModelWithProjection, CLIPTextModelWithProjection], tokens: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what SD3 conditions on, of token ids (B, L): the states before the last layer (B, L, 2 W), pooled (B, 2 W)."""
    outputs = [encoder(tokens, output_hidden_states=True) for encoder in encoders]
    states = torch.cat([output.hidden_states[-2] for output in outputs], -1)
    return states, torch.cat([output.text_embeds for output in outputs], -1)


class _Naming(nn.Module):
    """Heads that name class, colour and fill of the object at each image token, and the scene's background."""

    def __init__(self, transformer: SD3Transformer2DModel) -> None:
        super().__init__()
        self.head = nn.Linear(HEADS * HEAD_WIDTH, sum(NAMED))
        self._tokens: list[torch.Tensor] = []
        transformer.transformer_blocks[NAMING_LAYER - 1].register_forward_hook(
            lambda block, given, made: self._tokens.append(made[1])
        )

    def loss(self, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean cross-entropy of the last evaluation's tokens against `targets` (B, N, 4)."""
        answers = self.head(self._tokens.pop()).split(NAMED, -1)
        self._tokens.clear()
        losses = [
            nn.functional.cross_entropy(answer.flatten(0, 1).float(), targets[..., i].flatten())
            for i, answer in enumerate(answers)
        ]
        return torch.stack(losses).mean()


def shown(scenes: Scenes, rows: torch.Tensor) -> torch.Tensor:
    """Return what scenes `rows` (B,) show at each patch, (B, 64, 4): class, colour, fill and background, as in `NAMED`."""
    patches = torch.from_numpy(scenes.patches[rows.numpy()])
    objects = torch.from_numpy(scenes.objects[rows.numpy()])
    of_patch = objects.gather(1, patches.clamp(min=0)[..., None].expand(-1, -1, 3))
    nothing = torch.tensor(NAMED[:3]) - 1
    of_patch = torch.where((patches == NOTHING)[..., None], nothing, of_patch)
    backgrounds = torch.from_numpy(scenes.backgrounds[rows.numpy()])[:, None, None].expand(-1, patches.shape[1], 1)
    return torch.cat([of_patch, backgrounds], -1)


class _AttentionInFloat32(TorchFunctionMode):
    """Computes attention in float32 under autocast, for processors, whose backward pass in bfloat16 is slower."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        query, key, value, *others = args
        with torch.autocast(query.device.type, enabled=False):
            return func(query.float(), key.float(), value.float(), *others, **(kwargs or {}))


def _start(
    phase: Phase, folder: Path, tokenizer: CLIPTokenizer
) -> tuple[SD3Transformer2DModel, CLIPTextModelWithProjection]:
    """Return the transformer and the second text encoder as the phase begins with them, in float32."""
    names = [one.name for one in PHASES]
    before = folder / f"{names[names.index(phase.name) - 1]}.pt" if phase.further else None
    if before is not None and not before.exists():
        return (
            SD3Transformer2DModel.from_pretrained(WEIGHTS / "sd3" / "transformer", torch_dtype=torch.float32),
            CLIPTextModelWithProjection.from_pretrained(
                WEIGHTS / "sd3" / "text_encoder_2", dtype=torch.float32, attn_implementation="eager"
            ),
        )
    transformer, second = build(_make_transformer, SEED), build(lambda: _make_text_encoder(tokenizer), SEED + 1)
    if before is not None:
        average = torch.load(before, map_location="cpu", weights_only=True)["ema"]
        for name, module in (("transformer", transformer), ("text", second)):
            start = f"{name}."
            module.load_state_dict(
                {key.removeprefix(start): value for key, value in average.items() if key.startswith(start)}
            )
    return transformer, second


def _chances(scenes: Scenes, oftener: tuple[str, ...]) -> torch.Tensor:
    """Return how often each scene (N,) is drawn, relative to one that shows none of the classes `oftener`."""
    numbers = [ALL_CLASSES.index(name) for name in oftener]
    showing = torch.from_numpy(np.isin(scenes.objects[:, :, 0], numbers).any(1))
    return 1.0 + (OFTENER - 1) * showing


def _matrices(modules: dict[str, nn.Module]) -> list[str]:
    """Return the names of all matrices within the layers of transformer and text encoder."""
    named = nn.ModuleDict(modules).named_parameters()
    return [name for name, value in named if value.ndim == 2 and (".transformer_blocks." in name or ".layers." in name)]


def train_flow(
    phase: Phase, folder: Path, scale: float = 1.0
) -> tuple[
    AutoencoderKL, CLIPTextModelWithProjection, CLIPTextModelWithProjection, CLIPTokenizer, SD3Transformer2DModel
]:
    """Train transformer and second text encoder; return VAE, text encoders, tokenizer and transformer."""
    scenes, tokenizer = load_scenes(folder, phase.scenes, everything=False), make_tokenizer()
    vae = AutoencoderKL.from_pretrained(WEIGHTS / "pipeline" / "vae", dtype=torch.float32).eval()
    first = first_text_encoder()
    transformer, second = _start(phase, folder, tokenizer)
    naming = build(lambda: _Naming(transformer), SEED + 2)
    modules = {"transformer": transformer, "text": second, "naming": naming}
    training = Training(
        phase.name, folder, modules, steps=int(phase.steps * scale), peak=phase.peak, seed=phase.seed,
        autocast=phase.further, matrices=_matrices(modules) if phase.further else (),
    )  # fmt: skip
    device = training.device
    scaled = encode_scenes(vae.to(device), scenes, device, folder)
    first.to(device)
    factor = vae.config["scaling_factor"]
    shifted(vae, scaled[:4096])
    latents = (scaled.float() / factor - vae.config["shift_factor"]) * vae.config["scaling_factor"]
    chances = _chances(scenes, phase.oftener)
    keep_code_private()
    network = torch.compile(transformer) if has_compiler() else transformer

    def loss_of(generator: torch.Generator) -> torch.Tensor:
        """Return the loss of a batch that `generator` draws."""
        rows = (  # uniform draws stay those of the first phases' trainings, step by step
            torch.multinomial(chances, phase.batch, replacement=True, generator=generator)
            if phase.oftener
            else torch.randint(len(scenes), (phase.batch,), generator=generator)
        )
        rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
        texts = [draw_caption(scenes, int(row), rng) for row in rows]
        tokens = tokenizer(texts, padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
        sigma = torch.randn(phase.batch, generator=generator).sigmoid()  # SD3's choice among those it compares
        noise = torch.randn(latents[rows].shape, generator=generator)
        level = sigma.view(-1, 1, 1, 1)
        noisy = ((1 - level) * latents[rows] + level * noise).to(device)
        states, pooled = text_states((first, second), tokens.to(device))
        velocity = network(noisy, states, pooled, TIMESTEPS * sigma.to(device)).sample.float()
        error = (velocity - (noise - latents[rows]).to(device)).pow(2).mean()
        return error + NAMING_WEIGHT * naming.loss(shown(scenes, rows).to(device))

    with _AttentionInFloat32() if device.type == "cpu" else contextlib.nullcontext():
        training.run(loss_of)
    # A fresh tokenizer: the padding of the last call would be saved with this one.
    return vae, first, second, make_tokenizer(), transformer
