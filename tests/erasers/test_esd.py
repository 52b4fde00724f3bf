"""ESD: exactly the chosen parameters train, on targets that mean the same in both conventions."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import pytest
import torch

from audit.diffusion.pipeline import Pipeline
from audit.erasers.esd import METHODS, erase, prepare, target, trained_names
from audit.erasers.latents import Noisy, predict
from audit.erasers.phrases import LONGEST, file_part
from audit.errors import EraserError, SpecError
from audit.progress import Session
from tests.erasers.conftest import CONCEPT, quick, same, weights
from tests.sd14 import FULL, make_unet

# Keys, parameters and SHA-256 of the sorted names that the official code trains in Stable Diffusion v1.x.
OFFICIAL = {
    "esd-x": (80, 43_962_560, "ec07cb79c6eb6b7404aec12192d5fe8a9d17e1db97442845a6d7f20e12d9125f"),
    "esd-u": (388, 815_358_084, "5fffe464ae12101c3e4f6f7ba9560930cf3673164b3a7d56d846467354f317dc"),
    "esd-all": (468, 859_320_644, "c936c9f937c62ec8a760bf69fc6e124f750438a94deda9971eb9de68912ab2c8"),
    "esd-x-strict": (32, 19_169_280, "6ed7f99860fb076aa8559fa9456b07963f3b0b54150e86d947cb5608d8bfc131"),
}
# The same of the code of 2023, which trains the normalisation layers too: xattn, noxattn and full.
OFFICIAL_2023 = {
    "esd-x": OFFICIAL["esd-x"],
    "esd-u": (598, 813_495_680, "a2fbc8458fc2ee249bbb45e701d968a2aeecfd32d733a2c2d00be375df740192"),
    "esd-all": (686, 859_520_964, "983bc58de4da8e4e571f08deef04b169c15d06252ffd51558d4caa992638e968"),
}


@pytest.fixture(scope="module")
def sd14() -> torch.nn.Module:
    with torch.device("meta"):
        return make_unet(FULL)


@pytest.mark.parametrize(
    ("selection", "method", "expected"),
    [
        *(("2025", method, found) for method, found in OFFICIAL.items()),
        *(("2023", method, found) for method, found in OFFICIAL_2023.items()),
    ],
)
def test_the_selection_is_the_official_one(
    sd14: torch.nn.Module, selection: str, method: str, expected: tuple[int, int, str]
) -> None:
    names = trained_names(sd14, method, selection)
    parameters = dict(sd14.named_parameters())
    digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
    assert (len(names), sum(parameters[name].numel() for name in names), digest) == expected


@pytest.mark.parametrize("method", METHODS)
def test_gradients_touch_exactly_the_chosen_parameters(pipeline: Pipeline, method: str) -> None:
    unet, trained = prepare(pipeline.unet, method)
    latents = torch.randn(2, *pipeline.latent_shape, generator=torch.Generator().manual_seed(0))
    states = pipeline.encode_text(["abc", "abc"])
    predict(unet, latents, torch.tensor([500, 100]), states, "float32").square().mean().backward()
    touched = {name for name, parameter in unet.named_parameters() if parameter.grad is not None}
    assert touched == set(trained) == set(trained_names(pipeline.unet, method))
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())


def random_noisy(same_prompt: bool) -> Noisy:
    generator = torch.Generator().manual_seed(1)
    draw: Sequence[torch.Tensor] = [torch.randn(2, 4, 8, 8, generator=generator).double() for _ in range(4)]
    prompt = draw[2] if same_prompt else draw[3]
    return Noisy(draw[0], torch.tensor([1, 2]), prompt=prompt, null=draw[1], concept=draw[2])


def test_both_conventions_agree_when_a_concept_is_erased_from_itself() -> None:
    noisy = random_noisy(same_prompt=True)
    torch.testing.assert_close(target(noisy, 2.0, "new"), target(noisy, 1.0, "old"), rtol=1e-12, atol=1e-12)
    assert not torch.allclose(target(noisy, 2.0, "new"), target(noisy, 2.0, "old"))


def test_the_conventions_differ_when_it_is_erased_from_another_prompt() -> None:
    noisy = random_noisy(same_prompt=False)
    assert not torch.allclose(target(noisy, 2.0, "new"), target(noisy, 1.0, "old"))


@pytest.mark.parametrize(
    ("method", "preset", "changes"),
    [
        ("esd-x", None, {}),  # fresh latents of the frozen model, PNDM
        ("esd-x", "official", {"compute": "bfloat16-weights"}),
        ("esd-u", "official-2023", {}),  # latents of the model in training, DDIM, jittered timesteps
        ("esd-x-strict", "testbed", {"templates": ["{phrase}"], "pool": 3}),
        ("esd-all", None, {"erase_from": "klm", "sampler": "ddim"}),
    ],
)
def test_erasing_changes_the_selected_parameters_and_not_the_backbone(
    pipeline: Pipeline, method: str, preset: str | None, changes: dict[str, object]
) -> None:
    before = weights(pipeline)
    parameters = quick(method, preset, iterations=2, **changes)
    made = erase(pipeline, [CONCEPT], parameters, Session(), method=method)
    assert same(before, weights(pipeline))
    assert set(made.tensors) == set(trained_names(pipeline.unet, method, parameters.get("selection", "2025")))
    moved = [name for name, tensor in made.tensors.items() if not torch.equal(tensor, before[name])]
    assert len(moved) > len(made.tensors) // 2
    assert made.curve[-1].iteration == 2
    source = changes.get("erase_from", "abc")
    assert made.filename == f"esd-abc-from-{source}-{method.replace('-', '')}.safetensors"


def test_pictures_that_do_not_fit_the_unet_are_refused(pipeline: Pipeline) -> None:
    with pytest.raises(EraserError, match="17 pixels"):
        erase(pipeline, [CONCEPT], quick("esd-x", pixels=17), Session())


def test_selecting_nothing_is_an_error(pipeline: Pipeline) -> None:
    with pytest.raises(EraserError, match="selects no parameter"):
        trained_names(torch.nn.Sequential(torch.nn.Linear(2, 2)), "esd-x")
    with pytest.raises(SpecError, match="did you mean esd-x"):
        trained_names(pipeline.unet, "xattn")


def test_the_prompt_that_a_concept_is_erased_from_is_read_and_written_like_a_phrase(pipeline: Pipeline) -> None:
    made = erase(pipeline, [CONCEPT], quick("esd-x", iterations=1, erase_from="klm  xyz"), Session())
    assert made.filename == "esd-abc-from-klm_xyz-esdx.safetensors"
    for text in ("", "123", "abc 1"):
        with pytest.raises(SpecError, match="no tokens") as error:
            erase(pipeline, [CONCEPT], quick("esd-x", erase_from=text), Session())
        assert error.value.where == "erase_from"


def test_no_text_leads_a_file_name_out_of_its_folder_or_over_its_length() -> None:
    assert file_part("../../etc/x y", "a\0b\n") == ".._.._etc_x_y-a_b"
    long = [file_part("я" * 200 + end) for end in ("а", "б")]
    assert long[0] != long[1] and all(len(part.encode()) <= LONGEST for part in long)
    assert len(f"esd-{long[0]}-from-{long[0]}-esdxstrict.safetensors".encode()) < 255
