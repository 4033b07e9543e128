"""Train a GAN, watch it, say how good it is: `accelerate launch experiments/gan.py`."""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from accelerate.utils import set_seed

from hybridgen.cli import command
from hybridgen.data.augment import AugmentSettings
from hybridgen.data.load import DataSettings, load_data
from hybridgen.evaluation.fit import check_rhythm, conduct
from hybridgen.evaluation.monitor import Monitor, table
from hybridgen.networks.build import (
    DiscriminatorSettings,
    GeneratorSettings,
    build_discriminator,
    build_generator,
)
from hybridgen.sampling.samplers import SinglePass
from hybridgen.training.checkpoint import save_network
from hybridgen.training.gan import AdversarialSettings, GanTraining, build_loss, train_gan
from hybridgen.training.run import Run
from hybridgen.training.setup import (
    Precision,
    make_accelerator,
    start_trackers,
    validate_setup,
)
from hybridgen.training.step import Step, batches_of


@dataclass(frozen=True, kw_only=True)
class Gan:
    """Settings of `experiments/gan.py`.

    Attributes:
        seed: of the weights and of every draw.
        out: the run's folder; `runs/gan/DATA-seedN` if not given.
        log_every: steps between two lines of losses in the log.
        sample_every: steps between two sample grids.
        eval_every: steps between two judgements on `eval_samples` samples.
        save_every: steps between two checkpoints.
        eval_samples: samples for the metrics along the way; the last judgement is as large as
            the data allows.
        mixed_precision: `no` or `bf16`; the launcher's choice if not given.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: further trackers beside log.jsonl: tensorboard, trackio, wandb.
    """

    data: DataSettings = field(default_factory=DataSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    adversarial: AdversarialSettings = field(default_factory=AdversarialSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    training: GanTraining = field(default_factory=GanTraining)
    seed: int = 0
    out: Path | None = None
    log_every: int = 10
    sample_every: int = 100
    eval_every: int = 500
    save_every: int = 200
    eval_samples: int = 1_000
    mixed_precision: Precision | None = None
    threads: int | None = None
    tracking: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rhythm(self)


def main(settings: Gan) -> None:
    source = load_data(settings.data)
    folder = settings.out or Path("runs", "gan", f"{source.name}-seed{settings.seed}")
    accelerator = make_accelerator(
        folder,
        seed=settings.seed,
        mixed_precision=settings.mixed_precision,
        threads=settings.threads,
        tracking=settings.tracking,
    )
    # Whatever is wrong with the data or the settings is said before the folder is made.
    batches = batches_of(source, accelerator, batch=settings.training.batch, seed=settings.seed)
    generator = build_generator(settings.generator, source.shape, source.classes)
    discriminator = build_discriminator(settings.discriminator, source.shape, source.classes)
    adversarial = build_loss(
        discriminator, settings.adversarial, settings.training, settings.augment
    )
    validate_setup(
        accelerator, adversarial, settings.training.batch, settings.training.accumulation
    )
    set_seed(settings.seed, device_specific=True)  # equal weights so far; draws differ from here

    latent = settings.generator.latent
    total, batch = settings.training.steps, settings.training.batch
    with Run(folder, settings, accelerator, facts={"examples": source.size}) as run:
        if run.result is not None:
            run.say(f"{folder} is finished already; choose another --out to train again")
            if run.leads:
                print(table(run.result))
            return
        start_trackers(accelerator, "hybridgen-gan", run.config)
        monitor = Monitor(
            folder, source, sampler=lambda g: SinglePass(g, (latent,)), seed=settings.seed
        )
        steps = train_gan(
            generator,
            adversarial,
            batches,
            settings.training,
            accelerator,
            latent=latent,
            seed=settings.seed,
            resume=run.resume,
        )
        conduct(
            run,
            steps,
            monitor,
            settings,
            lambda step: conclude(run, monitor, step, batch),
            total=total,
            batch=batch,
            show=("discriminator", "generator"),
        )


def conclude(run: Run, monitor: Monitor, step: Step, batch: int) -> None:
    """Save the weights, judge them on as many samples as the data allows, and say so."""
    seconds = run.seconds
    save_network(step.average, run.folder / "generator")
    save_network(step.state["discriminator"], run.folder / "discriminator")
    # Not logged: figures of another number of samples do not continue the curves.
    figures = monitor.figures(step.average)
    monitor.finish(step.average, run.log_file.rows())
    run.accelerator.end_training()
    speed = step.number * batch / seconds
    result = {"steps": step.number, "seconds": seconds, "images_per_second": speed, **figures}
    run.finish(result)
    print(table(result))
    print(f"samples, curves and weights are in {run.folder}")


if __name__ == "__main__":
    sys.exit(command(main, Gan, description=__doc__ or ""))
