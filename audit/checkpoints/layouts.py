"""The layouts that erasers' code writes, and the artefact that results from reading any of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

from audit.checkpoints.tensors import LazyTensor, LazyTensors


@dataclasses.dataclass(frozen=True)
class Layout:
    """A form of storing tensors. Several methods share one, so that the layout never tells which of them made a file."""

    name: str
    says: str  # completes "the file is ..."
    methods: tuple[str, ...]  # claims that this layout can back


PARTIAL = Layout(
    "partial-unet",
    "some of the network's tensors, by diffusers names",
    ("esd-x", "esd-x-strict", "esd-u", "esd-all", "uce", "concept-ablation", "mace", "rece", "speed"),
)
FULL = Layout(
    "full-unet",
    "a whole network, by diffusers names",
    (
        "esd-x",
        "esd-x-strict",
        "esd-u",
        "esd-all",
        "uce",
        "rece",
        "mace",
        "concept-ablation",
        "advunlearn",
        "speed",
        "stereo",
    ),
)
ESD_NESTED = Layout("esd-nested", "ESD's nested modules (`unet.<module>` -> weight, bias)", FULL.methods[:4])
LDM_FULL = Layout(
    "ldm-full",
    "a whole latent-diffusion (CompVis) checkpoint, of which the UNet is used",
    ("esd-x", "esd-u", "esd-all", "advunlearn", "concept-ablation"),
)
ORIGINAL = Layout(
    "original-transformer",
    "a whole transformer by its authors' names (Stable Diffusion 3.x, Flux)",
    ("esd-x", "esd-u", "esd-all"),
)
RECELER = Layout("receler", "Receler's adapters, which add modules after every attn2", ("receler",))
RECELER_MERGED = Layout("receler-merged", "a whole UNet with Receler's adapters among its tensors", ("receler",))
PIPELINE = Layout("pipeline", "a whole diffusers pipeline folder", ("mace", *FULL.methods))
CA_DELTA = Layout("ca-delta", "Concept Ablation's delta (`unet` -> tensors)", ("concept-ablation",))
CA_LDM_DELTA = Layout("ca-ldm-delta", "Concept Ablation's delta by latent-diffusion names", ("concept-ablation",))
SPM = Layout("spm", "SPM's low-rank layers, which act by how close the prompt is to the concept", ("spm",))
LORA = Layout("lora", "a LoRA, which is fused into the backbone's weights", ("eraseflow", "leco"))
TEXT_STATE = Layout("text-encoder-state", "a text encoder saved by AdvUnlearn's code", ("advunlearn",))
TEXT_FOLDER = Layout("text-encoder", "a transformers text encoder", ("advunlearn", "concept-ablation"))


@dataclasses.dataclass(frozen=True)
class SpmFile:
    """An SPM file: its `down` and `up` tensors by module path (`down_blocks.0...attn1.to_q`), and its metadata."""

    down: LazyTensors
    up: LazyTensors
    rank: int
    alpha: float
    prompts: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Artefact:
    """A recognised checkpoint, in the backbone's own names. Its tensors are read when they are needed."""

    layout: Layout
    where: str
    names_sha256: str  # of the names that are used, as the file spells them but for a wrapper's prefix
    file_tensors: int  # how many those are
    key_set: str | None = None  # the known set that the UNet names are
    unet: LazyTensors = dataclasses.field(default_factory=dict)
    text: LazyTensors = dataclasses.field(default_factory=dict)
    adapters: LazyTensors = dataclasses.field(default_factory=dict)  # Receler, flat names
    spm: SpmFile | None = None
    whole: bool = False  # the file also holds tensors that its method does not train
    notes: tuple[str, ...] = ()
    config: Mapping[str, object] = dataclasses.field(default_factory=dict)

    def tensors(self) -> Iterator[LazyTensor]:
        """Yield all tensors that are used."""
        parts = [self.unet, self.text, self.adapters, *((self.spm.down, self.spm.up) if self.spm else ())]
        return (tensor for part in parts for tensor in part.values())
