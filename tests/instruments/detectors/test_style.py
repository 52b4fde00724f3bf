"""Style judges: fills of the testbed against its judge, CSD's two layouts, references that cannot tell a style."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModelWithProjection
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

from audit.errors import AuditError, DetectorError
from audit.instruments.detectors import build
from audit.instruments.detectors.base import Detector, Pixels
from audit.instruments.detectors.similarity import Pooling
from audit.spec.sections import DetectorSpec
from audit.testbed.scenes import sample_scene
from tests.instruments.detectors.folders import SIDE
from tests.instruments.detectors.judges import SHAPE, varied

FILLS = ("dotted", "plain", "striped")


def fills(split: str, each: int) -> dict[str, list[Pixels]]:
    """Scenes of one large object each, by the fill of the object: squares, so that nothing but the fill differs."""
    chosen: dict[str, list[Pixels]] = {fill: [] for fill in FILLS}
    for index in range(2000):
        scene = sample_scene(split, index, n_objects=1, required_class="square")
        known = chosen[scene.objects[0].fill]
        if len(known) < each:
            known.append(scene.image)
        if all(len(known) == each for known in chosen.values()):
            break
    return chosen


def write(folder: Path, pictures: list[Pixels]) -> str:
    folder.mkdir(parents=True)
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index:03d}.png")
    return str(folder)


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("styles")
    return {fill: write(root / fill, pictures) for fill, pictures in fills("calibration", 12).items()}


def detector(model: Path | str, references: Any, **parameters: Any) -> Detector:
    entry = {"name": "style", "kind": "style", "model": str(model)}
    return build(DetectorSpec.model_validate({**entry, "parameters": {"references": references, **parameters}}), ())


def scores(judge: Detector, images: list[Pixels]) -> np.ndarray[Any, Any]:
    results = judge.measure(images)
    assert [result.error for result in results] == [None] * len(images)
    return np.array([[score.score for score in result.scores or ()] for result in results])


def test_stripes_separate_from_plain_fills_in_the_testbed_judge_s_space(references: dict[str, str]) -> None:
    judge = detector("testbed/judge", references, pooling="mean", nearest=3)
    held_out = fills("audit", 12)
    plain, striped = (FILLS.index(fill) for fill in ("plain", "striped"))
    margin = {fill: scores(judge, held_out[fill]) for fill in ("plain", "striped")}
    nearer = [
        *(margin["striped"][:, striped] > margin["striped"][:, plain]),
        *(margin["plain"][:, plain] > margin["plain"][:, striped]),
    ]
    assert np.mean(nearer) >= 0.75, f"{np.mean(nearer):.2f} of held-out squares are nearest to their own fill"


def test_scores_are_cosines_of_clip_of_transformers(
    clip_folder: Path, references: dict[str, str], images: list[Pixels]
) -> None:
    network, processor = (
        CLIPModel.from_pretrained(clip_folder).eval(),
        CLIPImageProcessorPil.from_pretrained(clip_folder),
    )

    def units(pictures: list[Pixels]) -> torch.Tensor:
        values = processor([Image.fromarray(one) for one in pictures], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            seen = network.visual_projection(network.vision_model(values).pooler_output)
        return torch.nn.functional.normalize(seen, dim=-1)

    cosines = {
        fill: units(images) @ units([np.array(Image.open(path)) for path in sorted(Path(folder).iterdir())]).T
        for fill, folder in references.items()
    }
    highest = torch.stack([cosines[fill].amax(1).clamp(0) for fill in FILLS], 1)
    np.testing.assert_allclose(scores(detector(clip_folder, references), images), highest.numpy(), atol=1e-5)
    mean = torch.stack([cosines[fill].topk(4, 1).values.mean(1).clamp(0) for fill in FILLS], 1)
    ours = scores(detector(clip_folder, references, pooling="mean", nearest=4), images)
    np.testing.assert_allclose(ours, mean.numpy(), atol=1e-5)


def test_a_negative_cosine_is_no_likeness() -> None:
    cosines = np.array([[-0.5, -0.2], [0.2, 0.8]])
    assert Pooling("max", None).scores(cosines).tolist() == [0.0, 0.8]
    assert Pooling("mean", None).scores(cosines).tolist() == [0.0, 0.5]
    assert Pooling("mean", 1).scores(cosines).tolist() == [0.0, 0.8]


class AuthorsVision(torch.nn.Module):
    """The vision tower of CLIP as its authors wrote it, with CSD's two heads, from a state dict of CSD's names."""

    def __init__(self, state: dict[str, torch.Tensor], heads: int) -> None:
        super().__init__()
        self.state, self.heads = state, heads

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        s, norm = self.state, torch.nn.functional.layer_norm
        patch = s["backbone.conv1.weight"].shape[-1]
        x = torch.nn.functional.conv2d(pixels, s["backbone.conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
        width = x.shape[-1]
        first = s["backbone.class_embedding"].expand(len(x), 1, width)
        x = torch.cat([first, x], 1) + s["backbone.positional_embedding"]

        def normed(x: torch.Tensor, name: str) -> torch.Tensor:
            return norm(x, (width,), s[f"backbone.{name}.weight"], s[f"backbone.{name}.bias"])

        x = normed(x, "ln_pre")
        for layer in range(2):
            at = f"transformer.resblocks.{layer}"
            attention = torch.nn.MultiheadAttention(width, self.heads, batch_first=True)
            own = f"backbone.{at}.attn."
            attention.load_state_dict({k.removeprefix(own): v for k, v in s.items() if k.startswith(own)})
            inner = normed(x, f"{at}.ln_1")
            x = x + attention(inner, inner, inner, need_weights=False)[0]
            inner = normed(x, f"{at}.ln_2") @ s[f"backbone.{at}.mlp.c_fc.weight"].T + s[f"backbone.{at}.mlp.c_fc.bias"]
            inner = inner * torch.sigmoid(1.702 * inner)
            x = x + inner @ s[f"backbone.{at}.mlp.c_proj.weight"].T + s[f"backbone.{at}.mlp.c_proj.bias"]
        return torch.nn.functional.normalize(normed(x[:, 0], "ln_post") @ s["last_layer_style"], dim=1)


def write_csd(folder: Path, *, authors: bool) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder of CSD at tiny size, in transformers' names or in the authors', and the state dict in the latter."""
    folder.mkdir(parents=True)
    side = {"height": SIDE, "width": SIDE}
    CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=side).save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = CLIPVisionModelWithProjection(
            CLIPVisionConfig(**SHAPE, image_size=SIDE, patch_size=8, projection_dim=8, hidden_act="quick_gelu")
        )
        varied(model)
    model.save_pretrained(folder)
    theirs: dict[str, torch.Tensor] = {}
    own = {
        name.removeprefix("vision_model."): tensor for name, tensor in load_file(folder / "model.safetensors").items()
    }
    theirs["last_layer_style"] = own["visual_projection.weight"].T.contiguous()
    theirs["last_layer_content"] = torch.zeros_like(theirs["last_layer_style"])
    theirs["backbone.conv1.weight"] = own["embeddings.patch_embedding.weight"]
    theirs["backbone.class_embedding"] = own["embeddings.class_embedding"]
    theirs["backbone.positional_embedding"] = own["embeddings.position_embedding.weight"]
    for kind in ("weight", "bias"):
        theirs[f"backbone.ln_pre.{kind}"], theirs[f"backbone.ln_post.{kind}"] = (
            own[f"pre_layrnorm.{kind}"], own[f"post_layernorm.{kind}"],
        )  # fmt: skip
        for n in range(2):
            at, layer = f"backbone.transformer.resblocks.{n}", f"encoder.layers.{n}"
            theirs[f"{at}.attn.in_proj_{kind}"] = torch.cat([own[f"{layer}.self_attn.{x}_proj.{kind}"] for x in "qkv"])
            theirs[f"{at}.attn.out_proj.{kind}"] = own[f"{layer}.self_attn.out_proj.{kind}"]
            theirs[f"{at}.ln_1.{kind}"], theirs[f"{at}.ln_2.{kind}"] = (
                own[f"{layer}.layer_norm1.{kind}"], own[f"{layer}.layer_norm2.{kind}"],
            )  # fmt: skip
            theirs[f"{at}.mlp.c_fc.{kind}"] = own[f"{layer}.mlp.fc1.{kind}"]
            theirs[f"{at}.mlp.c_proj.{kind}"] = own[f"{layer}.mlp.fc2.{kind}"]
    if authors:
        prefixed = {f"module.{name}": tensor.contiguous() for name, tensor in theirs.items()}
        save_file(prefixed, folder / "model.safetensors", metadata={"format": "pt"})
    return folder, theirs


@pytest.mark.parametrize("authors", [False, True])
def test_csd_scores_as_its_authors_network_in_either_layout(
    tmp_path: Path, references: dict[str, str], images: list[Pixels], authors: bool
) -> None:
    folder, state = write_csd(tmp_path / "csd", authors=authors)
    network, processor = (
        AuthorsVision(state, SHAPE["num_attention_heads"]),
        CLIPImageProcessorPil.from_pretrained(folder),
    )

    def units(pictures: list[Pixels]) -> torch.Tensor:
        values = processor([Image.fromarray(one) for one in pictures], return_tensors="pt")["pixel_values"]
        with torch.inference_mode():
            return network(values)

    known = [np.array(Image.open(path)) for path in sorted(Path(references["striped"]).iterdir())]
    expected = (units(images) @ units(known).T).amax(1).clamp(0)
    judge = detector(folder, references)
    np.testing.assert_allclose(scores(judge, images)[:, FILLS.index("striped")], expected.numpy(), atol=1e-4)
    assert json.loads(judge.instrument.parameters)["layer"] == "CSD's style head"


def _without_head(weights: dict[str, torch.Tensor]) -> None:
    del weights["module.last_layer_style"]


def _with_more(weights: dict[str, torch.Tensor]) -> None:
    weights["module.backbone.transformer.resblocks.0.attn.scale"] = torch.ones(1)


def _with_less(weights: dict[str, torch.Tensor]) -> None:
    del weights["module.backbone.ln_post.bias"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_without_head, "without a style head"),
        (_with_more, r"unexpected keys, first module\.backbone\.transformer\.resblocks\.0\.attn\.scale"),
        (_with_less, "1 missing keys"),
    ],
)
def test_csd_s_folder_is_read_strictly(
    tmp_path: Path,
    references: dict[str, str],
    images: list[Pixels],
    change: Callable[[dict[str, torch.Tensor]], None],
    message: str,
) -> None:
    folder, _ = write_csd(tmp_path / "csd", authors=True)
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(DetectorError, match=message):
        detector(folder, references).measure(images)


def test_the_self_test_wants_references_that_the_network_tells_apart(
    references: dict[str, str], tmp_path: Path
) -> None:
    detector("testbed/judge", references, pooling="mean").self_test()
    few, more = tmp_path / "few", Path(shutil.copytree(references["plain"], tmp_path / "more"))
    few.mkdir()
    for path in sorted(more.iterdir())[:4]:
        shutil.copy(path, few)  # each of these is as like to the second label as a picture can be
    judge = detector("testbed/judge", {"few": str(few), "more": str(more)})
    with pytest.raises(DetectorError, match="does not tell its references apart"):
        judge.self_test()


def test_the_references_are_part_of_the_instrument_by_their_pixels(references: dict[str, str], tmp_path: Path) -> None:
    base = detector("testbed/judge", references).instrument
    copied = {fill: shutil.copytree(folder, tmp_path / fill) for fill, folder in references.items()}
    moved = {fill: str(folder) for fill, folder in copied.items()}
    assert detector("testbed/judge", moved).instrument.instrument_id == base.instrument_id
    next(copied["plain"].iterdir()).unlink()
    assert detector("testbed/judge", moved).instrument.instrument_id != base.instrument_id
    assert detector("testbed/judge", references, pooling="mean").instrument.instrument_id != base.instrument_id


def test_a_reference_that_changes_after_planning_is_noticed(
    references: dict[str, str], tmp_path: Path, images: list[Pixels]
) -> None:
    folder = Path(shutil.copytree(references["plain"], tmp_path / "plain"))
    judge = detector("testbed/judge", {"plain": str(folder)})
    Image.fromarray(images[0]).save(next(iter(sorted(folder.iterdir()))))
    with pytest.raises(DetectorError, match="has changed since the run was planned"):
        judge.measure(images)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"references": {}}, "has no reference pictures"),
        ({"references": {"plain": 3}}, "must map labels to folders"),
        ({"references": {"plain": "{root}/nowhere"}}, "cannot be read"),
        ({"references": {"plain": "{root}/empty"}}, "holds no pictures"),
        ({"references": {"plain": "{root}/equal"}}, "all references of 'plain' are equal"),
        ({"references": {"plain": "{root}/two"}}, "2 different references of 'plain' are too few"),
        ({"references": {"plain": "{root}/text"}}, "is no picture"),
        ({"references": {"plain": "{root}/three", "dotted": "{root}/three"}}, "have the same references"),
        ({"references": {"plain": "{root}/three"}, "nearest": 2}, "nearest decides nothing"),
        ({"references": {"plain": "{root}/three"}, "pooling": "mean", "nearest": 4}, "'plain' has 3"),
        ({"references": {"plain": "{root}/three"}, "pooling": "median"}, "unknown pooling 'median'"),
    ],
)
def test_references_that_cannot_tell_are_refused_at_plan_time(
    tmp_path: Path, images: list[Pixels], parameters: dict[str, Any], message: str
) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "equal", [images[0]] * 4)
    write(tmp_path / "two", [images[0], images[0], images[2]])
    write(tmp_path / "three", [images[0], images[2], images[4]])
    (Path(write(tmp_path / "text", images)) / "notes.txt").write_text("his best ones")
    filled = json.loads(json.dumps(parameters).replace("{root}", str(tmp_path)))
    with pytest.raises(AuditError, match=message) as refused:
        detector("testbed/judge", filled.pop("references"), **filled)
    assert refused.value.next_step


def test_a_style_judge_without_a_model_or_of_another_network_is_refused(references: dict[str, str]) -> None:
    with pytest.raises(DetectorError, match="needs a network of type clip or clip_vision_model"):
        detector("testbed/classifier", references)
    with pytest.raises(DetectorError, match="has no parameter 'templates'"):
        detector("testbed/judge", references, templates=3)
