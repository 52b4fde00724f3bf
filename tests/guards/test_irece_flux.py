"""IRECE on Flux: the concept is found among T5's tokens, in both streams of the network, on one grid of packed latents."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import torch
from transformers import T5TokenizerFast

from audit import guards
from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise
from audit.errors import SpecError
from audit.guards import localise
from audit.guards.composed import compose, positions
from audit.guards.irece import Localiser
from audit.spec.sections import Guard as GuardSpec
from audit.weights.references import resolve_model
from tests.flows.audits import plan_run, tiny_spec
from tests.guards.making import RING
from tests.tiny_families import write_flux

TEXT = "a photo of a ring"


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return load_pipeline(resolve_model(str(write_flux(tmp_path_factory.mktemp("flux")))), torch.device("cpu"))


def localiser(flux: Pipeline, **parameters: object) -> Localiser:
    resolved = guards.resolve(GuardSpec(name="irece", parameters=parameters), RING)["parameters"]
    return Localiser(flux.unet, flux.attended, flux.encode_text, resolved)


def test_the_phrase_is_found_among_t5_s_tokens(flux: Pipeline) -> None:
    (word,) = positions(flux.attended, compose("a photo of a {phrase}", "ring"))
    tokens = flux.attended.convert_ids_to_tokens(flux.attended(TEXT)["input_ids"])
    assert "".join(tokens[i] for i in word).lstrip("▁") == "ring"
    assert tokens[word[-1] + 1] == "</s>"
    two = positions(flux.attended, compose("the {phrase}", "ring", ["string"]))
    tokens = flux.attended.convert_ids_to_tokens(flux.attended("the ring and a string")["input_ids"])
    assert ["".join(tokens[i] for i in one).lstrip("▁") for one in two] == ["ring", "string"]


def test_its_map_is_the_mean_over_both_streams(flux: Pipeline) -> None:
    latents = initial_noise([9], (16, 8, 8))
    with torch.no_grad():
        located = localiser(flux).locate(latents, 501)
        with CrossAttentionMaps(flux.unet, None) as captured:
            noise_model(flux.unet)(latents, 501, flux.encode_text([TEXT]))
    (word,) = positions(flux.attended, compose("a photo of a {phrase}", "ring"))
    assert len(captured.maps) == 2
    torch.testing.assert_close(located.scores, localise.token_map(list(captured.maps.values()), word, 8))
    assert 0 < float(localise.binary(located.maps, 0.4).float().mean()) < 1


@pytest.mark.parametrize("localisation", ["contrast-tokens", "contrast-null", "noise-difference"])
def test_every_localisation_works(flux: Pipeline, localisation: str) -> None:
    with torch.no_grad():
        located = localiser(flux, localisation=localisation).locate(initial_noise([9], (16, 8, 8)), 501)
    assert located.maps.shape == (1, 8, 8) and bool(torch.isfinite(located.maps).all())


def test_a_phrase_within_a_longer_piece_is_refused() -> None:
    pieces = ["<pad>", "</s>", "<unk>", "▁", "▁ring", "▁rings", "▁two", "s"]
    tokenizer = T5TokenizerFast(vocab=[(piece, 0.0 if i < 3 else -2.0) for i, piece in enumerate(pieces)], extra_ids=0)
    assert positions(tokenizer, compose("two {phrase}", "ring")) == [[1]]
    with pytest.raises(SpecError, match="'ring' melts into other words in 'two rings'"):
        positions(tokenizer, compose("two {phrase}s", "ring"))


def test_another_grid_is_refused_at_plan_time(flux: Pipeline, tmp_path: Path) -> None:
    for sides in ([32], [64]):
        guard = {"name": "irece", "parameters": {"t_star": 801, "sides": sides}}
        spec = tiny_spec(tmp_path, flux.ref.path, defences=[{"name": "tried", "guards": [guard]}])
        refusal = pytest.raises(SpecError, match="no cross-attention layer has 32 x 32 queries")
        with refusal if sides == [32] else contextlib.nullcontext():
            plan_run(spec, tmp_path / "root")
