"""Make a finished denoiser sample in a few calls: `accelerate launch experiments/distill.py`.

The student begins as the teacher. A discriminator, the teacher's own scores and pairs of noise and
the teacher's sample pull at it, each by its weight; without `--config` it takes
`configs/distill/digits.yaml`.
"""

import copy
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.settings import Measured, MonitoredRunSettings
from hybridgen.networks.settings import DiscriminatorSettings
from hybridgen.sampling.settings import SamplerSettings, StudentSettings
from hybridgen.settings import Interval
from hybridgen.training.settings import DistillTraining
from hybridgen.training.terms import Matching, Regression, StudentTerm

if TYPE_CHECKING:
    from hybridgen.training.step import Step

DEFAULT = Path(__file__).parents[1] / "configs" / "distill" / "digits.yaml"


@dataclass(frozen=True, kw_only=True)
class Distill(MonitoredRunSettings):
    """Settings of `experiments/distill.py`.

    Attributes:
        run: the folder of a finished run of `diffusion.py` or `hybrid.py`, or a diffusers pipeline
            by its folder or hub name: the teacher.
        data: what the student is compared with; a run knows its own, a pipeline needs `data.path`.
        student: in how many calls it samples.
        discriminator: its network; `discriminator.noise_conditional` must be true.
        sampler: how the teacher is sampled for `regression`.
        final_samples: samples for the last evaluation; as many as the data allows if not given.
    """

    run: str = "runs/diffusion/digits-seed0"
    data: DataSettings = field(default_factory=lambda: DataSettings(path=""))
    student: StudentSettings = field(default_factory=StudentSettings)
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(width=32, noise_conditional=True)
    )
    adversarial: StudentTerm = field(default_factory=StudentTerm)
    matching: Matching = field(default_factory=Matching)
    regression: Regression = field(default_factory=Regression)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    training: DistillTraining = field(default_factory=DistillTraining)
    sample_every: Interval = 200
    eval_every: Interval = 500
    final_samples: Measured | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        game, matching, regression = self.adversarial, self.matching, self.regression
        others = max(matching.weight, regression.weight.greatest)
        if max(game.weight, others) == 0:
            raise InputError(
                "nothing pulls at the student: set adversarial.weight, matching.weight or "
                "regression.weight.start above 0"
            )
        if game.weight > 0 and not self.discriminator.noise_conditional and not game.from_teacher:
            raise InputError(
                "the discriminator compares at many noise levels and must know them: set "
                "discriminator.noise_conditional true"
            )
        if regression.weight.start == 0 < regression.alone:
            raise InputError(
                f"nothing trains in the first {regression.alone} steps, which regression.alone "
                "leaves to the pairs: set regression.weight.start above 0"
            )
        if game.adaptive and others == 0:
            raise InputError(
                "adversarial.adaptive weighs the term against other losses, and there are none: "
                "leave it false, or set matching.weight or regression.weight.start"
            )
        if max(game.weight, matching.weight) == 0 and self.student.calls > 1:
            raise InputError(
                f"pairs train the first level alone, and a student of {self.student.calls} calls "
                "has more: set matching.weight or adversarial.weight above 0, or student.calls 1"
            )
        if matching.weight > 0 and matching.divergence != "reverse_kl":
            if game.weight == 0 or game.objective not in ("non_saturating", "minimax"):
                raise InputError(
                    f"matching.divergence {matching.divergence} needs the density ratio, which a "
                    "discriminator trained by cross-entropy knows: set adversarial.weight above 0 "
                    "and adversarial.objective non_saturating"
                )
            inner, outer = matching.noise, game.noise
            if not outer.low <= inner.low < inner.high <= outer.high:
                raise InputError(
                    f"matching.divergence {matching.divergence} asks the discriminator at noise "
                    f"levels from {inner.low:g} to {inner.high:g}, and it is trained from "
                    f"{outer.low:g} to {outer.high:g}: widen adversarial.noise to hold them"
                )
            if self.discriminator.architecture == "patch" and not game.from_teacher:
                raise InputError(
                    f"matching.divergence {matching.divergence} needs one logit a sample, and "
                    "architecture patch answers one a patch: choose dcgan or residual"
                )


def main(settings: Distill) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen import load_data, train_student
    from hybridgen.data.load import identified
    from hybridgen.evaluation.fit import finished, fit, monitored
    from hybridgen.evaluation.guide import SampledModel
    from hybridgen.evaluation.guide_data import draw_pairs
    from hybridgen.evaluation.monitor import Monitor
    from hybridgen.evaluation.runs import load_teacher
    from hybridgen.maths.noise import karras_sigmas
    from hybridgen.networks.build import build_discriminator
    from hybridgen.networks.features import EncoderDiscriminator
    from hybridgen.sampling.build import build_sampler, build_scheduler
    from hybridgen.sampling.pipeline import GuidedDiffusionPipeline
    from hybridgen.training.checkpoint import save_network
    from hybridgen.training.run import Run
    from hybridgen.training.setup import (
        accelerator_for,
        build_adversarial,
        start,
        validate_memory,
        warn_without_term,
    )
    from hybridgen.training.step import batches_of

    teacher = load_teacher(settings.run, settings.data)
    source, seed, student = load_data(teacher.data), settings.seed, settings.student
    levels = karras_sigmas(student.calls + 1, student.low, student.high, student.rho)
    levels = levels[: student.calls].tolist()
    teacher.check(source.shape, source.classes, levels)
    settings = identified(replace(settings, data=teacher.data), source)
    name = f"{source.name}-{student.calls}-seed{seed}"
    folder = settings.out or Path("runs", "distill", name)
    accelerator = accelerator_for(folder, settings)
    training, term, adversarial = settings.training, settings.adversarial, None
    # Whatever is wrong with the data or the settings is said before the folder is made.
    batches = batches_of(source, accelerator, batch=training.batch, seed=seed)
    validate_memory(accelerator, training, teacher.network)
    network = copy.deepcopy(teacher.network).requires_grad_(True)
    if term.weight > 0:
        if term.from_teacher:
            discriminator = EncoderDiscriminator.from_denoiser(teacher.network)
        else:
            discriminator = build_discriminator(
                settings.discriminator, source.shape, source.classes
            )
        adversarial = build_adversarial(discriminator.requires_grad_(True), term)
    regresses = settings.regression.weight.greatest > 0
    if regresses and settings.regression.pairs < source.classes:
        raise InputError(
            f"regression.pairs must be at least one for each of the {source.classes} classes, got "
            f"{settings.regression.pairs}"
        )
    model = SampledModel(
        source=source,
        network=teacher.network.to(accelerator.device).requires_grad_(False),
        settings=settings.sampler,
        fingerprint=teacher.fingerprint,
        seed=seed,
    )
    pairs = partial(draw_pairs, model, settings.regression.pairs) if regresses else None
    steps = train_student(
        network,
        teacher.network,
        batches,
        training,
        accelerator,
        levels=levels,
        data_std=teacher.data_std,
        adversarial=adversarial,
        term=term if adversarial is not None else None,
        matching=settings.matching if settings.matching.weight > 0 else None,
        regression=settings.regression if regresses else None,
        pairs=None if pairs is None else lambda: pairs(folder / "pairs.safetensors", run),
        seed=seed,
        resume=lambda state: run.resume(state),
    )
    build, shape = build_sampler, source.shape
    samplers = {k: partial(build, student.with_calls(k), shape=shape) for k in student.budgets}
    facts = {"model": teacher.fingerprint}
    with Run(folder, settings, accelerator, facts=facts) as run:
        if finished(run):
            return
        start(run, "hybridgen-distill", settings)
        if adversarial is not None:
            warn_without_term(run, training.steps, term)
        monitor = Monitor(
            folder,
            source,
            sampler=samplers[student.calls],
            seed=seed,
            accelerator=accelerator,
            others={f"at_{calls}": samplers[calls] for calls in student.budgets[:-1]},
        )
        options = {
            "final_samples": settings.final_samples,
            "facts": {"denoiser_calls": student.calls},
        }
        conclude, between = monitored(run, settings, training, monitor, "denoiser", **options)

        def finish(step: "Step") -> None:
            """Save the student as a pipeline too, then as every run."""
            scheduler = build_scheduler(student.sampler)
            pipeline = GuidedDiffusionPipeline.of_denoiser(step.average, scheduler)
            run.lead(lambda: save_network(pipeline, folder / "pipeline"))
            conclude(step)

        show = ("total", "matching", "generator", "discriminator")
        fit(run, steps, settings, training, finish, between=between, show=show)


if __name__ == "__main__":
    sys.exit(command(main, Distill, description=__doc__ or "", default_config=DEFAULT))
