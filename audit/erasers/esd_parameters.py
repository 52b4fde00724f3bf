"""Parameters of ESD: the official values of 2025 and of 2023, presets beside them, and its variants. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from audit.checkpoints.key_sets import is_text_attention, is_text_key
from audit.erasers.costs import BACKWARD, tensor_bytes, training_calls
from audit.erasers.method import Calls, EraserMethod
from audit.erasers.parameters import Precision, TrainedParameters
from audit.errors import SpecError
from audit.methods.parameters import Values


class EsdParameters(TrainedParameters):
    """Options of ESD. Values are those of the official Stable Diffusion script (2025, esd_sd.py).

    With c_from equal to c, both conventions agree when eta_new = eta_old + 1: the 2025 script's 2 is the 2023 script's 1. The
    2025 script fixes 1024 pixels, also for Stable Diffusion v1.4, whose own side is 512; `pixels: 512` trains at it. It trains
    weights that are bfloat16 themselves (`compute: bfloat16-weights`).
    """

    LATER: ClassVar[frozenset[str]] = TrainedParameters.LATER | {"selection", "lora_rank"}

    negative_guidance: float = Field(2.0, gt=0)
    "Strength of the guidance away from the concept (eta)."
    convention: Literal["new", "old"] = "new"
    "How eta enters the target: from the prediction for `erase_from` (`new`, 2025) or for the null prompt (`old`, 2023)."
    selection: Literal["2025", "2023"] = "2025"
    """Tensors that a method's name means: those of the 2025 script, or those of the 2023 one, which trains the
    normalisation layers too and, in esd-u, leaves out the time embedding and the output layers."""
    lora_rank: int = Field(0, ge=0, le=256)
    """Rank of a LoRA that is trained on the selected linear layers and saved by diffusers' names; 0 trains the weights
    themselves."""
    erase_from: str | None = None
    "The prompt from which alone the concept is erased (c_from); by default the concept itself."
    iterations: int = Field(200, ge=1)
    learning_rate: float = Field(5e-5, gt=0)
    sampler: Literal["pndm", "ddim"] = "pndm"
    pixels: int | None = Field(1024, ge=8)
    compute: Literal["float32", "bfloat16", "bfloat16-weights"] = "bfloat16"
    stored: Precision = "bfloat16"

    @model_validator(mode="after")
    def _lora_keeps_weights(self) -> Self:
        if self.lora_rank and self.compute == "bfloat16-weights":
            raise SpecError(
                "a LoRA leaves the weights as they are, and compute bfloat16-weights trains them",
                where="defences",
                next_step="set compute to bfloat16 or float32, or lora_rank to 0",
            )
        return self


_PAPER: Mapping[str, object] = {
    "negative_guidance": 1.0,
    "convention": "old",
    "selection": "2023",
    "iterations": 1000,
    "learning_rate": 1e-5,
    "sampler": "ddim",
    "latents_from": "trained",
    "pixels": 512,
    "jitter": True,
    "compute": "float32",
    "stored": "float32",
}
PRESETS: Mapping[str, Mapping[str, object]] = {
    "float32-weights": {},
    "official": {"compute": "bfloat16-weights"},
    "official-2023": {**_PAPER, "trajectory": "compvis"},
    "paper": _PAPER,
    "testbed": {
        "iterations": 200,
        "learning_rate": 2e-4,
        "batch_size": 8,
        "templates": ("a photo of a {phrase}", "a {phrase}", "{phrase}"),
        "sampler": "ddim",
        "steps": 25,
        "pixels": None,
        "pool": 24,
        "compute": "float32",
        "stored": "float16",
    },
}
ODDITIES: Mapping[str, str] = {
    "official": "trains the bfloat16 weights themselves, so that many an update is rounded away or up, at 1024 pixels",
    "official-2023": "its latents lie one to two sampling steps below the timestep that the model is told",
}


class EsdStrictParameters(EsdParameters):
    """Options of esd-x-strict, which the code of 2023 does not have."""

    @model_validator(mode="after")
    def _of_2025(self) -> Self:
        if self.selection == "2023":
            raise SpecError(
                "esd-x-strict is a method of the 2025 code; the 2023 code has none that trains keys and values alone",
                where="defences",
                next_step="use preset official or float32-weights, or the method esd-x",
            )
        return self


def _calls(values: Values, concept: Values) -> Calls:
    """Return the cost of one forward and one backward pass for each row of each iteration."""
    return training_calls(values, concept, 1 + BACKWARD)


def _changes(method: str, name: str, selection: str) -> bool:
    """Return whether a method trains the UNet tensor of this name; normalisation layers are the modules called `*norm*`."""
    if method == "esd-x-strict":
        return is_text_key(name)
    attention = is_text_attention(name)
    if selection == "2023":
        kept = name.startswith(("time_embedding.", "conv_norm_out.", "conv_out."))
        return {"esd-x": attention, "esd-u": not attention and not kept, "esd-all": True}[method]
    norm = "norm" in name.split(".")[-2]
    return {"esd-x": attention, "esd-u": not attention and not norm, "esd-all": not norm}[method]


def _method(name: str, parameters: type[EsdParameters] = EsdParameters, called: tuple[str, ...] = ()) -> EraserMethod:
    return EraserMethod(
        name,
        "1",
        parameters,
        f"audit.erasers.esd:{name.replace('-', '_')}",
        "Gandikota et al. 2023, arXiv 2303.07345",
        presets=PRESETS,
        default="float32-weights",
        families=("sd1", "sd2", "sdxl", "sd3"),
        oddities=ODDITIES,
        called=called,
        words=("erase_from",),
        calls=_calls,
        stored=lambda values, unet: tensor_bytes(
            values, unet, lambda tensor: _changes(name, tensor, values.get("selection", "2025"))
        ),
    )


# What papers, READMEs and older codes call them. In the official code of 2025 most of these select no parameter at all
# and train nothing, without an error.
ESD_X = _method("esd-x", called=("esd", "esdx", "xattn", "esd-xattn"))
ESD_U = _method("esd-u", called=("noxattn", "esdu", "esd-noxattn"))
ESD_X_STRICT = _method("esd-x-strict", EsdStrictParameters, ("xattn-strict", "esdxstrict"))
ESD_ALL = _method("esd-all", called=("esd-a", "esdall", "full"))
