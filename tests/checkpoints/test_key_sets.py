"""Names and sizes of SD v1.4's tensors: every digest and number of the reference tables."""

from __future__ import annotations

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from transformers import CLIPTextConfig, CLIPTextModel

from audit.checkpoints import pickles
from audit.checkpoints.key_sets import LDM_PREFIX, group_of, key_set, matching_set, names_sha256
from audit.checkpoints.named import by_names
from audit.checkpoints.receler_adapter import nested
from audit.checkpoints.tensors import BackboneTensors, in_memory
from audit.weights.original_names import unet_name
from tests.checkpoints.files import SPM_METADATA, State, adapters, ldm_full, merged_state, spm_state
from tests.original_layouts import ldm_names
from tests.sd14 import FULL, make_vae

REFERENCE = {
    "ALL": (686, 859_520_964, "983bc58de4da8e4e571f08deef04b169c15d06252ffd51558d4caa992638e968"),
    "KV": (32, 19_169_280, "6ed7f99860fb076aa8559fa9456b07963f3b0b54150e86d947cb5608d8bfc131"),
    "XATTN": (80, 43_962_560, "ec07cb79c6eb6b7404aec12192d5fe8a9d17e1db97442845a6d7f20e12d9125f"),
    "SELF": (80, 49_574_080, "f936e26b4e6854f92d42532bc6af0c64d246db9b219c9f14e557f0c66f189e2d"),
    "QKVO": (160, 93_536_640, "102de1db47b2d9e655ac33c34f5084ebbf27d68a9f935b940ac31fbff1c628f3"),
    "ESD_U": (388, 815_358_084, "5fffe464ae12101c3e4f6f7ba9560930cf3673164b3a7d56d846467354f317dc"),
    "ESD_ALL": (468, 859_320_644, "c936c9f937c62ec8a760bf69fc6e124f750438a94deda9971eb9de68912ab2c8"),
    "NOXATTN": (598, 813_495_680, "a2fbc8458fc2ee249bbb45e701d968a2aeecfd32d733a2c2d00be375df740192"),
}


@pytest.mark.parametrize("name", REFERENCE)
def test_a_key_set_has_its_reference_size_and_digest(name: str, full_unet: State) -> None:
    members = key_set(name, full_unet)
    found = len(members), sum(full_unet[n].numel() for n in members), names_sha256(members)
    assert found == REFERENCE[name]
    assert matching_set(members, full_unet) == name


def test_ldm_names_are_the_reference_and_what_diffusers_converts(full_unet: State) -> None:
    names = ldm_names(full_unet)
    assert names_sha256(names) == "a635fa777e57c17aa014b0cb53066680fbcafb6c4c219fe796c8b5415a059dcd"
    converted = convert_ldm_unet_checkpoint(dict(names), config={"layers_per_block": 2})
    assert converted == {name: name for name in full_unet}
    assert {ldm: unet_name(ldm.removeprefix(LDM_PREFIX), 2) for ldm in names} == names


def test_every_tensor_is_in_one_group(full_unet: State) -> None:
    groups = {group_of(name) for name in full_unet}
    assert len(groups) == 7
    assert sum(group_of(n) == "attn2 keys and values" for n in full_unet) == 32


def test_receler_at_full_size(full_unet: State, full_backbone: BackboneTensors) -> None:
    flat = adapters(full_unet, rank=128)
    artefact = pickles.recognise(nested(flat), None, full_backbone, "test")
    assert (artefact.layout.name, artefact.config["rank"], len(nested(flat)), len(flat)) == ("receler", 128, 16, 64)
    assert sum(tensor.numel() for tensor in flat.values()) == 3_209_408
    widths = [parts["down.weight"].shape[1] for parts in nested(flat).values()]
    assert {width: widths.count(width) for width in set(widths)} == {320: 5, 640: 5, 1280: 6}


def test_receler_merged_at_full_size(full_unet: State, full_backbone: BackboneTensors) -> None:
    artefact = by_names(in_memory(merged_meta(full_unet)), {}, None, full_backbone, "test")
    assert (artefact.layout.name, len(artefact.unet), len(artefact.adapters)) == ("receler-merged", 686, 64)


def merged_meta(full_unet: State) -> State:
    with torch.device("meta"):
        return merged_state(full_unet)


def test_spm_at_full_size(full_unet: State, full_backbone: BackboneTensors) -> None:
    state = spm_state(full_unet)
    assert len(state) == 576 and sum(t.numel() for n, t in state.items() if "lora" in n.split(".")[1]) == 423_936
    artefact = by_names(in_memory(state), SPM_METADATA, None, full_backbone, "test")
    assert artefact.spm is not None
    assert (artefact.layout.name, len(artefact.spm.down), artefact.spm.rank) == ("spm", 192, 1)


def test_the_text_encoder_has_the_reference_size() -> None:
    config = CLIPTextConfig(
        vocab_size=49408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    with torch.device("meta"):
        state = CLIPTextModel(config).state_dict()
    names = [name for name in state if not name.endswith("position_ids")]
    assert (len(names), sum(state[name].numel() for name in names)) == (196, 123_060_480)


def test_the_vae_has_the_reference_size() -> None:
    with torch.device("meta"):
        state = make_vae(FULL).state_dict()
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (248, 83_653_863)


@pytest.mark.parametrize("name", [n for n in REFERENCE if n != "ALL"])
def test_a_partial_unet_is_recognised_without_reading_a_tensor(
    name: str, full_unet: State, full_backbone: BackboneTensors
) -> None:
    state = {n: full_unet[n] for n in key_set(name, full_unet)}
    artefact = by_names(in_memory(state), {}, None, full_backbone, "test")
    assert (artefact.layout.name, artefact.key_set) == ("partial-unet", name)
    assert artefact.names_sha256 == REFERENCE[name][2]


def test_a_whole_ldm_checkpoint_at_full_size(full_unet: State, full_backbone: BackboneTensors) -> None:
    artefact = pickles.recognise(ldm_full(full_unet, {}), None, full_backbone, "test")
    assert (artefact.layout.name, artefact.key_set, len(artefact.unet)) == ("ldm-full", "ALL", 686)
    assert artefact.names_sha256 == "a635fa777e57c17aa014b0cb53066680fbcafb6c4c219fe796c8b5415a059dcd"
