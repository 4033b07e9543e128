"""Train a diffusion model, watch it, judge it: `accelerate launch experiments/diffusion.py`.

With `--adversarial.source` a discriminator takes part in the training (see `hybrid.py`).
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate.utils import set_seed

from hybridgen.cli import command
from hybridgen.data.load import DataSettings, load_data
from hybridgen.errors import InputError
from hybridgen.evaluation.fit import check_rhythm, conduct
from hybridgen.evaluation.monitor import Monitor, table
from hybridgen.networks.build import (
    DenoiserSettings,
    DiscriminatorSettings,
    build_denoiser,
    build_discriminator,
)
from hybridgen.sampling.build import SamplerSettings, build_sampler
from hybridgen.training.adversarial_term import AdversarialTerm, build_term
from hybridgen.training.checkpoint import save_network
from hybridgen.training.diffusion import DiffusionTraining, train_diffusion
from hybridgen.training.run import Run
from hybridgen.training.setup import (
    Precision,
    make_accelerator,
    start_trackers,
    validate_setup,
)
from hybridgen.training.step import Step, batches_of


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Settings of `experiments/diffusion.py` and `experiments/hybrid.py`.

    Attributes:
        discriminator: the discriminator, if `adversarial.source` asks for one.
        seed: of the weights and of every draw.
        sampler: how the denoiser is sampled for previews and judgements.
        out: the run's folder; `runs/diffusion/DATA-seedN` (`runs/hybrid/...`) if not given.
        log_every: steps between two lines of losses in the log.
        sample_every: steps between two sample grids.
        eval_every: steps between two judgements on `eval_samples` samples.
        save_every: steps between two checkpoints.
        eval_samples: samples for the metrics along the way.
        final_samples: samples for the last judgement; as many as the data allows if not given.
        mixed_precision: `no` or `bf16`; the launcher's choice if not given.
        threads: of torch on the CPU; tiny networks are fastest with one.
        tracking: further trackers beside log.jsonl: tensorboard, trackio, wandb.
    """

    data: DataSettings = field(default_factory=DataSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(noise_conditional=True)
    )
    adversarial: AdversarialTerm = field(default_factory=AdversarialTerm)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    training: DiffusionTraining = field(default_factory=DiffusionTraining)
    seed: int = 0
    out: Path | None = None
    log_every: int = 10
    sample_every: int = 200
    eval_every: int = 1_000
    save_every: int = 200
    eval_samples: int = 500
    final_samples: int | None = None
    mixed_precision: Precision | None = None
    threads: int | None = None
    tracking: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_rhythm(self)
        if self.adversarial.source is not None and not self.discriminator.noise_conditional:
            raise InputError(
                "the discriminator of an adversarial term compares at many noise levels and must "
                "know "
                "them: set discriminator.noise_conditional true"
            )


def main(settings: Diffusion) -> None:
    source = load_data(settings.data)
    kind = "diffusion" if settings.adversarial.source is None else "hybrid"
    folder = settings.out or Path("runs", kind, f"{source.name}-seed{settings.seed}")
    accelerator = make_accelerator(
        folder,
        seed=settings.seed,
        mixed_precision=settings.mixed_precision,
        threads=settings.threads,
        tracking=settings.tracking,
    )
    # Whatever is wrong with the data or the settings is said before the folder is made.
    batches = batches_of(source, accelerator, batch=settings.training.batch, seed=settings.seed)
    denoiser = build_denoiser(settings.denoiser, source.shape, source.classes)
    data_std = denoiser.config["data_std"]
    finest = data_std if source.mixture is None else float(source.mixture.stds.min())
    game: dict[str, Any] = {}
    if settings.adversarial.source is not None:
        discriminator = build_discriminator(settings.discriminator, source.shape, source.classes)
        adversarial = build_term(discriminator, settings.adversarial)
        settings.adversarial.validate_noise_range(finest)
        game = {"term": settings.adversarial, "adversarial": adversarial}
    validate_setup(
        accelerator,
        game.get("adversarial"),
        settings.training.batch,
        settings.training.accumulation,
    )
    build_sampler(settings.sampler, denoiser, source.shape)
    set_seed(settings.seed, device_specific=True)  # equal weights so far; draws differ from here

    total, batch = settings.training.steps, settings.training.batch
    with Run(folder, settings, accelerator, facts={"examples": source.size}) as run:
        if run.result is not None:
            run.say(f"{folder} is finished already; choose another --out to train again")
            if run.leads:
                print(table(run.result))
            return
        start_trackers(accelerator, f"hybridgen-{kind}", run.config)
        monitor = Monitor(
            folder,
            source,
            sampler=lambda model: build_sampler(settings.sampler, model, source.shape),
            seed=settings.seed,
        )
        steps = train_diffusion(
            denoiser,
            batches,
            settings.training,
            accelerator,
            data_std=data_std,
            finest=finest,
            seed=settings.seed,
            resume=run.resume,
            **game,
        )
        conduct(
            run,
            steps,
            monitor,
            settings,
            lambda step: conclude(run, monitor, step, settings),
            total=total,
            batch=batch,
            show=("total", "denoising", "discriminator"),
        )


def conclude(run: Run, monitor: Monitor, step: Step, settings: Diffusion) -> None:
    """Save the weights, judge them on as many samples as the data allows, and say so."""
    seconds = run.seconds
    save_network(step.average, run.folder / "denoiser")
    if "discriminator" in step.state:
        save_network(step.state["discriminator"], run.folder / "discriminator")
    # Not logged: figures of another number of samples do not continue the curves.
    figures = monitor.figures(step.average, settings.final_samples)
    monitor.finish(step.average, run.log_file.rows())
    run.accelerator.end_training()
    sampler = monitor.sampler(step.average)
    result = {
        "steps": step.number,
        "seconds": seconds,
        "images_per_second": step.number * settings.training.batch / seconds,
        "parameters": sum(p.numel() for p in step.average.parameters()),
        "denoiser_calls": sampler.calls,
        **figures,
    }
    run.finish(result)
    print(table(result))
    print(f"samples, curves and weights are in {run.folder}")


if __name__ == "__main__":
    sys.exit(command(main, Diffusion, description=__doc__ or ""))
