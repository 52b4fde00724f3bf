"""The presets that carry an official name do what that code does, told by plain loops written from its description."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import safetensors
import torch
from diffusers import PNDMScheduler

from audit import erasers
from audit.diffusion.pipeline import Pipeline
from audit.erasers import esd, receler, resolve_parameters, uce
from audit.erasers.esd_parameters import EsdParameters
from audit.erasers.latents import Latents
from audit.erasers.phrases import prompts
from audit.erasers.produce import request_key
from audit.erasers.request import fulfil, make_request
from audit.erasers.token_states import token_states
from audit.erasers.uce_parameters import UceParameters
from audit.errors import SpecError
from audit.progress import Session, Silent
from audit.spec.sections import Eraser
from audit.testbed import erased
from audit.weights.references import resolve_model
from tests.erasers.conftest import CONCEPT, quick, same

SEED = 1_000_003  # between the generators of two requests' seeds: audit/diffusion/training.py


@pytest.mark.parametrize("preset", ["official-2023", "official"])
def test_the_latents_of_2023_lie_below_the_timestep_that_the_model_is_told(pipeline: Pipeline, preset: str) -> None:
    """CompVis' sampler leaves out its noisiest step, and breaks when the index after a step is the number asked for."""
    method = "esd-x" if preset == "official-2023" else "receler"
    parameters = quick(method, preset, steps=50)
    options = (EsdParameters if method == "esd-x" else receler.RecelerParameters)(**parameters)
    seen: list[int] = []

    def silent(latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        return torch.zeros_like(latents)

    def recording(latents: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        seen.append(int(timesteps[0]))
        return torch.zeros_like(latents)

    concepts = prompts(pipeline, [CONCEPT], ("{phrase}",), False)
    latents = Latents(pipeline, silent, recording, options, concepts=concepts)
    config = pipeline.scheduler_config
    betas = torch.linspace(config["beta_start"] ** 0.5, config["beta_end"] ** 0.5, 1000, dtype=torch.float64) ** 2
    left = (1 - betas).cumprod(0)
    met = set()
    for seed in range(150):
        seen.clear()
        _, noisy = latents.draw(torch.Generator().manual_seed(seed))
        drawn = int(noisy.timesteps) // 20
        met.add(drawn)
        index, visited = 48, []
        while index >= 0:
            visited.append(20 * index + 1)
            if index + 1 == drawn:
                break
            index -= 1
        assert seen == visited and 981 not in seen
        # Where nothing is predicted, a latent is scaled alone, and tells how far it was denoised.
        generator = torch.Generator().manual_seed(seed)
        torch.randint(1, (1,), generator=generator), torch.randint(50, (1,), generator=generator)
        noise = torch.randn(1, *latents.shape, generator=generator)
        level = max(20 * (drawn - 2) + 1, 0) if drawn > 1 else 0
        scale = float((noisy.latents / noise).mean())
        assert scale == pytest.approx(math.sqrt(left[level] / left[961]), rel=1e-4)
    assert {0, 1, 49} <= met


def test_official_esd_trains_the_bfloat16_weights_themselves(pipeline: Pipeline) -> None:
    """Nothing is float32 in the plain loop: weights, states, latents, targets and Adam's moments are bfloat16."""
    parameters = quick("esd-x", "official", compute="bfloat16-weights", iterations=3)
    made = esd.erase(pipeline, [CONCEPT], parameters, Session(), method="esd-x")
    base = copy.deepcopy(pipeline.unet).bfloat16()
    trained = copy.deepcopy(base)
    encoder = copy.deepcopy(pipeline.text_encoder).bfloat16()
    length = int(pipeline.tokenizer.model_max_length)
    ids = pipeline.tokenizer(["", "abc"], padding="max_length", max_length=length, return_tensors="pt").input_ids
    with torch.no_grad():
        null, states = encoder(ids).last_hidden_state.chunk(2)
    names = [n for n, _ in trained.named_parameters() if "attn2" in n]
    weights = [dict(trained.named_parameters())[n].requires_grad_(True) for n in names]
    optimiser = torch.optim.Adam(weights, lr=parameters["learning_rate"])
    grid = {k: pipeline.scheduler_config[k] for k in ("beta_start", "beta_end", "beta_schedule", "steps_offset")}
    for iteration in range(3):
        generator = torch.Generator().manual_seed(iteration)
        torch.randint(1, (1,), generator=generator)
        stop = int(torch.randint(4, (1,), generator=generator))
        latents = torch.randn(1, *pipeline.latent_shape, generator=generator).bfloat16()
        scheduler = PNDMScheduler(**grid, skip_prk_steps=True)
        scheduler.set_timesteps(4)
        with torch.no_grad():
            for t in scheduler.timesteps[:stop]:
                both = base(latents.repeat(2, 1, 1, 1), t, encoder_hidden_states=torch.cat([null, states])).sample
                guided = both[:1] + 3.0 * (both[1:] - both[:1])
                latents = scheduler.step(guided, t, latents).prev_sample
            t = scheduler.timesteps[stop]
            concept = base(latents, t, encoder_hidden_states=states).sample
            nothing = base(latents, t, encoder_hidden_states=null).sample
        optimiser.zero_grad()
        predicted = trained(latents, t, encoder_hidden_states=states).sample
        torch.nn.functional.mse_loss(predicted, concept - 2.0 * (concept - nothing)).backward()
        optimiser.step()
    before = dict(base.named_parameters())
    found = torch.cat([(made.tensors[n] - before[n].float()).flatten() for n in names])
    wanted = torch.cat([(w.detach() - before[n]).float().flatten() for n, w in zip(names, weights, strict=True)])
    assert all(torch.equal(t, t.bfloat16().float()) for t in made.tensors.values())
    assert float((found - wanted).norm() / wanted.norm()) < 0.02  # one batch of two against two calls
    masters = esd.erase(pipeline, [CONCEPT], quick("esd-x", "float32-weights", iterations=3), Session(), method="esd-x")
    assert not same(made.tensors, masters.tensors)


def test_official_receler_trains_as_if_the_attack_were_written_into_a_temporary(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    official = receler.erase(pipeline, [CONCEPT], quick("receler", "official", adversarial_tokens=0), Session())
    released = quick("receler", "official")  # with three adversarial tokens
    paper = receler.erase(pipeline, [CONCEPT], released, Session())
    monkeypatch.setattr(receler, "with_attack", lambda states, attack, word: states + 0 * attack.sum())
    lost = receler.erase(pipeline, [CONCEPT], released, Session())
    assert same(official.tensors, lost.tensors) and not same(official.tensors, paper.tensors)
    assert resolve_parameters(Eraser(method="receler", preset="official"), "x")["adversarial_tokens"] == 0


def last_token(pipeline: Pipeline, text: str) -> torch.Tensor:
    """The state (1, D) of the last token that is not the end."""
    count = len(pipeline.tokenizer(text)["input_ids"])
    return pipeline.encode_text([text])[0, count - 2 : count - 1].cpu()


@pytest.mark.parametrize(("guide", "wrapped"), [("xyz", "a xyz"), ("", "a ")])
def test_official_uce_wraps_the_guide_and_never_what_is_preserved(pipeline: Pipeline, guide: str, wrapped: str) -> None:
    concept = CONCEPT.model_copy(update={"neighbours": ("klm",)})
    templates = {"templates": ("a {phrase}",), "guide": guide}
    edits = {
        preset: token_states(pipeline, [concept], UceParameters(**values, **templates))[1]
        for preset, values in (
            ("official", {"wrap_guide": True, "wrap_preserved": False}),
            ("wrapped-neighbours", {}),
        )
    }
    bare, inside = last_token(pipeline, guide), last_token(pipeline, wrapped)
    assert torch.equal(edits["official"].guide, torch.cat([bare, inside]))
    assert torch.equal(edits["wrapped-neighbours"].guide, torch.cat([bare, bare]))
    assert torch.equal(edits["official"].preserve, last_token(pipeline, "klm"))
    assert torch.equal(
        edits["wrapped-neighbours"].preserve, torch.cat([last_token(pipeline, "klm"), last_token(pipeline, "a klm")])
    )
    resolved = uce.UceParameters(**resolve_parameters(Eraser(method="uce"), "x"))
    assert (resolved.wrap_guide, resolved.wrap_preserved) == (True, False)


def test_uce_of_2023_solves_its_own_normal_equation(pipeline: Pipeline) -> None:
    """Whole prompts and the null prompt are preserved, each at one over their number."""
    parameters = resolve_parameters(Eraser(method="uce", preset="official-2023"), "x")
    made = uce.erase(pipeline, [CONCEPT], parameters, Session())
    null, own, neighbour = pipeline.encode_text(["", "abc", "xyz"]).double().cpu()
    word = len(pipeline.tokenizer("abc")["input_ids"]) - 2
    pairs = own[word:], null[: len(own) - word]
    kept = torch.cat([null, neighbour])
    name = next(iter(made.tensors))
    w = pipeline.unet.state_dict()[name].double()
    left = 0.5 * w + (w @ pairs[1].T) @ pairs[0] + 0.5 * (w @ kept.T) @ kept
    right = 0.5 * torch.eye(w.shape[1]).double() + pairs[0].T @ pairs[0] + 0.5 * kept.T @ kept
    torch.testing.assert_close(made.tensors[name], (left @ right.inverse()).float(), rtol=1e-4, atol=1e-6)
    options = UceParameters(preserve_scale=None)
    assert [options.scale(n) for n in (0, 1, 3, 50)] == [1.0, 0.5, 0.25, 0.1]


def test_a_method_that_2023_did_not_have_is_refused() -> None:
    with pytest.raises(SpecError, match="esd-x-strict is a method of the 2025 code") as error:
        resolve_parameters(Eraser(method="esd-x-strict", preset="official-2023"), "x")
    assert "official or float32-weights" in str(error.value)
    for preset, changes in (("official-2023", {"sampler": "pndm"}), ("official", {"trajectory": "compvis"})):
        with pytest.raises(SpecError, match="trajectory compvis needs sampler ddim"):
            resolve_parameters(Eraser(method="esd-x", preset=preset, parameters=changes), "x")


def test_whoever_erases_as_the_official_code_is_told_what_is_odd(tiny_folder: Path, tmp_path: Path) -> None:
    class Hears(Silent):
        notes: list[str]

        def note(self, text: str) -> None:
            self.notes.append(text)

    for preset, told in (("official", ["neighbours never are"]), ("wrapped-neighbours", [])):
        listener = Hears()
        listener.notes = []
        request = make_request(str(tiny_folder), "uce", ["abc"], preset=preset)
        fulfil(request, tmp_path / preset, device="cpu", listener=listener)
        assert [text.rpartition("and ")[2] for text in listener.notes if "official code" in text] == told
    as_published = {"concept-ablation", "mace", "speed"}  # whose code does what the paper says
    assert all(
        erasers.oddity(m, p)
        for m in set(erasers.ERASERS.names()) - as_published
        for p in erasers.presets(m)
        if p.startswith("official")
    )


def test_what_was_shipped_still_answers_its_request() -> None:
    """New parameters are left out of a request that does not use them, so no artefact is made again for them."""
    shipped = sorted(erased.ERASED.glob("*/*.safetensors"))
    assert len(shipped) == len(erased.METHODS) * len(erased.CONCEPTS)
    backbone = resolve_model("testbed")
    for path in shipped:
        method, _, concept = path.parent.name.rpartition("-")
        request = erased.request(method, concept)
        with safetensors.safe_open(path, "pt") as opened:
            assert opened.metadata()["request"] == request_key(backbone, method, request.concepts, request.resolved())
