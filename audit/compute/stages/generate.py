"""Make the pictures of one unit: from prompts, inverted latents, random latents, or the control sources."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

import numpy as np
import pyarrow as pa
import torch

from audit.compute.models import Models
from audit.compute.personalised import with_personalisation
from audit.compute.prefixes import trajectory_of
from audit.compute.stages.attacked import Refused, prompt_of
from audit.compute.stages.batching import Made, Row, run_batches
from audit.compute.stages.guided import guidance_of, split
from audit.compute.stages.inputs import unit_result
from audit.compute.stages.invert import SECOND, ReadItem
from audit.compute.stages.overlap import Finisher, threads_beside, to_device
from audit.compute.stages.picture_rows import NOT_FINITE, finite, noise_pixels, picture_row, rounded, row_without
from audit.compute.stages.pictured import Pictured, pictured
from audit.compute.stages.round_trips import RoundTrips
from audit.corpus.images import ImageError, to_model_input
from audit.diffusion.exact_sampling import Pair, sample_exactly
from audit.diffusion.guard import Conditioning, Report, as_json
from audit.diffusion.noisy_steps import NoisySteps
from audit.diffusion.perturbation import perturb_latents
from audit.diffusion.sampling import Sampled, initial_noise, sample
from audit.diffusion.schedulers import DiffusersSolver
from audit.guards import quiet_steps
from audit.plan.identities import GenerateIdentity
from audit.records import Case, Status
from audit.spec.sampler import DDIM
from audit.storage.journal import SCHEMAS, Journal
from audit.weights.schedulers import choose, own_scheduler

# Rows of the cases that have no start, by picture; the others, and what they start from: None where there are none.
Starts = tuple[dict[int, Row], list[Case], torch.Tensor | Pair | Pictured | None]


def run_generate(
    pictures: GenerateIdentity,
    cases: Sequence[Case],
    models: Models,
    journal: Journal,
    read_item: ReadItem,
    batch_size: int,
    *,
    reuse: bool = True,
) -> Made:
    """Return one row per picture of the unit, in plan order; pictures that could not be made carry status and reason.

    With `reuse`, latents that the round trip of an inversion has denoised in the same way are decoded as they are, and
    their rows name that unit in `denoised_by`. Without it everything is denoised here, those latents in the batches of the
    round trip, on which the last bits depend.
    """
    personalised = with_personalisation(models, pictures.personalisation)
    round_trips = RoundTrips(pictures, personalised, journal, batch_size, reuse=reuse)
    maker = _Maker(personalised, journal, read_item, pictures, round_trips, reuse)
    possible = [case for case in cases if not case.problem]
    computed = run_batches(
        possible, batch_size, maker.work(), lambda case, error: row_without(case, Status.ERROR, error)
    )
    rows = {row["image_id"]: row for row in computed}
    rows |= {case.image_id: row_without(case, Status.UNREADABLE, case.problem) for case in cases if case.problem}
    return pa.Table.from_pylist([rows[case.image_id] for case in cases], schema=SCHEMAS["generate"]), None


@dataclasses.dataclass(frozen=True)
class _Maker:
    """Makes batches of pictures; the unit's source says from what."""

    models: Models
    journal: Journal
    read_item: ReadItem
    identity: GenerateIdentity
    round_trips: RoundTrips
    reuse: bool

    @functools.cached_property
    def finisher(self) -> Finisher:
        """Return what encodes pictures while the device makes the next ones."""
        return Finisher(threads_beside(self.models.device))

    @functools.cached_property
    def _written(self) -> Mapping[str, object]:
        """Return the settings of the folder's own scheduler, as they are written."""
        return own_scheduler(self.models.pipeline.ref.path)

    def work(self) -> Callable[[Sequence[Case]], Sequence[Row | Future[Row]]]:
        """Return what makes one batch."""
        match self.identity.source:
            case "prompt" | "noise" | "latent" | "picture":
                return self._denoised
            case "black" | "noise-pixels":
                return self._drawn
            case "noise-latent":
                return self._decoded_noise
            case "image" | "vae":
                return self._references

    def _denoised(self, cases: Sequence[Case]) -> list[Row | Future[Row]]:
        """Return pictures denoised through the unit's model and guards, and the reasons of the cases that have no start."""
        latent = self.identity.source == "latent"
        without, ready, start = self._starts(cases)
        rows: dict[int, Row | Future[Row]] = {**without}
        returned = self.round_trips.ends(ready) if latent else None
        if returned is not None:
            ends, calls = returned
            done = Sampled(ends.to(self.models.device), calls, ((),) * len(ready))
            by = [case.invert_key if self.reuse else None for case in ready]
            rows |= zip((case.image_id for case in ready), self._shown(ready, done, by), strict=True)
        elif start is not None:
            rows |= zip((case.image_id for case in ready), self._shown(ready, self._sampled(ready, start)), strict=True)
        return [rows[case.image_id] for case in cases]

    def _starts(self, cases: Sequence[Case]) -> Starts:
        """Return the rows of the cases that have no start, the others, and what they start from."""
        match self.identity.source:
            case "latent":
                return self._from_inversions(cases)
            case "picture":
                unread, ready, start = pictured(cases, self.models.pipeline, self.read_item)
                by_id = {case.image_id: case for case in cases}
                rows = {image: row_without(by_id[image], why.status, why.reason) for image, why in unread.items()}
                return rows, ready, start
            case _:
                return self._from_noise(cases)

    def _sampled(self, cases: Sequence[Case], start: torch.Tensor | Pair | Pictured) -> Sampled:
        """Denoise `start` under the cases' prompts, from where an unguarded trajectory of theirs is kept, if one is."""
        models, sampler, erased = self.models, self.identity.sampler, self.identity.model
        assert sampler is not None  # as of everything that is denoised
        texts = tuple(case.prompt or "" for case in cases)
        conditioning = Conditioning(
            models.states(texts, erased).to(models.device),
            models.states([""] * len(cases), erased).to(models.device),
            1.0 if models.pipeline.distilled else sampler.guidance,  # a distilled network is told it
            texts,
            tuple(case.seed for case in cases),
        )
        model = models.noise_model(erased, sampler.dtype, texts, sampler.guidance)
        # Guidance comes last: it steers what the guards have made of a step.
        guards = [*models.guards(self.identity.guards, erased, sampler.dtype), *guidance_of(self.identity, models)]
        if isinstance(start, Pictured):
            assert self.identity.picture is not None  # as of every unit of this source
            whole = models.pipeline.schedule(sampler.steps, (start.shape[2], start.shape[3]))
            schedule, known = whole.last(self.identity.picture.steps), self.identity.picture.known
            if known is not None:
                completion = start.completed_by(schedule, known, models.device)
                return sample(model, completion, to_device(start.noise, models.device), conditioning, guards)
            return sample(model, schedule, to_device(start.start(schedule), models.device), conditioning, guards)
        if self.identity.step_noise is not None:
            return sample(model, *self._noisy(start, conditioning), conditioning, guards)
        if sampler.scheduler != DDIM and models.pipeline.kind != "flow":  # a flow has one sampler, its own
            if isinstance(start, Pair):
                raise ValueError("a pair is denoised by the sampler that made it")
            chosen = choose(self._written, sampler.scheduler)
            solver = DiffusersSolver(chosen, sampler.steps, conditioning.seeds, start.shape[1:], models.pipeline.kind)
            return sample(model, solver, to_device(start, models.device), conditioning, guards)
        noisiest = start.noisiest if isinstance(start, Pair) else start
        schedule = models.pipeline.schedule(sampler.steps, (noisiest.shape[2], noisiest.shape[3]))
        if isinstance(start, Pair):
            if guards:
                raise ValueError("guards act on one latent and cannot act on a pair")
            pair = Pair(to_device(start.noisiest, models.device), to_device(start.second, models.device))
            return sample_exactly(model, schedule, pair, conditioning, str(self.identity.solver))
        timesteps = schedule.timesteps[::-1]
        alike = self.reuse and self.identity.guidance is None  # with other cells, until a guard acts
        quiet = quiet_steps([vars(guard) for guard in self.identity.guards], timesteps) if alike else 0
        keep = {step for step in models.prefixes.steps(timesteps) if step <= quiet}
        ways = [trajectory_of(self.identity, case, start.shape[1:]) for case in cases] if keep else []
        begun, latents = models.prefixes.latest(ways, quiet) or (0, start) if keep else (0, start)
        result = sample(
            model, schedule, to_device(latents, models.device), conditioning, guards, begun=begun, keep=keep
        )
        models.prefixes.keep(ways, result.passed)
        return result

    def _noisy(self, start: torch.Tensor | Pair, conditioning: Conditioning) -> tuple[NoisySteps, torch.Tensor]:
        """Return the solver that adds noise after each step, and what a batch of cases starts from, on the device."""
        noise, sampler = self.identity.step_noise, self.identity.sampler
        if noise is None or sampler is None or isinstance(start, Pair):
            raise ValueError("only prompts are sampled with noise after each step")
        schedule = self.models.pipeline.schedule(sampler.steps, (start.shape[2], start.shape[3]))
        solver = NoisySteps(schedule, noise.eta, noise.form, noise.noise_scale, conditioning.seeds, start.shape[1:])
        return solver, to_device(start, self.models.device)

    def _from_noise(self, cases: Sequence[Case]) -> Starts:
        """Start the cases that have a prompt from Gaussian noise; where an attack found none, its reason is carried on."""
        rows: dict[int, Row] = {}
        ready = []
        for case in cases:
            prompt = prompt_of(case, self.journal, self.models.pipeline.vocabulary)
            if isinstance(prompt, Refused):
                rows[case.image_id] = row_without(case, prompt.status, prompt.reason)
            else:
                ready.append(dataclasses.replace(case, prompt=prompt))
        sampler = self.identity.sampler
        if not ready or sampler is None:
            return rows, ready, None
        shape = self.models.pipeline.latent_shape_of(sampler.width, sampler.height)
        return rows, ready, initial_noise([case.seed for case in ready], shape)

    def _from_inversions(self, cases: Sequence[Case]) -> Starts:
        """Start the cases whose inversion gave a latent from it; the others carry the inversion's status on."""
        keys = [case.invert_key or "" for case in cases]
        inverted = {key: unit_result(self.journal, "invert", key) for key in set(keys)}
        rows: dict[int, Row] = {}
        ready, latents, second = [], [], []
        for case, key in zip(cases, keys, strict=True):
            latent_unit, item = inverted[key], case.item or ""
            if item in latent_unit.tensors:
                ready.append(case)
                latents.append(latent_unit.tensors[item])
                second += [latent_unit.tensors[item + SECOND]] if self.identity.solver != "ddim" else []
            else:
                row = latent_unit.rows[item]
                rows[case.image_id] = row_without(case, Status(str(row["status"])), f"inversion: {row['error']}")
        moved = self.identity.perturbation
        if not ready:
            return rows, ready, None
        if second:
            return rows, ready, Pair(torch.stack(latents), torch.stack(second))
        start = torch.stack(latents)
        if moved is not None:
            start = perturb_latents(start, moved.kind, moved.strength, [case.seed for case in ready])
        return rows, ready, start

    def _shown(
        self, cases: Sequence[Case], result: Sampled, denoised_by: Sequence[str | None] | None = None
    ) -> list[Row | Future[Row]]:
        """Return the decoded pictures of denoised latents, or why one is none."""
        images = self.models.pipeline.decode_latents(result.latents)
        sound, drawn, pixels = finite(result.latents), finite(images), rounded(images)
        rows: list[Row | Future[Row]] = []
        for i, case in enumerate(cases):
            reports, by = result.reports[i], denoised_by[i] if denoised_by else None
            calls = result.unet_calls + sum(report.unet_calls for report in reports)
            told, (guarding, unguided) = as_json(reports), split(reports)
            refused = _refused(guarding)
            if refused is not None:
                rows.append(row_without(case, Status.BLOCKED, refused, unet_calls=calls, guard_report=told))
            elif unguided is not None:
                rows.append(row_without(case, Status.DEGENERATE, unguided, unet_calls=calls, guard_report=told))
            elif sound[i] and drawn[i]:
                finish = functools.partial(picture_row, case, pixels[i], calls, told, by)
                rows.append(self.finisher.submit(finish))
            else:
                reason = NOT_FINITE if sound[i] else "the latent is not finite"
                values = {"unet_calls": calls, "guard_report": told, "denoised_by": by}
                rows.append(row_without(case, Status.DEGENERATE, reason, **values))
        return rows

    def _decoded_noise(self, cases: Sequence[Case]) -> list[Row]:
        """Return pictures that the decoder makes of Gaussian latents: garbage with the decoder's own texture."""
        pipeline = self.models.pipeline
        noise = initial_noise([case.seed for case in cases], pipeline.latent_shape)
        images = pipeline.decode_latents(noise.to(pipeline.device))
        sound = finite(images)
        return [
            picture_row(case, pixels) if sound[i] else row_without(case, Status.DEGENERATE, NOT_FINITE)
            for i, (case, pixels) in enumerate(zip(cases, rounded(images), strict=True))
        ]

    def _drawn(self, cases: Sequence[Case]) -> list[Row]:
        """Return pictures that no model makes: black ones, or Gaussian noise."""
        side, black = self.models.pipeline.resolution, self.identity.source == "black"
        return [
            picture_row(case, np.zeros((side, side, 3), np.uint8) if black else noise_pixels(case.seed, side))
            for case in cases
        ]

    def _references(self, cases: Sequence[Case]) -> list[Row]:
        return [self._reference(case) for case in cases]

    def _reference(self, case: Case) -> Row:
        """Return the reference image as the model sees it, or after the VAE alone."""
        pipeline = self.models.pipeline
        try:
            pixels = to_model_input(self.read_item(case.item or ""), pipeline.resolution)
        except ImageError as error:
            return row_without(case, Status.UNREADABLE, error.what)
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None]
        if self.identity.source == "vae":
            images = pipeline.decode_latents(pipeline.encode_images(images))
            if not finite(images)[0]:
                return row_without(case, Status.DEGENERATE, NOT_FINITE)
        return picture_row(case, rounded(images)[0])


def _refused(reports: Sequence[Report]) -> str | None:
    """Return why a guard cannot vouch for the picture, which then is no evidence of anything; None when all can."""
    return next((f"guard {report.guard}: {report.failure}" for report in reports if report.failure is not None), None)
