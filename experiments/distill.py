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
from typing import TYPE_CHECKING, Any

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.settings import Measured, MonitoredRunSettings
from hybridgen.networks.settings import DiscriminatorSettings
from hybridgen.sampling.settings import SamplerSettings, StudentSettings
from hybridgen.settings import Interval
from hybridgen.training.settings import DistillTraining
from hybridgen.training.terms import Matching, Regression, StudentTerm, check_signals

if TYPE_CHECKING:
    from hybridgen.training.step import Step

DEFAULT = Path(__file__).parents[1] / "configs" / "distill" / "digits.yaml"


@dataclass(frozen=True, kw_only=True)
class Distill(MonitoredRunSettings):
    """Settings of `experiments/distill.py`.

    Attributes:
        run: the teacher: the folder of a finished run of `diffusion.py`, `hybrid.py` or
            `finetune.py`, or a diffusers pipeline by its folder or hub name.
        identity: of the teacher's weights; a run notes it, and another teacher is refused.
        data: what the student is compared with; a run knows its own, a pipeline needs `data.path`.
        student: in how many calls it samples.
        discriminator: its network; `discriminator.noise_conditional` must be true.
        sampler: how the teacher is sampled for `regression`.
        final_samples: samples for the last evaluation; as many as the data allows if not given.
    """

    run: str = "runs/diffusion/digits-seed0"
    identity: str | None = None
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
        if self.pairs is not None and self.sampler.name in ("ddpm", "consistency"):
            raise InputError(
                "pairs are of noise and the one sample that it leads to, and sampler.name "
                f"{self.sampler.name} draws more noise on the way: choose edm_dpmpp or heun"
            )
        check_signals(self.term, self.pull, self.pairs)
        if self.pairs is not None and self.sampler.settable:
            for level in self.student.levels:
                self.sampler.beginning_at(level)  # refuses levels below the sampler's low
        elif self.pairs is not None and self.student.calls > 1:
            raise InputError(
                f"pairs for a student of {self.student.calls} calls begin at each of its levels, "
                f"and sampler.name {self.sampler.name} begins at its own: choose edm_dpmpp or heun"
            )
        patch = self.discriminator.architecture == "patch"
        if self.term is None or self.term.from_teacher:
            return
        if patch and self.pull is not None and self.pull.divergence != "reverse_kl":
            raise InputError(
                f"matching.divergence {self.pull.divergence} needs one logit a sample, and "
                "architecture patch answers one a patch: choose dcgan or residual"
            )

    @property
    def term(self) -> StudentTerm | None:
        """The game, if it is played."""
        return self.adversarial if self.adversarial.weight > 0 else None

    @property
    def pull(self) -> Matching | None:
        """Distribution matching, if there is a follower."""
        return self.matching if self.matching.weight > 0 else None

    @property
    def pairs(self) -> Regression | None:
        """The regression, if pairs are drawn."""
        return self.regression if self.regression.weight.greatest > 0 else None


def main(settings: Distill) -> None:
    # Imported once the arguments are read: these take seconds.
    from diffusers.pipelines.consistency_models.pipeline_consistency_models import (
        ConsistencyModelPipeline,
    )

    from hybridgen import load_data, train_student
    from hybridgen.data.load import identified
    from hybridgen.evaluation.fit import finished, fit, monitored
    from hybridgen.evaluation.guide import SampledModel
    from hybridgen.evaluation.guide_data import draw_pairs
    from hybridgen.evaluation.monitor import Monitor
    from hybridgen.evaluation.teacher import load_teacher
    from hybridgen.networks.build import build_discriminator
    from hybridgen.networks.features import EncoderDiscriminator
    from hybridgen.sampling.build import build_sampler, build_scheduler
    from hybridgen.sampling.pipeline_network import PipelineNetwork
    from hybridgen.training.checkpoint import save_network
    from hybridgen.training.lock import refuse_inside_run
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
    lowest = [settings.sampler.low] if settings.pairs and settings.sampler.settable else []
    teacher.check(source.shape, source.classes, [*student.levels, *lowest])
    noted = replace(settings, data=teacher.data, identity=teacher.fingerprint)
    settings = identified(noted, source)
    name = f"{source.name}-{student.calls}-seed{seed}"
    folder = settings.out or Path("runs", "distill", name)
    refuse_inside_run(folder, settings.run)
    accelerator = accelerator_for(folder, settings)
    training, term, pairs = settings.training, settings.term, settings.pairs
    # Whatever is wrong with the data or the settings is said before the folder is made.
    batches = batches_of(source, accelerator, batch=training.batch, seed=seed)
    networks = 1 if settings.pull is None else 2
    validate_memory(accelerator, training, teacher.network, times=networks)
    network, adversarial = copy.deepcopy(teacher.network), None
    if term is not None:
        new = partial(build_discriminator, settings.discriminator, source.shape, source.classes)
        encoder = EncoderDiscriminator.from_denoiser
        discriminator = encoder(teacher.network) if term.from_teacher else new()
        adversarial = build_adversarial(discriminator, term)
    if pairs is not None and pairs.pairs < source.classes:
        raise InputError(
            f"regression.pairs must be at least one for each of the {source.classes} classes, got "
            f"{pairs.pairs}"
        )
    model = SampledModel(
        source=source,
        network=teacher.network.to(accelerator.device).requires_grad_(False),
        settings=settings.sampler,
        fingerprint=teacher.fingerprint,
        seed=seed,
    )
    drawn = None if pairs is None else partial(draw_pairs, model, pairs.pairs, student)
    steps = train_student(
        network,
        teacher.network,
        batches,
        training,
        accelerator,
        levels=student.levels,
        low=student.low,
        data_std=teacher.data_std,
        adversarial=adversarial,
        term=term,
        matching=settings.pull,
        regression=pairs,
        pairs=None if drawn is None else lambda: drawn(folder / "pairs.safetensors", run),
        seed=seed,
        resume=lambda state: run.resume(state),
    )
    build, shape = build_sampler, source.shape
    samplers = {k: partial(build, student.with_calls(k), shape=shape) for k in student.budgets}
    with Run(folder, settings, accelerator) as run:
        if finished(run):
            return
        start(run, "hybridgen-distill", settings)
        if term is not None:
            alone = 0 if pairs is None else pairs.alone
            warn_without_term(run, training.steps - alone, term)
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
            """Save a student of square images as a pipeline too, then as every run."""
            if shape[1:] == 2 * shape[-1:] and getattr(source, "decode", None) is None:
                scheduler: Any = build_scheduler(student.sampler)
                network: Any = PipelineNetwork(step.average, scheduler)
                pipeline = ConsistencyModelPipeline(network, scheduler)
                run.lead(lambda: save_network(pipeline, folder / "pipeline"))
            conclude(step)

        show = ("total", "matching", "generator", "discriminator")
        fit(run, steps, settings, training, finish, between=between, show=show)


if __name__ == "__main__":
    sys.exit(command(main, Distill, description=__doc__ or "", default_config=DEFAULT))
