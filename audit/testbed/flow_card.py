"""`python -m audit.testbed.flow_card`: measure the SD3-shaped backbone, into its part of the testbed's model card."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from audit.corpus.images import psnr
from audit.diffusion.guard import Conditioning
from audit.diffusion.inversion import invert
from audit.diffusion.pipeline import Pipeline, load_pipeline, noise_model
from audit.diffusion.sampling import initial_noise, sample
from audit.statistics.binomial import clopper_pearson
from audit.testbed.captions import ALL_CLASSES, CLASSES, class_prompt
from audit.testbed.card import GUIDANCE, HERE, Pixels, build_detectors, class_scores, contact_sheet
from audit.testbed.card_tables import UNKNOWN, verdict
from audit.testbed.loop import recorded
from audit.testbed.markers import replaced
from audit.testbed.scenes import sample_scene
from audit.testbed.train_flow import PHASES
from audit.weights.references import resolve_model

STEPS, INVERSION_STEPS, SEEDS, SCENES, BATCH = 25, 50, 100, 64, 16
FIRST_SEED = 40  # which of several trainings ships was chosen by the pictures of the seeds before
THRESHOLD, CRR_GOAL, RESIDUAL_GOAL, PSNR_GOAL, SHARE_GOAL = 0.5, 0.90, 1e-3, 35.0, 0.95
PASSES, TOLERANCE = 40, 1e-4


def main() -> None:
    """Measure everything; write the part `sd3` of README.md, and contact_sheet_sd3.png, beside this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="pictures of each class")
    parser.add_argument("--scenes", type=int, default=SCENES, help="held-out scenes to invert")
    parser.add_argument("--build", type=Path, default=Path("build/testbed"), help="folder of the training's checkpoint")
    arguments = parser.parse_args()
    pipeline = load_pipeline(resolve_model("testbed/sd3"), torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    pictures = {name: drawn(pipeline, class_prompt(name), arguments.seeds) for name in CLASSES}
    contact_sheet([images[:10] for images in pictures.values()], HERE / "contact_sheet_sd3.png")
    content = "\n\n".join(
        [
            _size(pipeline, {phase.name: recorded(arguments.build, phase.name) for phase in PHASES}),
            _rates(pictures, str(pipeline.device)),
            _inversion(pipeline, arguments.scenes),
        ]
    )
    readme = HERE / "README.md"
    readme.write_text(replaced(readme.read_text(), "sd3", content))
    print(content)


def drawn(pipeline: Pipeline, prompt: str, seeds: int) -> list[Pixels]:
    """Return pictures (64, 64, 3) of one prompt, of so many seeds from `FIRST_SEED` on."""
    images: list[Pixels] = []
    for numbers in torch.arange(FIRST_SEED, FIRST_SEED + seeds).split(BATCH):
        texts = (prompt,) * len(numbers)
        conditioning = Conditioning(
            pipeline.encode_text(texts), pipeline.encode_text([""] * len(numbers)), GUIDANCE, texts
        )
        noise = initial_noise(numbers.tolist(), pipeline.latent_shape).to(pipeline.device)
        done = sample(noise_model(pipeline.unet), pipeline.schedule(STEPS), noise, conditioning)
        scaled = (pipeline.decode_latents(done.latents) / 2 + 0.5) * 255
        images += list(scaled.permute(0, 2, 3, 1).round().to(torch.uint8).cpu().numpy())
    return images


def _size(pipeline: Pipeline, costs: Mapping[str, tuple[int, float] | None]) -> str:
    second = pipeline.second
    assert second is not None  # as of every pipeline of the family
    parts = {"transformer": pipeline.unet, "second text encoder": second.encoder}
    sizes = ", ".join(f"{name} {sum(p.numel() for p in part.parameters()):,}" for name, part in parts.items())
    bytes_ = sum(path.stat().st_size for path in pipeline.ref.path.rglob("*") if path.is_file())
    trained = "; ".join(
        f"{name} {UNKNOWN if cost is None else f'{cost[0]:,} steps in {cost[1] / 3600:.1f} hours by the clock'}"
        for name, cost in costs.items()
    )
    return f"Parameters: {sizes}; the folder takes {bytes_ / 1e6:.1f} MB (goal 20). Training: {trained}."


def _rates(pictures: dict[str, list[Pixels]], device: str) -> str:
    detector = next(one for one in build_detectors(device) if one.instrument.detector == "classifier")
    lines = [
        f"| class | pictures of it, by the classifier (score >= {THRESHOLD}) | goal {CRR_GOAL:.2f} |",
        "|---|---|---|",
    ]
    met = 0
    for name, images in pictures.items():
        hits = int((class_scores(detector, images)[:, ALL_CLASSES.index(name)] >= THRESHOLD).sum())
        low, high = clopper_pearson(hits, len(images), 0.95)
        met += hits / len(images) >= CRR_GOAL
        lines.append(
            f"| {name} | {hits}/{len(images)} ({low:.2f}-{high:.2f}) | {verdict(hits / len(images), CRR_GOAL)} |"
        )
    title = f'"a photo of a CLASS", {STEPS} Euler steps, guidance {GUIDANCE}, float32, 95 % intervals:'
    return "\n".join([title, "", *lines, "", f"Goal met for {met} of {len(pictures)} classes."])


def _inversion(pipeline: Pipeline, scenes: int) -> str:
    images = torch.from_numpy(np.stack([sample_scene("audit", i).image for i in range(scenes)]))
    clean = pipeline.encode_images(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
    model, schedule = noise_model(pipeline.unet), pipeline.schedule(INVERSION_STEPS)
    residuals, ratios = [], []
    for rows in torch.arange(scenes).split(BATCH):
        states = pipeline.encode_text([""] * len(rows))
        up = invert(model, schedule, clean[rows], states, passes=PASSES, tolerance=TOLERANCE)
        down = sample(model, schedule, up.latents, Conditioning(states, states, 1.0, ("",) * len(rows)))
        before, after = (pipeline.decode_latents(latents).cpu().numpy() for latents in (clean[rows], down.latents))
        residuals += up.residual_max.tolist()
        ratios += [psnr(*pair, peak=2.0) for pair in zip(before, after, strict=True)]
    good = sum(r < RESIDUAL_GOAL and p > PSNR_GOAL for r, p in zip(residuals, ratios, strict=True))
    return (
        f"Inversion of {scenes} held-out scenes in {INVERSION_STEPS} steps under the null prompt, at most {PASSES} evaluations "
        f"a step: residual below {RESIDUAL_GOAL:g} and round trip above {PSNR_GOAL:g} dB for {good}/{scenes} "
        f"(goal {SHARE_GOAL:.0%} {verdict(good / scenes, SHARE_GOAL)}); largest residual {max(residuals):.1e}, lowest round trip "
        f"{min(ratios):.1f} dB."
    )


if __name__ == "__main__":
    main()
