"""Networks behind torch.compile: what is compiled, what is not, and that the numbers are those of the network itself."""

from __future__ import annotations

import copy
import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from audit.diffusion.attention import CrossAttentionMaps
from audit.diffusion.compiled import Compiling
from audit.diffusion.guard import Conditioning
from audit.diffusion.inversion import invert
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.errors import EnvironmentProblem
from audit.machine.compilers import Mode
from audit.plan.preflight.compiler import require_compiler
from audit.weights.references import resolve_model
from tests.tiny_families import write_flux, write_sdxl

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


def compiling(backend: Any, mode: Mode = "inductor") -> Compiling:
    return Compiling(mode, lambda: BATCH, backend)


def drawn(pipeline: Pipeline, network: Any, how: Compiling | None, pictures: int = BATCH) -> torch.Tensor:
    texts = ("a ring",) * pictures
    states, null = pipeline.encode_text(texts), pipeline.encode_text([""] * pictures)
    given = Conditioning(states, null, 3.0, texts)
    noise = initial_noise(range(pictures), pipeline.latent_shape)
    model = noise_model(network, compiled=how.of(network) if how else None)
    return sample(model, pipeline.schedule(4), noise, given).latents


def test_pictures_are_those_of_the_network(pipeline: Pipeline) -> None:
    seen = Counting()
    how = compiling(seen)
    made = drawn(pipeline, pipeline.unet, how)
    torch.testing.assert_close(made, drawn(pipeline, pipeline.unet, None), rtol=0, atol=1e-5)
    assert seen.graphs == 1 and seen.evaluations == how.evaluations == 4  # one shape, whatever the timestep


def test_every_family_is_compiled_once_whatever_its_guidance(tmp_path: Path) -> None:
    """SDXL's UNet is told sizes, and Flux is told its guidance: a number of each picture, and no new code for each."""
    for write in (write_sdxl, write_flux):
        torch.compiler.reset()
        network = load_pipeline(resolve_model(str(write(tmp_path / write.__name__))), torch.device("cpu"))
        seen = Counting()
        how, latents = compiling(seen), torch.zeros(BATCH, *network.latent_shape)
        states = network.encode_text(["a ring"] * BATCH)
        for guidance in (1.0, 3.5, 7.0):
            compiled = noise_model(network.unet, guidance, how.of(network.unet))
            with torch.no_grad():
                made, plain = (
                    model(latents, 501.0, states) for model in (compiled, noise_model(network.unet, guidance))
                )
            torch.testing.assert_close(made, plain, rtol=0, atol=1e-5)
        assert (seen.graphs, how.evaluations) == (1, 3)


def test_models_of_one_architecture_share_what_is_compiled(tiny: Pipeline) -> None:
    seen = Counting()
    pictures, how = [], compiling(seen)
    for shift in (0.0, 0.01, 0.02):
        network = copy.deepcopy(tiny.unet)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(shift)
        made = drawn(tiny, network, how)
        torch.testing.assert_close(made, drawn(tiny, network, None), rtol=0, atol=1e-5)
        pictures.append(made)
    assert seen.graphs == 1 and not torch.allclose(pictures[0], pictures[2], atol=1e-3)


def test_an_inversion_and_its_round_trip_share_what_is_compiled(tiny: Pipeline) -> None:
    """Latents of the encoder lie in memory otherwise than those that the network returns."""
    seen = Counting()
    model = noise_model(tiny.unet, compiled=compiling(seen).of(tiny.unet))
    states, schedule = tiny.encode_text([""] * BATCH), tiny.schedule(4)
    clean = torch.randn(BATCH, *tiny.latent_shape).to(memory_format=torch.channels_last)
    up = invert(model, schedule, clean, states, passes=2, tolerance=0.0)
    sample(model, schedule, up.latents, Conditioning(states, states, 1.0, ("",) * BATCH))
    assert seen.graphs == 1


def test_a_network_that_is_let_go_is_freed(tiny: Pipeline) -> None:
    """An audit visits a hundred erased models, and keeps three."""
    how, network = compiling(Counting()), copy.deepcopy(tiny.unet)
    drawn(tiny, network, how)
    gone = weakref.ref(network)
    del network
    gc.collect()
    assert gone() is None


def test_a_part_batch_and_another_size_are_not_compiled(tiny: Pipeline) -> None:
    seen = Counting()
    how = compiling(seen)
    drawn(tiny, tiny.unet, how, pictures=5)
    channels, height, width = tiny.latent_shape
    with torch.no_grad():
        states = tiny.encode_text(["a ring"] * BATCH)
        how.of(tiny.unet)(torch.zeros(BATCH, channels, 2 * height, width), 501, encoder_hidden_states=states)
    assert seen.graphs == how.evaluations == 0


def test_gradients_go_through_the_network_itself(tiny: Pipeline) -> None:
    seen = Counting()
    compiled = compiling(seen).of(tiny.unet)
    latents = torch.zeros(BATCH, *tiny.latent_shape, requires_grad=True)
    compiled(latents, 501, encoder_hidden_states=tiny.encode_text(["a ring"] * BATCH)).sample.sum().backward()
    assert latents.grad is not None and seen.graphs == 0


def test_hooks_and_captured_attention_act_after_compiling(tiny: Pipeline) -> None:
    """Compiled code knows nothing of a hook that came later: an eraser's adapters would be left out without a word."""
    seen, network = Counting(), copy.deepcopy(tiny.unet)
    how = compiling(seen)
    plain = drawn(tiny, network, how)
    network.mid_block.late = torch.nn.Identity()
    hook = network.mid_block.late.register_forward_hook(lambda *_: None)  # of a module that came later
    drawn(tiny, network, how)
    assert seen.evaluations == 4
    hook.remove()
    hook = network.mid_block.register_forward_hook(lambda module, given, made: made * 0.5)
    hooked = drawn(tiny, network, how)
    assert not torch.allclose(plain, hooked, atol=1e-3)
    torch.testing.assert_close(hooked, drawn(tiny, network, None), rtol=0, atol=0)
    hook.remove()
    with CrossAttentionMaps(network, None) as maps:
        drawn(tiny, network, how)
    assert maps.maps and seen.evaluations == 4


def test_what_cannot_be_compiled_is_tried_once_and_told(tiny: Pipeline, caplog: pytest.LogCaptureFixture) -> None:
    tries = []

    def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        tries.append(1)
        raise RuntimeError("no such instruction")

    how, other = compiling(broken), copy.deepcopy(tiny.unet)
    for network in (tiny.unet, tiny.unet, other):
        torch.testing.assert_close(drawn(tiny, network, how), drawn(tiny, network, None), rtol=0, atol=0)
    assert len(tries) == 1 and how.evaluations == 0
    assert caplog.text.count("compiling failed, so networks are evaluated as they are: RuntimeError: no such inst") == 1


def test_recorded_launches_do_not_write_over_earlier_answers(tiny: Pipeline) -> None:
    """A recorded evaluation always writes into the same memory, as this backend does."""
    memory: list[torch.Tensor] = []

    def recording(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            (made,) = graph.forward(*given)
            if not memory:
                memory.append(torch.empty_like(made))
            return (memory[0].copy_(made),)

        return run

    compiled = compiling(recording, "cuda-graphs").of(tiny.unet)
    with torch.no_grad():
        states = tiny.encode_text(["a ring"] * BATCH)
        latents = torch.zeros(BATCH, *tiny.latent_shape)
        first = compiled(latents, 501, encoder_hidden_states=states).sample
        kept = first.clone()
        assert not torch.allclose(kept, compiled(latents + 1, 1, encoder_hidden_states=states).sample, atol=1e-3)
    assert memory
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


@pytest.mark.slow
def test_inductor_itself_gives_the_same_pictures(tiny: Pipeline) -> None:
    made = drawn(tiny, tiny.unet, compiling("inductor"))
    torch.testing.assert_close(made, drawn(tiny, tiny.unet, None), rtol=0, atol=1e-3)


def test_compiled_code_lies_where_only_this_user_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    compiling(Counting())
    folder = Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
    assert folder == tmp_path / "erasure-audit" / "inductor" and folder.stat().st_mode & 0o077 == 0


def test_a_machine_without_a_compiler_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EnvironmentProblem, match=r"the C\+\+ compiler g\+\+ is not on the PATH") as caught:
        require_compiler()
    assert "apt-get install g++" in str(caught.value.next_step)
    own = tmp_path / "own-compiler"
    own.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(own))
    require_compiler()
