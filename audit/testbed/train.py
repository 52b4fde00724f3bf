"""`python -m audit.testbed.train`: train the testbed from scratch. Seeded; every stage resumes where it stopped."""

from __future__ import annotations

import argparse
from pathlib import Path

FLOW = ("flow", "flow-further", "flow-finish", "flow-corners")
STAGES = ("vae", "judges", "classifier", "diffusion", *FLOW)
TRAININGS = ("vae", "judge", "energy", "classifier", "diffusion", *FLOW)  # one checkpoint each


def main() -> None:
    """Run one stage or all of them, and save what they trained under `audit/testbed/weights`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stage", choices=[*STAGES, "all"], default="all")
    parser.add_argument("--build", type=Path, default=Path("build/testbed"), help="checkpoints and rendered scenes")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies every number of steps")
    arguments = parser.parse_args()
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        run_stage(stage, arguments.build, arguments.scale)


def run_stage(stage: str, folder: Path, scale: float) -> None:
    """Train one stage; imports are local so that a stage loads only what it needs."""
    from audit.testbed import saving

    if stage == "vae":
        from audit.testbed.train_vae import train_vae

        saving.save_vae(train_vae(folder, scale), folder)
    elif stage == "judges":
        from audit.testbed.train_judges import JUDGES, train_judge

        for name in JUDGES:
            saving.save_judge(name, train_judge(name, folder, scale))
    elif stage == "classifier":
        from audit.testbed.train_classifier import train_classifier

        saving.save_classifier(train_classifier(folder, scale))
    elif stage == "diffusion":
        from audit.testbed.train_diffusion import train_diffusion

        saving.save_pipeline(*train_diffusion(saving.load_vae(folder), folder, scale))
    else:
        from audit.testbed.train_flow import PHASES, train_flow

        saving.save_flow_pipeline(*train_flow(PHASES[FLOW.index(stage)], folder, scale))


if __name__ == "__main__":
    main()
