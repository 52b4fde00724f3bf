"""Files of personalisations: every layout reads as the same change, and what is none is refused before any compute."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from audit.diffusion.pipeline import Pipeline
from audit.errors import CheckpointError, SpecError
from audit.run import draft_plan
from audit.spec.document import load_spec
from tests.attacks import loras
from tests.attacks.loras import State
from tests.attacks.personalised import change_of, draft, planned, spec_with, written


@pytest.mark.parametrize(
    "name", [loras.diffusers_name, loras.peft_name, loras.processor_name, loras.bare_name, loras.kohya_name]
)
def test_every_layout_adds_up_times_down_whatever_the_order_of_its_names(
    tmp_path: Path, pipeline: Pipeline, unet: State, name: loras.Name
) -> None:
    state = loras.lora_state(unet, name)
    path = written(tmp_path / "a.safetensors", dict(reversed(state.items())))
    change = change_of(path, pipeline)
    expected = {f"{module}.weight": up @ down for module, (down, up) in loras.pairs(unet).items()}
    assert set(change.unet) == set(expected) and not change.text
    assert all(torch.allclose(change.unet[n](), expected[n], atol=1e-6) for n in expected)
    torch.save(state, tmp_path / "a.bin")
    pickled = change_of(tmp_path / "a.bin", pipeline)
    assert all(torch.equal(change.unet[n](), pickled.unet[n]()) for n in expected)


def test_alpha_scales_by_layer_or_by_metadata_or_not_at_all(tmp_path: Path, pipeline: Pipeline, unet: State) -> None:
    plain = change_of(written(tmp_path / "plain.safetensors", loras.lora_state(unet)), pipeline).unet
    module = loras.attention_modules(unet)[0]
    by_layer = {**loras.lora_state(unet), f"unet.{module}.alpha": torch.tensor(6.0)}
    own = change_of(written(tmp_path / "own.safetensors", by_layer), pipeline).unet
    said = {"lora_adapter_metadata": json.dumps({"unet.lora_alpha": 1, "unet.r": loras.RANK, "unet.use_dora": False})}
    told = change_of(written(tmp_path / "said.safetensors", loras.lora_state(unet), said), pipeline).unet
    for name, delta in plain.items():
        assert torch.allclose(own[name](), delta() * (6.0 / loras.RANK if name == f"{module}.weight" else 1.0))
        assert torch.allclose(told[name](), delta() / loras.RANK)


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("text_encoder.text_model.{}.q_proj.lora_linear_layer.down.weight",
         "text_encoder.text_model.{}.q_proj.lora_linear_layer.up.weight"),
        ("text_encoder.{}.q_proj.lora_A.weight", "text_encoder.{}.q_proj.lora_B.weight"),
        ("text_encoder.text_model.{}.to_q_lora.down.weight", "text_encoder.text_model.{}.to_q_lora.up.weight"),
        ("lora_te_text_model_{}_q_proj.lora_down.weight", "lora_te_text_model_{}_q_proj.lora_up.weight"),
    ],
    ids=["diffusers", "peft", "2023", "kohya"],
)  # fmt: skip
def test_the_text_encoder_changes_with_its_layers(tmp_path: Path, pipeline: Pipeline, down: str, up: str) -> None:
    layer = "encoder.layers.0.self_attn"
    layer = layer.replace(".", "_") if down.startswith("lora_te") else layer
    halves = {down.format(layer): torch.ones(1, 16), up.format(layer): torch.full((16, 1), 0.5)}
    change = change_of(written(tmp_path / "te.safetensors", halves), pipeline)
    assert not change.unet and list(change.text) == ["encoder.layers.0.self_attn.q_proj.weight"]
    assert torch.equal(change.text["encoder.layers.0.self_attn.q_proj.weight"](), torch.full((16, 16), 0.5))


Change_ = Callable[[State, str], State]


def _without(state: State, name: str) -> State:
    return {n: t for n, t in state.items() if n != name}


BAD: dict[str, tuple[Change_, str]] = {
    "unknown layer": (
        lambda s, m: {**s, "unet.mid_block.new.lora.down.weight": torch.ones(2, 8)},
        "belongs to no layer",
    ),
    "not a half": (lambda s, m: {**s, f"unet.{m}.lora.side.weight": torch.ones(2, 8)}, "belongs to no layer"),
    "dora": (lambda s, m: {**s, f"unet.{m}.lora_magnitude_vector": torch.ones(8)}, "belongs to no layer"),
    "half a pair": (lambda s, m: _without(s, f"unet.{m}.lora.up.weight"), "lacks its up half"),
    "rank": (lambda s, m: {**s, f"unet.{m}.lora.up.weight": torch.ones(8, 5)}, "has shapes"),
    "width": (lambda s, m: {**s, f"unet.{m}.lora.down.weight": torch.ones(2, 9)}, "has shapes"),
    "nan": (lambda s, m: {**s, f"unet.{m}.lora.up.weight": torch.full((8, 2), float("nan"))}, "NaN"),
    "untrained": (lambda s, m: {n: t * (".down." in n) for n, t in s.items()}, "changes nothing"),
    "alpha": (lambda s, m: {**s, f"unet.{m}.alpha": torch.tensor(-1.0)}, "alpha"),
    "twice": (lambda s, m: {**s, f"unet.{m}.lora_A.weight": torch.ones(2, 8)}, "the same of one layer"),
    "integers": (lambda s, m: {n: (t * 9).long() for n, t in s.items()}, "floating-point"),
    "other prefix": (lambda s, m: {f"transformer.{n}": t for n, t in s.items()}, "belongs to no layer"),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_bad_lora_is_refused_before_anything_is_computed(
    tmp_path: Path, tiny_folder: Path, unet: State, bad: str
) -> None:
    change, message = BAD[bad]
    path = written(tmp_path / "bad.safetensors", change(loras.lora_state(unet), loras.attention_modules(unet)[0]))
    with pytest.raises(CheckpointError, match=message) as caught:
        planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    assert caught.value.next_step and caught.value.where


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (lambda path, unet: save_file(unet, path), "adds nothing"),
        (lambda path, unet: save_file({"conv_in.weight": unet["conv_in.weight"] + 1}, path), "no set that a known"),
        (lambda path, unet: save_file({n: t + 1 for n, t in unet.items() if "attn2" in n}, path), "not a whole UNet"),
        (lambda path, unet: save_file({**unet, "more.weight": torch.ones(2)}, path), "does not have"),
        (lambda path, unet: save_file({n: t * float("nan") for n, t in unet.items()}, path), "NaN"),
        (lambda path, unet: path.write_bytes(b"no tensors at all"), "safetensors"),
        (lambda path, unet: torch.save({"lora_unet_x": Path("x")}, path.with_suffix(".bin")), "could run code"),
        (lambda path, unet: torch.save({"lora_unet_x": 1}, path.with_suffix(".bin")), "no flat set"),
        (lambda path, unet: save_file(
            loras.lora_state(unet, loras.kohya_name), path, {"prompts": "ring", "rank": "2"}), "is an SPM"),
        (lambda path, unet: save_file(
            loras.lora_state(unet), path, {"lora_adapter_metadata": '{"unet.use_dora": true}'}), "use_dora"),
        (lambda path, unet: None, "no such checkpoint"),
    ],
    ids=["same", "part", "attn2", "unexpected", "nan", "garbage", "code", "number", "spm", "dora", "absent"],
)  # fmt: skip
def test_other_bad_files_are_refused_too(
    tmp_path: Path, tiny_folder: Path, unet: State, save: Any, message: str
) -> None:
    path = tmp_path / "bad.safetensors"
    save(path, unet)
    given = path.with_suffix(".bin") if path.with_suffix(".bin").exists() else path
    with pytest.raises(CheckpointError, match=message) as caught:
        planned(spec_with(tmp_path, tiny_folder, given), tmp_path / "runs")
    assert caught.value.next_step


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"templates": ["a photo of {attack}"]}, "its own token is written as it is"),
        ({"templates": ["{phrase} {phrase}"]}, "once and no other braces"),
        ({"preset": "testbed"}, "takes no preset"),
        ({"embedding": "x.safetensors"}, "either an embedding or a personalisation"),
        ({"personalisation": {"disc": "x"}}, "no file for 'ring'"),
        ({"templates": ["a photo of a very long phrase {phrase}"]}, "tokens"),
    ],
    ids=["mark", "twice", "preset", "both", "concept", "too long"],
)
def test_mistakes_of_the_spec_are_refused(
    tmp_path: Path, tiny_folder: Path, unet: State, fields: dict[str, Any], message: str
) -> None:
    path = loras.write_lora(tmp_path / "lora.safetensors", unet)
    with pytest.raises(SpecError, match=message) as caught:
        planned(spec_with(tmp_path, tiny_folder, path, **fields), tmp_path / "runs")
    assert caught.value.next_step


def test_a_file_that_is_not_there_is_a_gap_of_the_forecast(tmp_path: Path, tiny_folder: Path) -> None:
    found = draft_plan(
        load_spec(spec_with(tmp_path, tiny_folder, tmp_path / "no.safetensors")), dt.datetime.now(dt.UTC)
    )
    assert [gap.kind for gap in found.missing] == ["checkpoint"]
    assert len(list(found.draft.units_of("attack"))) == 1


def test_identity_follows_the_content_and_never_the_path(tmp_path: Path, tiny_folder: Path, unet: State) -> None:
    def keys(path: Path) -> set[str]:
        return set(draft(spec_with(tmp_path, tiny_folder, path)).units["key"].to_pylist())

    first = keys(loras.write_lora(tmp_path / "one.safetensors", unet))
    assert keys(loras.write_lora(tmp_path / "folder" / "pytorch_lora_weights.safetensors", unet)) == first
    assert keys(tmp_path / "folder") == first
    other = keys(loras.write_lora(tmp_path / "two.safetensors", unet, seed=1))
    assert len(other) == len(first)
    # one attack unit, the pictures of two cells and their scores change; erasing and the text scenario do not
    assert len(other - first) == 5


@pytest.mark.parametrize(
    ("field", "value", "family"),
    [
        ("ss_base_model_version", "sdxl_base_v1-0", "SDXL"),
        ("ss_base_model_version", "sd_v2_768_v", r"Stable Diffusion 2\.x"),
        ("modelspec.architecture", "stable-diffusion-xl-v1-base/lora", "SDXL"),
        ("modelspec.architecture", "flux-1-dev/lora", "Flux"),
    ],
)
def test_a_lora_whose_header_names_another_base_is_refused(
    tmp_path: Path, tiny_folder: Path, unet: State, field: str, value: str, family: str
) -> None:
    path = written(tmp_path / "a.safetensors", loras.lora_state(unet), {field: value})
    with pytest.raises(CheckpointError, match=rf"trained on {family}, says its header \({field}: {value}\)") as caught:
        planned(spec_with(tmp_path, tiny_folder, path), tmp_path / "runs")
    assert caught.value.where and caught.value.next_step


def test_clip_skip_in_the_header_is_warned_of(
    tmp_path: Path, tiny_folder: Path, unet: State, pipeline: Pipeline, caplog: pytest.LogCaptureFixture
) -> None:
    said = {"ss_clip_skip": "2", "ss_base_model_version": "sd_v1", "modelspec.architecture": "stable-diffusion-v1/lora"}
    path = written(tmp_path / "a.safetensors", loras.lora_state(unet), said)
    draft(spec_with(tmp_path, tiny_folder, path))
    assert f"personalisation {path}: it was trained with clip skip 2 (ss_clip_skip in its header)" in caplog.text
    assert change_of(path, pipeline).facts["clip_skip"] == 2
    for value in ("1", "None", "", "two"):
        change = change_of(
            written(tmp_path / "b.safetensors", loras.lora_state(unet), {"ss_clip_skip": value}), pipeline
        )
        assert not change.notes and "clip_skip" not in change.facts


@pytest.mark.parametrize("name", ["a.bin", "a.pt"])
def test_safetensors_under_another_name_are_read_by_their_content(
    tmp_path: Path, pipeline: Pipeline, unet: State, name: str
) -> None:
    expected = change_of(written(tmp_path / "a.safetensors", loras.lora_state(unet)), pipeline).unet
    found = change_of((tmp_path / "a.safetensors").rename(tmp_path / name), pipeline).unet
    assert {n: delta().sum() for n, delta in found.items()} == {n: delta().sum() for n, delta in expected.items()}


def test_a_pickle_named_safetensors_is_read_by_its_content(tmp_path: Path, pipeline: Pipeline, unet: State) -> None:
    torch.save(loras.lora_state(unet), tmp_path / "a.safetensors")
    assert len(change_of(tmp_path / "a.safetensors", pipeline).unet) == len(loras.attention_modules(unet))
