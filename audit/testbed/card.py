"""`python -m audit.testbed.card`: measure the trained parts, write their part of README.md and the contact sheet."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from audit.diffusion.guard import Conditioning
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.instruments import detectors
from audit.instruments.detectors.base import Detector
from audit.spec.sections import Concept, DetectorSpec
from audit.testbed.captions import ALL_CLASSES, CLASSES, class_prompt
from audit.testbed.card_tables import Accuracy, costs_table, judges_table, verdict
from audit.testbed.loop import recorded
from audit.testbed.markers import replaced
from audit.testbed.scenes import Scene, sample_scene
from audit.testbed.train import TRAININGS
from audit.testbed.train_vae import reconstruction_psnr
from audit.weights.references import resolve_model

HERE = Path(__file__).parent
GUIDANCE, STEPS = 3.0, 25  # of the contact sheet
Pixels = npt.NDArray[np.uint8]
PSNR_GOAL = 30.0  # dB


def build_detectors(device: str) -> list[Detector]:
    """Return the two CLIP judges and the classifier as an audit would load them, as far as their weights are there."""
    concepts = [Concept(name=name, phrase=name) for name in ALL_CLASSES]
    background = tuple(f"a photo of an empty {name} background" for name in ("white", "gray", "black"))
    specs = [
        DetectorSpec(name="judge", kind="clip-zero-shot", model="testbed/judge", background=background),
        DetectorSpec(name="energy", kind="clip-zero-shot", model="testbed/energy", background=background),
        DetectorSpec(name="classifier", kind="classifier", model="testbed/classifier"),
    ]
    return [detectors.build(spec, concepts, device) for spec in specs if (HERE / "weights" / spec.name).is_dir()]


def class_scores(detector: Detector, images: list[Pixels]) -> npt.NDArray[np.float64]:
    """Return scores (N, classes) in the order of `ALL_CLASSES`. Raises RuntimeError when an image could not be measured."""
    rows = []
    for measured in detector.measure(images):
        if measured.scores is None:
            raise RuntimeError(f"{detector.instrument.detector}: {measured.error}")
        by_label = {score.label: score.score for score in measured.scores}
        rows.append([by_label[name] for name in ALL_CLASSES])
    return np.array(rows)


def generate(pipeline: Pipeline, prompt: str, seeds: list[int]) -> list[Pixels]:
    """Return pictures (64, 64, 3) of one prompt, one per seed, sampled in bfloat16."""
    texts = (prompt,) * len(seeds)
    states, null = pipeline.encode_text(texts), pipeline.encode_text([""] * len(seeds))
    noise = initial_noise(seeds, pipeline.latent_shape).to(pipeline.device)
    with torch.autocast(pipeline.device.type, torch.bfloat16):
        conditioning = Conditioning(states, null, GUIDANCE, texts)
        result = sample(noise_model(pipeline.unet), pipeline.schedule(STEPS), noise, conditioning)
    images = (pipeline.decode_latents(result.latents) / 2 + 0.5) * 255
    return list(images.permute(0, 2, 3, 1).round().to(torch.uint8).cpu().numpy())


def accuracy(detector: Detector, singles: list[Scene], pairs: list[Scene]) -> Accuracy:
    """Return a judge's accuracy on held-out scenes of one and of two objects."""

    def share(scenes: list[Scene], count: int) -> float:
        order = class_scores(detector, [scene.image for scene in scenes]).argsort(1)[:, -count:]
        hits = [
            {ALL_CLASSES[i] for i in top} == {o.cls for o in scene.objects}
            for top, scene in zip(order, scenes, strict=True)
        ]
        return float(np.mean(hits))

    return Accuracy(detector.instrument.detector, share(singles, 1), share(pairs, 2))


def forward_ms(pipeline: Pipeline, bfloat16: bool, batch: int = 64) -> float:
    """Measure one UNet evaluation in float32 or bfloat16; return milliseconds per image, the best of five after a warm-up."""
    latents = initial_noise(list(range(batch)), pipeline.latent_shape).to(pipeline.device)
    states, model = pipeline.encode_text([""] * batch), noise_model(pipeline.unet)
    times = []
    with torch.no_grad(), torch.autocast(pipeline.device.type, torch.bfloat16, enabled=bfloat16):
        for _ in range(6):
            started = time.perf_counter()
            model(latents, 500, states)
            times.append(time.perf_counter() - started)
    return min(times[1:]) / batch * 1000


def contact_sheet(rows: list[list[Pixels]], path: Path) -> None:
    """Write one PNG with a row of pictures per class, enlarged twice."""
    sheet = np.concatenate([np.concatenate(row, 1) for row in rows], 0)
    Image.fromarray(sheet).resize((sheet.shape[1] * 2, sheet.shape[0] * 2), Image.Resampling.NEAREST).save(
        path, optimize=True
    )


def main() -> None:
    """Measure everything; write the part `card` of README.md, and contact_sheet.png, beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=600, help="held-out scenes for each accuracy")
    parser.add_argument(
        "--build", type=Path, default=Path("build/testbed"), help="folder of the trainings' checkpoints"
    )
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = load_pipeline(resolve_model("testbed"), torch.device(device))
    singles = [sample_scene("audit", i, classes=ALL_CLASSES, n_objects=1) for i in range(arguments.scenes)]
    pairs = [sample_scene("audit", i, classes=ALL_CLASSES, n_objects=2) for i in range(arguments.scenes)]
    detectors = build_detectors(device)
    accuracies = [accuracy(detector, singles, pairs) for detector in detectors]
    learned = np.stack([sample_scene("audit", i).image for i in range(256)])
    psnr = reconstruction_psnr(pipeline.vae, torch.from_numpy(learned).permute(0, 3, 1, 2).float() / 127.5 - 1)
    sheet = []
    for name in CLASSES:
        sheet.append(generate(pipeline, class_prompt(name), list(range(10))))
    pair_prompts = [
        f"a photo of a red {a} and a blue {b}" for a, b in zip(CLASSES, CLASSES[3:] + CLASSES[:3], strict=True)
    ]
    sheet.append([generate(pipeline, prompt, [0])[0] for prompt in pair_prompts])
    contact_sheet(sheet, HERE / "contact_sheet.png")
    costs = {name: recorded(arguments.build, name) for name in TRAININGS}
    card = write_card(pipeline, accuracies, psnr.numpy(), costs, arguments.scenes)
    readme = HERE / "README.md"
    readme.write_text(replaced(readme.read_text(), "card", card))
    print(card)


def write_card(
    pipeline: Pipeline,
    accuracies: list[Accuracy],
    psnr: npt.NDArray[np.float32],
    costs: Mapping[str, tuple[int, float] | None],
    scenes: int,
) -> str:
    """Return the measured part of the model card as Markdown."""
    template = (HERE / "card.md.txt").read_text()
    parts = {"UNet": pipeline.unet, "VAE": pipeline.vae, "text encoder": pipeline.text_encoder}
    sizes = "\n".join(f"| {name} | {sum(p.numel() for p in module.parameters()):,} |" for name, module in parts.items())
    weights = sum(path.stat().st_size for path in (HERE / "weights").rglob("*") if path.is_file())
    return template.format(
        sizes=sizes,
        megabytes=weights / 1e6,
        forward=forward_ms(pipeline, bfloat16=False),
        forward_bfloat16=forward_ms(pipeline, bfloat16=True),
        threads=torch.get_num_threads(),
        device=pipeline.device,
        judged=judges_table(accuracies),
        costs=costs_table(costs),
        missing=", ".join(sorted({"judge", "energy", "classifier"} - {a.name for a in accuracies})) or "none",
        scenes=scenes,
        psnr_mean=float(psnr.mean()),
        psnr_verdict=verdict(float(psnr.mean()), PSNR_GOAL),
        psnr_low=float(np.percentile(psnr, 5)),
        scaling=pipeline.vae.config["scaling_factor"],
    )


if __name__ == "__main__":
    main()
