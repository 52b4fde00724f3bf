"""`python -m audit.testbed.card`: measure the shipped testbed and write its model card and contact sheet."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise
from audit.instruments.detectors.base import Detector
from audit.testbed.captions import ALL_CLASSES, CLASSES, class_prompt
from audit.testbed.card_tables import Accuracy, costs_table, counts_table, judges_table, verdict
from audit.testbed.counting import (
    COUNTS,
    GUIDANCE,
    HERE,
    JUDGES,
    STEPS,
    Counter,
    Counts,
    Pixels,
    build_detectors,
    class_scores,
    generate,
)
from audit.testbed.loop import recorded
from audit.testbed.markers import BENCHMARK, ERASERS, GUARDS, carry_over
from audit.testbed.scenes import Scene, sample_scene
from audit.testbed.train import TRAININGS
from audit.testbed.train_vae import reconstruction_psnr
from audit.weights.references import resolve_model

PSNR_GOAL = 30.0  # dB


def accuracy(detector: Detector, singles: list[Scene], pairs: list[Scene]) -> Accuracy:
    """Accuracy on held-out scenes of one and of two objects."""

    def share(scenes: list[Scene], count: int) -> float:
        order = class_scores(detector, [scene.image for scene in scenes]).argsort(1)[:, -count:]
        hits = [
            {ALL_CLASSES[i] for i in top} == {o.cls for o in scene.objects}
            for top, scene in zip(order, scenes, strict=True)
        ]
        return float(np.mean(hits))

    return Accuracy(detector.instrument.detector, share(singles, 1), share(pairs, 2))


def forward_ms(pipeline: Pipeline, bfloat16: bool, batch: int = 64) -> float:
    """Milliseconds per image of one UNet evaluation in float32 or bfloat16: the best of five, after a warm-up."""
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
    """Measure everything and write README.md and contact_sheet.png beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="pictures per class")
    parser.add_argument("--scenes", type=int, default=600, help="held-out scenes for each accuracy")
    parser.add_argument("--build", type=Path, default=Path("build/testbed"), help="folder where counts are kept")
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    pipeline = load_pipeline(resolve_model("testbed"), torch.device(device))
    singles = [sample_scene("audit", i, classes=ALL_CLASSES, n_objects=1) for i in range(arguments.scenes)]
    pairs = [sample_scene("audit", i, classes=ALL_CLASSES, n_objects=2) for i in range(arguments.scenes)]
    found = build_detectors(device)
    accuracies = [accuracy(detector, singles, pairs) for detector in found]
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
    judges = [detector for detector in found if detector.instrument.detector in JUDGES]
    counts = Counter(pipeline, judges, arguments.seeds, arguments.build / COUNTS).counts(None)
    costs = {name: recorded(arguments.build, name) for name in TRAININGS}
    card = write_card(pipeline, accuracies, psnr.numpy(), counts, costs, arguments.seeds, arguments.scenes)
    readme = HERE / "README.md"
    if readme.exists():
        for part in (ERASERS, GUARDS, BENCHMARK):
            card = carry_over(readme.read_text(), card, part)
    readme.write_text(card)
    print(card)


def write_card(
    pipeline: Pipeline,
    accuracies: list[Accuracy],
    psnr: npt.NDArray[np.float32],
    counts: Counts,
    costs: Mapping[str, tuple[int, float] | None],
    seeds: int,
    scenes: int,
) -> str:
    """The model card as Markdown."""
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
        crr=counts_table(counts, seeds),
        seeds=seeds,
        steps=STEPS,
        guidance=GUIDANCE,
        scaling=pipeline.vae.config["scaling_factor"],
    )


if __name__ == "__main__":
    main()
