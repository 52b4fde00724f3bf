"""EGLOCE: a few normalised gradient steps on the latent at each timestep, away from the concept and towards the prompt.

arXiv 2604.09405. No equations, constants or code of it are public. What is known in words (Tweedie estimate, CLIP
repulsion and retention energies, repeated updates at one timestep) is here; the formulas are this project's own:

    z0(z) = (z - sqrt(1 - abar) eps(z)) / sqrt(abar),    f_I = CLIP(D(z0))
    E(z)  = lam_rep mean_k cos(f_I, f_k) - lam_ret cos(f_I, f_r)
    K times:  z <- z - rho ||z_t|| g / ||g||,  g = dE/dz;  then z is drawn back to ||z - z_t|| <= delta ||z_t||

eps is the guarded model's own prediction with classifier-free guidance. f_r is the user's prompt with the concept's
directions projected out; when nothing of it is left, as with the null prompt, it is the picture that the unmodified
trajectory was heading for when the window opened, projected likewise. `gradient: stop` holds eps fixed in dE/dz.
Energies that are not finite end the guard's work on that case, and its picture is not assessed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers import ModelMixin

from audit.diffusion.checkpointing import checkpointed
from audit.diffusion.guard import Conditioning, Guard, Predict, Step, case_generator
from audit.guards.building import Parts
from audit.guards.egloce_parameters import METHOD
from audit.guards.energy import Energy, flip_test, load_energy
from audit.instruments.differentiable_clip import Decode, decoder, draw_views, view_of
from audit.methods.parameters import Values

NAME = METHOD.name


def moved(latents: torch.Tensor, gradient: torch.Tensor, start: torch.Tensor, rho: float, trust: float) -> torch.Tensor:
    """Return `latents` after one normalised step, drawn back into the trust region around `start`; all (B, C, H, W)."""
    reach = start.flatten(1).norm(dim=1)[:, None, None, None]
    length = gradient.flatten(1).norm(dim=1)[:, None, None, None]
    stepped = latents - rho * reach * gradient / (length + 1e-8)
    offset = stepped - start
    distance = offset.flatten(1).norm(dim=1)[:, None, None, None]
    return start + offset * (trust * reach / distance.clamp_min(1e-12)).clamp(max=1.0)


class Egloce(Guard):
    """The guard EGLOCE: optimise latents in a window of timesteps.

    `decode` maps clean latents to pictures in [-1, 1], differentiably. `recomputed` are the networks whose blocks are
    computed again for the backward pass.
    """

    name = METHOD.name
    version = METHOD.version

    def __init__(
        self, energy: Energy, decode: Decode, parameters: Values, recomputed: Sequence[ModelMixin] = ()
    ) -> None:
        self._energy, self._decode, self._p, self._recomputed = energy, decode, parameters, recomputed

    def begin(self, conditioning: Conditioning, timesteps: Sequence[float]) -> None:
        """Embed the prompts that are to be retained. Raises ValueError when views are to be drawn without the cases' seeds."""
        super().begin(conditioning, timesteps)
        if self._p["views"] and len(conditioning.seeds) != len(conditioning.texts):
            raise ValueError("guard egloce draws augmented views, so it needs the cases' seeds")
        self._seeds = conditioning.seeds
        self._kept: list[torch.Tensor | None] = [self._energy.prompt(text) for text in conditioning.texts]
        self._anchored = False
        self._highest: list[float | None] = [None] * len(conditioning.texts)

    def before_step(self, latents: torch.Tensor, step: Step, predict: Predict) -> torch.Tensor:
        """Return latents (B, C, h, w) that descended the energy, inside the window; outside it return them unchanged."""
        start, end = self._p["window"]
        if not end <= step.timestep <= start:
            return latents
        z, first = latents.float(), None
        for iteration in range(self._p["iterations"]):
            gradient, repulsion, calls = self._gradient(z, step, predict)
            first = repulsion if first is None else first
            self._record(iteration, step, repulsion, gradient, calls)
            proposed = moved(z, gradient, latents, self._p["rho"], self._p["trust"])
            z = torch.where(self._active(first)[:, None, None, None], proposed, z)
        for row, changed in enumerate((z != latents).flatten(1).any(1).tolist()):
            if self.ledger.failed(row):
                continue
            if changed:
                self.ledger.act(row, step.timestep)
            else:
                self.ledger.idle(row, "the energy has no slope here: its gradient moved nothing")
        return z

    def _active(self, repulsion: torch.Tensor) -> torch.Tensor:
        """Return which cases move (B,): those near the concept that have not failed."""
        near = [
            value > self._p["floor"] and not self.ledger.failed(row) for row, value in enumerate(repulsion.tolist())
        ]
        return torch.tensor(near, device=repulsion.device)

    def _record(self, iteration: int, step: Step, repulsion: torch.Tensor, gradient: torch.Tensor, calls: int) -> None:
        finite = torch.isfinite(gradient).flatten(1).all(1).tolist()
        for row, value in enumerate(repulsion.tolist()):
            self.ledger.count(row, calls)
            if not finite[row] or value - value != 0:
                self.ledger.fail(row, f"the energy or its gradient is not finite at timestep {step.timestep}")
                continue
            highest = self._highest[row]
            if highest is None:
                self.ledger.measure(row, energy_before=value)
            if iteration == 0 and (highest is None or value > highest):
                self._highest[row] = value
                self.ledger.measure(row, energy_highest=value)
            self.ledger.measure(row, energy_last=value)
            if iteration == 0 and value <= self._p["floor"]:
                self.ledger.idle(row, f"the picture stays at or below the floor of {self._p['floor']:g}")

    def _gradient(self, z: torch.Tensor, step: Step, predict: Predict) -> tuple[torch.Tensor, torch.Tensor, int]:
        """Return dE/dz (B, C, H, W), E_rep (B,) and the UNet evaluations of one inner iteration.

        The energies of the cases are summed: each row's gradient is its own case's alone.
        """
        with torch.enable_grad(), checkpointed(*self._recomputed):
            point = z.detach().requires_grad_(True)
            if self._p["gradient"] == "full":
                prediction = predict(point)
                noise = prediction.guided
            else:
                with torch.no_grad():
                    prediction = predict(point)
                noise = prediction.guided.detach()
            images = self._decode(step.clean(point, noise))
            features = self._features(images, step)
            self._anchor(features)
            repulsion = self._repulsion(features)
            total = self._p["repulsion"] * repulsion - self._p["retention"] * self._retention(features)
            (gradient,) = torch.autograd.grad(total.sum(), point)
        return gradient.detach(), repulsion.detach(), prediction.calls

    def _features(self, images: torch.Tensor, step: Step) -> torch.Tensor:
        """Return unit features (B, V, D) of the pictures, or of their views."""
        count = self._p["views"]
        if not count:
            return self._energy.images(images)[:, None]
        rows = []
        for image, seed in zip(images, self._seeds, strict=True):
            views = draw_views(count, case_generator(NAME, seed, f"views at {step.timestep}"))
            rows.append(view_of(image, views))
        return self._energy.images(torch.cat(rows)).view(len(images), count, -1)

    def _anchor(self, features: torch.Tensor) -> None:
        """Make cases without a prompt keep the picture that they are heading for now, once per batch."""
        if not self._anchored:
            self._anchored = True
            for row, kept in enumerate(self._kept):
                self.ledger.say(row, retains="picture" if kept is None else "prompt")
                if kept is None:
                    mean = features[row].detach().mean(0)
                    self._kept[row] = self._energy.without_concept(mean / mean.norm())

    def _repulsion(self, features: torch.Tensor) -> torch.Tensor:
        batch, views, width = features.shape
        return self._energy.repulsion(features.reshape(batch * views, width)).view(batch, views).mean(1)

    def _retention(self, features: torch.Tensor) -> torch.Tensor:
        """Return cos(f_I, f_r) (B,), averaged over views; 0 where nothing is left to be retained."""
        zero = torch.zeros_like(features[0, 0])
        kept = torch.stack([zero if direction is None else direction for direction in self._kept])
        return (features * kept[:, None]).sum(-1).mean(1)

    def finish(self, latents: torch.Tensor) -> None:
        """Record the flip test of the finished pictures: an adversarial one regains its energy under JPEG or blur.

        A picture that the guard never moved is not of its making, and counts as not flipped.
        """
        with torch.no_grad():
            images = self._decode(latents)
        for row, flip in enumerate(flip_test(self._energy, images.nan_to_num(0.0))):
            highest = self._highest[row]
            flipped = highest is not None and self.ledger.acted(row) and flip.flipped(highest)
            self.ledger.measure(
                row, energy_final=flip.plain, energy_jpeg=flip.jpeg, energy_blurred=flip.blurred, flipped=float(flipped)
            )


def build(values: Values, parts: Parts) -> Egloce:
    """Return a new EGLOCE around the guarded model."""
    recomputed = (parts.guarded_unet(), parts.standard.vae) if values["checkpointing"] else ()
    return Egloce(energy_of(values, parts), decoder(parts.standard), values, recomputed)


def energy_of(values: Values, parts: Parts) -> Energy:
    """Load the energy network that EGLOCE's values name, on the pipeline's device."""
    texts = (tuple(values["templates"]), tuple(values["phrases"]))
    return load_energy(parts.model(values["energy_sha256"]), str(parts.standard.device), *texts)
