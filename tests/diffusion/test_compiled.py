"""Networks behind torch.compile: what is compiled, what is not, and that the numbers are those of the network itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.compiled import Compiled
from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.errors import EnvironmentProblem
from audit.machine.compilers import has_compiler
from audit.plan.preflight.compiler import require_compiler
from audit.weights.references import resolve_model

BATCH = 2
pytestmark = pytest.mark.filterwarnings("ignore")  # what torch.compile says about diffusers' code while it traces it


class Counting:
    """A backend that runs the traced graph as it is, and counts graphs and evaluations."""

    def __init__(self) -> None:
        self.graphs, self.evaluations = 0, 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.graphs += 1

        def run(*given: Any) -> Any:
            self.evaluations += 1
            return graph.forward(*given)

        return run


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def tiny(tiny_folder: Path) -> Pipeline:
    return load_pipeline(resolve_model(str(tiny_folder)), torch.device("cpu"))


@pytest.fixture(params=["unet", "joint"])
def pipeline(request: pytest.FixtureRequest, tiny: Pipeline) -> Pipeline:
    if request.param == "unet":
        return tiny
    return load_pipeline(resolve_model("testbed/sd3"), torch.device("cpu"))


def drawn(pipeline: Pipeline, network: Any, compiled: Compiled | None, pictures: int = BATCH) -> torch.Tensor:
    texts = ("a ring",) * pictures
    states, null = pipeline.encode_text(texts), pipeline.encode_text([""] * pictures)
    given = Conditioning(states, null, 3.0, texts)
    noise = initial_noise(range(pictures), pipeline.latent_shape)
    return sample(noise_model(network, compiled=compiled), pipeline.schedule(4), noise, given).latents


def test_pictures_are_those_of_the_network(pipeline: Pipeline) -> None:
    seen = Counting()
    made = drawn(pipeline, pipeline.unet, Compiled(pipeline.unet, "inductor", BATCH, seen))
    torch.testing.assert_close(made, drawn(pipeline, pipeline.unet, None), rtol=0, atol=1e-5)
    assert seen.graphs == 1 and seen.evaluations == 4  # one shape, whatever the timestep


def test_models_of_one_architecture_share_what_is_compiled(tiny: Pipeline) -> None:
    seen = Counting()
    pictures = []
    for shift in (0.0, 0.01, 0.02):
        network = copy.deepcopy(tiny.unet)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(shift)
        made = drawn(tiny, network, Compiled(network, "inductor", BATCH, seen))
        torch.testing.assert_close(made, drawn(tiny, network, None), rtol=0, atol=1e-5)
        pictures.append(made)
    assert seen.graphs == 1 and not torch.allclose(pictures[0], pictures[2], atol=1e-3)


def test_a_part_batch_and_another_size_are_not_compiled(tiny: Pipeline) -> None:
    seen = Counting()
    compiled = Compiled(tiny.unet, "inductor", BATCH, seen)
    drawn(tiny, tiny.unet, compiled, pictures=5)
    channels, height, width = tiny.latent_shape
    with torch.no_grad():
        states = tiny.encode_text(["a ring"] * BATCH)
        compiled(torch.zeros(BATCH, channels, 2 * height, width), 501, encoder_hidden_states=states)
    assert seen.graphs == 0


def test_gradients_go_through_the_network_itself(tiny: Pipeline) -> None:
    seen = Counting()
    compiled = Compiled(tiny.unet, "inductor", BATCH, seen)
    latents = torch.zeros(BATCH, *tiny.latent_shape, requires_grad=True)
    compiled(latents, 501, encoder_hidden_states=tiny.encode_text(["a ring"] * BATCH)).sample.sum().backward()
    assert latents.grad is not None and seen.graphs == 0


def test_hooks_and_captured_attention_act_after_compiling(tiny: Pipeline) -> None:
    """Compiled code knows nothing of a hook that came later: an eraser's adapters would be left out without a word."""
    seen, network = Counting(), copy.deepcopy(tiny.unet)
    compiled = Compiled(network, "inductor", BATCH, seen)
    plain = drawn(tiny, network, compiled)
    hook = network.mid_block.register_forward_hook(lambda module, given, made: made * 0.5)
    hooked = drawn(tiny, network, compiled)
    assert not torch.allclose(plain, hooked, atol=1e-3)
    torch.testing.assert_close(hooked, drawn(tiny, network, None), rtol=0, atol=0)
    hook.remove()
    with CrossAttentionMaps(network, None) as maps:
        drawn(tiny, network, compiled)
    assert maps.maps and seen.evaluations == 4


def test_what_cannot_be_compiled_is_evaluated_and_told(tiny: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        raise RuntimeError("no such instruction")

    made = drawn(tiny, tiny.unet, Compiled(tiny.unet, "inductor", BATCH, broken))
    torch.testing.assert_close(made, drawn(tiny, tiny.unet, None), rtol=0, atol=0)
    assert caplog.text.count("compiling failed, so networks are evaluated as they are") == 1


def test_recorded_launches_do_not_write_over_earlier_answers(tiny: Pipeline) -> None:
    compiled = Compiled(tiny.unet, "cuda-graphs", BATCH, Counting())
    with torch.no_grad():
        states = tiny.encode_text(["a ring"] * BATCH)
        latents = torch.zeros(BATCH, *tiny.latent_shape)
        first = compiled(latents, 501, encoder_hidden_states=states).sample
        kept = first.clone()
        compiled(latents + 1, 1, encoder_hidden_states=states)
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


@pytest.mark.slow
def test_inductor_itself_gives_the_same_pictures(tiny: Pipeline) -> None:
    made = drawn(tiny, tiny.unet, Compiled(tiny.unet, "inductor", BATCH))
    torch.testing.assert_close(made, drawn(tiny, tiny.unet, None), rtol=0, atol=1e-3)


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_compiler(lambda name: "/usr/bin/c++" if name == "c++" else None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"none of g\+\+, clang\+\+, c\+\+") as caught:
        require_compiler()
    assert "--compile" in str(caught.value.next_step)
