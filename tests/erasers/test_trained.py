"""One training step of each method against a plain re-computation of its published formula."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call

from audit.checkpoints import apply_artefact
from audit.diffusion.low_rank import LowRank
from audit.diffusion.pipeline import Pipeline, noise_model
from audit.erasers import ERASERS, advunlearn, concept_ablation, mace, spm
from audit.erasers.advunlearn_parameters import AdvUnlearnParameters
from audit.erasers.concept_ablation_parameters import ConceptAblationParameters
from audit.erasers.latents import Latents, Noisy, predict
from audit.erasers.mace_parameters import MaceParameters
from audit.erasers.phrases import prompts
from audit.erasers.pictures import Pictures
from audit.erasers.produce import produce
from audit.erasers.spm_parameters import SpmParameters
from audit.errors import SpecError
from audit.progress import Session
from audit.spec.sections import Concept
from tests.erasers.conftest import CONCEPT, quick, same, weights

State = Mapping[str, torch.Tensor]
TRAINED = ("concept-ablation", "spm", "mace", "advunlearn")
CLOSED_FORMS = ("uce", "rece", "speed")
LAYOUTS = {
    "spm": "spm",
    "advunlearn": "text-encoder",
    "receler": "receler",
}  # the others replace some of the UNet's weights
CLAIMED = [
    *(("sd1", method) for method in TRAINED),
    *(
        (family, method)
        for family in ("sd2", "sdxl", "sd3", "flux")
        for method in ERASERS.names()
        if family in ERASERS.find(method, "x").families
    ),
]


def shorter(method: str) -> dict[str, Any]:
    """Two iterations, and maps of the one side that attention of the cut-down Stable Diffusion 2 has."""
    sides = {"mask_side": 4} if method in ("mace", "receler") else {}
    return sides if method in CLOSED_FORMS else {"iterations": 2, **sides}


def first(seed: int = 0) -> torch.Generator:
    """The generator of a training's first iteration."""
    return torch.Generator().manual_seed(seed * 1_000_003)


def noise_of(pipeline: Pipeline, state: State, latents: torch.Tensor, at: torch.Tensor, states: torch.Tensor) -> Any:
    """The prediction of the UNet with other weights."""
    given = (latents, at, states.expand(len(latents), -1, -1))
    return functional_call(pipeline.unet, dict(state), given).sample


def close(found: State, expected: State, atol: float = 2e-6) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor.detach(), rtol=1e-4, atol=atol)


@pytest.mark.parametrize(
    ("variant", "family"),
    [("model-based", "sd1"), ("noise-based", "sd1"), ("model-based", "sd2"), ("noise-based", "sd2")],
)
def test_concept_ablation(backbone_of: Callable[[str], Pipeline], variant: str, family: str) -> None:
    pipeline = backbone_of(family)
    parameters = quick(
        "concept-ablation", iterations=1, variant=variant, prior_weight=0.5, detach_first=False, parameter_group="attn"
    )
    made = concept_ablation.erase(pipeline, [CONCEPT], parameters, Session())
    options = ConceptAblationParameters(**parameters)
    target, anchor = (pipeline.encode_text([text]) for text in ("abc", "xyz"))
    pictures = Pictures(pipeline, lambda x, t, s: predict(pipeline.unet, x, t, s, "float32"), options, [anchor])
    pictures.fill("k", Session())
    generator = first()
    _, _, clean = pictures.draw(generator)
    noised = pictures.noised(clean, pictures.uniform(generator), generator)
    other = pictures.latents[0][torch.randint(len(pictures.latents[0]), (2,), generator=generator)]
    held = pictures.noised(other, pictures.uniform(generator), generator)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    share = (1 - betas).cumprod(0)[noised.timesteps].view(-1, 1, 1, 1)
    noise = noised.target.double()
    if family == "sd2":  # of v = signal noise - level clean, and x = signal clean + level noise
        noise = share.sqrt() * noise + (1 - share).sqrt() * noised.latents.double()
        assert pipeline.kind == "v_prediction"
    exact = share.sqrt() * clean.double() + (1 - share).sqrt() * noise
    torch.testing.assert_close(noised.latents.double(), exact, rtol=1e-4, atol=1e-5)
    drawn = noise.mean(), noise.std()
    assert abs(float(drawn[0])) < 0.3 and 0.7 < float(drawn[1]) < 1.3

    state = weights(pipeline)
    names = [name for name in state if ".to_" in name]
    for name in names:
        state[name].requires_grad_(True)
    with torch.no_grad():
        wanted = noise_of(pipeline, state, noised.latents, noised.timesteps, anchor)
    if variant == "noise-based":
        wanted = noised.target
    loss = (noise_of(pipeline, state, noised.latents, noised.timesteps, target) - wanted).pow(2).mean()
    loss = loss + 0.5 * (noise_of(pipeline, state, held.latents, held.timesteps, anchor) - held.target).pow(2).mean()
    assert made.curve[0].loss == pytest.approx(float(loss.detach()), rel=1e-4)
    optimiser = torch.optim.AdamW([state[name] for name in names], lr=1e-3, weight_decay=0.01)
    loss.backward()
    optimiser.step()
    assert set(made.tensors) == set(names)
    close(made.tensors, {name: state[name] for name in names})


def test_concept_ablation_lets_nothing_reach_the_start_tokens_keys() -> None:
    network = nn.ModuleDict({"attn2": nn.ModuleDict({"to_k": nn.Linear(4, 3, bias=False)})})
    wrapped = nn.ModuleDict({"block": network})
    layer, states = network["attn2"]["to_k"], torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    with concept_ablation.first_token_detached(wrapped, True):  # type: ignore[arg-type]
        layer(states).sum().backward()
    expected = states[:, 1:].sum((0, 1)).expand(3, 4)
    torch.testing.assert_close(layer.weight.grad, expected)


def test_spm(pipeline: Pipeline) -> None:
    parameters = quick("spm", iterations=1, warm_up=0, latents_from="frozen", rank=2, alpha=3.0, anchoring=7.0)
    made = spm.erase(pipeline, [CONCEPT], parameters, Session())
    options = SpmParameters(**parameters)
    state = weights(pipeline)
    paths = [
        n.removesuffix(".weight")
        for n, w in state.items()
        if ".attentions." in n and n.endswith(".weight") and w.dim() > 1
    ]
    start = LowRank(pipeline.unet, paths, 2, 0)  # the drawn starting values alone
    pairs = {path: (pair.down.detach().clone(), pair.up.detach().clone()) for path, pair in start.named_pairs()}
    leaves = [half.requires_grad_(True) for pair in pairs.values() for half in pair]
    merged = dict(state)
    for path, (down, up) in pairs.items():
        weight = state[f"{path}.weight"]
        merged[f"{path}.weight"] = weight + 3 / 2 * (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)

    concept = prompts(pipeline, [CONCEPT], ("{phrase}",), False)
    frozen = lambda x, t, s: noise_of(pipeline, state, x, t, s)  # noqa: E731
    generator = first()
    _, noisy = Latents(pipeline, frozen, frozen, options, concepts=concept).draw(generator)
    target, null = concept[0].states, pipeline.encode_text([""])
    with torch.no_grad():
        neutral, positive = (frozen(noisy.latents, noisy.timesteps, states) for states in (null, target))
    anchors = spm.anchor_states(target, 2, generator)
    loss = (noise_of(pipeline, merged, noisy.latents, noisy.timesteps, target) - (2 * neutral - positive)).pow(2).mean()
    gap = noise_of(pipeline, merged, noisy.latents, noisy.timesteps, anchors)
    with torch.no_grad():
        still = frozen(noisy.latents, noisy.timesteps, anchors)
    loss = loss + 7 * (gap - still).pow(2).mean()
    assert made.curve[0].loss == pytest.approx(float(loss.detach()), rel=1e-4)
    optimiser = torch.optim.AdamW(leaves, lr=1e-2)
    loss.backward()
    optimiser.step()
    for path, (down, up) in pairs.items():
        module = f"lora_unet_{path.replace('.', '_')}"
        close(
            made.tensors, {f"{module}.lora_down.weight": down, f"{module}.lora_up.weight": up}, atol=2e-4
        )  # Adam: of 1e-2
    assert made.metadata == {"prompts": "abc", "rank": "2", "alpha": "3.0"}


def test_spms_anchors_and_learning_rate_are_those_of_its_code() -> None:
    target = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    drawn = spm.anchor_states(target, 40, torch.Generator().manual_seed(1))
    norms = drawn.flatten(1).norm(dim=1) / target.norm()
    assert drawn.shape == (40, 6, 8) and norms.min() >= 0.8 and norms.max() <= 1.2
    values = {"learning_rate": 2.0, "warm_up": 10, "iterations": 110, "restarts": 2}
    rates = [spm.learning_rate(done, values) for done in (0, 5, 10, 35, 59, 60)]
    assert rates[:4] == pytest.approx([0.0, 1.0, 2.0, 1.0]) and rates[4] < 0.01 and rates[5] == pytest.approx(2.0)


def test_a_concept_that_spms_file_cannot_hold_is_refused(pipeline: Pipeline) -> None:
    with pytest.raises(SpecError, match="separates its concepts by ','"):
        spm.erase(pipeline, [Concept(name="a", phrase="a,b")], quick("spm"), Session())


def plain_closed_form(w: torch.Tensor, pairs: list[tuple[torch.Tensor, torch.Tensor]], held: Any, scale: float) -> Any:
    """UCE's normal equation, term by term: (state, value) pairs, held (state, value) pairs, lambda 0.1."""
    top, bottom = 0.1 * w, 0.1 * torch.eye(w.shape[1], dtype=torch.float64)
    for weight, terms in ((1.0, pairs), (scale, held)):
        for state, value in terms:
            top, bottom = top + weight * torch.outer(value, state), bottom + weight * torch.outer(state, state)
    return top @ bottom.inverse()


def test_mace(pipeline: Pipeline) -> None:
    parameters = quick("mace", iterations=1, preserve_scale=0.5, fuse_preserve_scale=0.25, rank=2, batch_size=1)
    made = mace.erase(pipeline, [CONCEPT], parameters, Session())
    options = MaceParameters(**parameters)
    before = weights(pipeline)
    names = [name for name in before if "attn2.to_k" in name or "attn2.to_v" in name]
    read = {text: pipeline.encode_text([text])[0].double() for text in ("abc", "q abc r", "xyz", "q xyz r", "")}
    held = [state for text in ("", "xyz", "q xyz r") for state in read[text]]
    # Every letter is a token, with the start before the first: "abc" stands at 1 to 3 alone, and at 2 to 4 after "q".
    kept = {"abc": [0, *range(4, 16)], "q abc r": [0, 1, *range(5, 16)]}
    refined = {}
    for name in names:
        w = before[name].double()
        pairs = [
            (read[old][i], w @ read[new][i]) for old, new in (("abc", "xyz"), ("q abc r", "q xyz r")) for i in kept[old]
        ]
        refined[name] = plain_closed_form(w, pairs, [(state, w @ state) for state in held], 0.5).float()

    texts = prompts(pipeline, [CONCEPT], options.templates, False)
    pictures = Pictures(
        pipeline, lambda x, t, s: predict(pipeline.unet, x, t, s, "float32"), options, [text.states for text in texts]
    )
    pictures.fill("k", Session())
    generator = first()
    which, rows, clean = pictures.draw(generator)
    noised = pictures.noised(clean, mace.focal(1, generator), generator)
    mask = mace.mask_of(pipeline, pictures, which, texts[which], options)[rows]
    start = LowRank(pipeline.unet, [name.removesuffix(".weight") for name in names], 2, 0)
    halves = {path: (pair.down.detach().clone(), pair.up.detach().clone()) for path, pair in start.named_pairs()}
    leaves = [half.requires_grad_(True) for pair in halves.values() for half in pair]
    state = {**before, **refined}
    for path, (down, up) in halves.items():
        state[f"{path}.weight"] = refined[f"{path}.weight"] + up @ down
    norms: list[torch.Tensor] = []

    def watch(layer: Any, given: Any, more: Any, output: Any) -> None:
        query, key = layer.to_q(given[0]), layer.to_k(more["encoder_hidden_states"])
        query, key = (one.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for one in (query, key))
        attention = (query @ key.transpose(-1, -2) * layer.scale).softmax(-1)[..., texts[which].word]
        side = round(attention.shape[2] ** 0.5)
        assert side <= 8  # the mask has 8 x 8 cells, and fewer are picked from them
        inside = mask[:, :: 8 // side, :: 8 // side].flatten()
        norms.append(attention[:, :, inside].norm())

    hooks = [
        m.register_forward_hook(watch, with_kwargs=True)
        for n, m in pipeline.unet.named_modules()
        if n.endswith("attn2")
    ]
    noise_of(pipeline, state, noised.latents, noised.timesteps, texts[which].states)
    for hook in hooks:
        hook.remove()
    loss = torch.stack(norms).sum()
    assert made.curve[0].loss == pytest.approx(float(loss.detach()), rel=1e-4)
    optimiser = torch.optim.AdamW(leaves, lr=1e-2, weight_decay=0.01)
    loss.backward()
    nn.utils.clip_grad_norm_(leaves, 1.0)
    optimiser.step()

    every = [row for text in ("abc", "q abc r") for row in read[text]]
    for name in names:
        down, up = halves[name.removesuffix(".weight")]
        w = refined[name].double()
        trained = w + (up @ down).detach().double()
        kept_values = [(row, before[name].double() @ row) for row in held]
        expected = plain_closed_form(w, [(row, trained @ row) for row in every], kept_values, 0.25)
        torch.testing.assert_close(made.tensors[name].double(), expected, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("accumulate", [False, True])
def test_advunlearn(pipeline: Pipeline, accumulate: bool) -> None:
    parameters = quick("advunlearn", iterations=1, warm_up=0, accumulate=accumulate, jitter=False, adversarial_tokens=2)
    made = advunlearn.erase(pipeline, [CONCEPT], parameters, Session())
    options = AdvUnlearnParameters(**parameters)
    frozen = lambda x, t, s: predict(pipeline.unet, x, t, s, "float32")  # noqa: E731
    targets = prompts(pipeline, [CONCEPT], ("{phrase}",), False)
    kept = ["", "xyz", "a photo of a xyz"]
    latents = Latents(pipeline, frozen, frozen, options, concepts=targets)
    retained = prompts(pipeline, [Concept(name="xyz", phrase="xyz")], ("{phrase}", "a photo of a {phrase}"), False)
    null = type(targets[0])("", "", pipeline.encode_text([""]), range(0))
    others = Latents(
        pipeline, frozen, frozen, options.model_copy(update={"batch_size": 2, "seed": 1}), concepts=[null, *retained]
    )
    encoder = copy.deepcopy(pipeline.text_encoder)
    trained = [p.requires_grad_("embeddings." not in n) for n, p in encoder.named_parameters()]

    def read(text: str, attack: torch.Tensor | None) -> torch.Tensor:
        ids = pipeline.tokens([text]).ids
        if attack is None:
            return encoder(ids).last_hidden_state
        longer = torch.cat([ids[:, :1], ids[:, 1:2], ids[:, 1:2], ids[:, 1:]], 1)[:, : ids.shape[1]]
        swap = lambda layer, given, out: torch.cat([out[:, :1], attack[None], out[:, 3:]], 1)  # noqa: E731
        hook = encoder.embeddings.token_embedding.register_forward_hook(swap)
        states = encoder(longer).last_hidden_state
        hook.remove()
        return states

    def predicted(noisy: Noisy, states: torch.Tensor) -> torch.Tensor:
        return frozen(noisy.latents, noisy.timesteps, states.expand(2, -1, -1))

    table = encoder.embeddings.token_embedding.weight.detach()
    rows = torch.randint(len(table), (2,), generator=torch.Generator().manual_seed(2**45))
    attack = table[rows].clone().requires_grad_(True)
    generator = first()
    _, noisy = latents.draw(generator)
    adam = torch.optim.Adam([attack], lr=1e-3)
    for _ in range(2):
        _, drawn = latents.draw(generator, 0)
        fooled = (predicted(drawn, read("abc", attack)) - drawn.prompt).pow(2).mean()
        if not accumulate:
            adam.zero_grad()
        fooled.backward()
        adam.step()
    encoder.zero_grad()
    wanted = 2 * noisy.null - noisy.prompt
    loss = (predicted(noisy, read("abc", attack.detach())) - wanted).pow(2).mean()
    which, held = others.draw(generator)
    loss = loss + 0.3 * (predicted(held, read(kept[which], None)) - held.prompt).pow(2).mean()
    assert made.curve[0].loss == pytest.approx(float(loss.detach()), rel=1e-4)
    optimiser = torch.optim.Adam([p for p in trained if p.requires_grad], lr=1e-5)
    loss.backward()
    optimiser.step()
    expected = {f"text_model.{n.removeprefix('text_model.')}": t for n, t in encoder.state_dict().items()}
    assert {n for n in expected if not n.endswith("position_ids")} == set(made.tensors)
    close(made.tensors, {name: expected[name] for name in made.tensors})


@pytest.mark.parametrize(("family", "method"), CLAIMED)
def test_what_is_made_is_read_back_and_acts(backbone_of: Callable[[str], Pipeline], family: str, method: str) -> None:
    pipeline = backbone_of(family)
    before, text = weights(pipeline), {n: t.clone() for n, t in pipeline.text_encoder.state_dict().items()}
    erased = produce(pipeline, method, [CONCEPT], quick(method, **({} if family == "sd1" else shorter(method))))
    assert same(before, weights(pipeline))
    assert all(torch.equal(t, text[n]) for n, t in pipeline.text_encoder.state_dict().items())
    assert not any(parameter.requires_grad for parameter in pipeline.unet.parameters())
    assert erased.record.change.effect["abc"] > 0 and bool(erased.record.curve) == (method not in CLOSED_FORMS)
    model = apply_artefact(pipeline, erased.artefact.tensors, metadata=erased.artefact.metadata)
    assert model.artefact.layout.name == LAYOUTS.get(method, "partial-unet")
    assert (model.text_encoder is not None) == (method == "advunlearn")
    assert method in model.artefact.layout.methods
    reader = dataclasses.replace(pipeline, text_encoder=model.text_encoder or pipeline.text_encoder)
    latents = torch.randn((1, *pipeline.latent_shape), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        was = noise_model(pipeline.unet)(latents, 500, pipeline.encode_text(["abc"]))
        now = model.noise_model(["abc"])(latents, 500, reader.encode_text(["abc"]))
    assert torch.isfinite(now).all() and float((now - was).norm() / was.norm()) > 1e-4


def test_every_method_that_trains_text_says_so_where_a_run_looks_for_it() -> None:
    said = {m for m in ERASERS.names() if ERASERS.find(m, "x").resolve(None, {}).get("component") == "text-encoder"}
    assert said == {"advunlearn"}
