"""Train a diffusion model, watch it, evaluate it: `accelerate launch experiments/diffusion.py`.

With `--adversarial.source` a discriminator takes part in the training (see `hybrid.py`).
"""

import sys
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.settings import Measured, MonitoredRunSettings
from hybridgen.networks.settings import DenoiserSettings, DiscriminatorSettings
from hybridgen.sampling.settings import SamplerSettings
from hybridgen.settings import Interval
from hybridgen.training.settings import DiffusionTraining
from hybridgen.training.terms import AdversarialTerm


@dataclass(frozen=True, kw_only=True)
class Diffusion(MonitoredRunSettings):
    """Settings of `experiments/diffusion.py` and `experiments/hybrid.py`.

    Attributes:
        discriminator: the discriminator, if `adversarial.source` asks for one.
        sampler: how the denoiser is sampled for previews and evaluations.
        final_samples: samples for the last evaluation; as many as the data allows if not given.
    """

    data: DataSettings = field(default_factory=DataSettings)
    denoiser: DenoiserSettings = field(default_factory=DenoiserSettings)
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(noise_conditional=True)
    )
    adversarial: AdversarialTerm = field(default_factory=AdversarialTerm)
    sampler: SamplerSettings = field(default_factory=SamplerSettings)
    training: DiffusionTraining = field(default_factory=DiffusionTraining)
    sample_every: Interval = 200
    eval_every: Interval = 1_000
    eval_samples: Measured = 500
    final_samples: Measured | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.adversarial.source is not None and not self.discriminator.noise_conditional:
            raise InputError(
                "the discriminator of an adversarial term compares at many noise levels and must "
                "know them: set discriminator.noise_conditional true"
            )


def main(settings: Diffusion) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen import load_data, train_diffusion
    from hybridgen.data.load import identified
    from hybridgen.evaluation.fit import finished, fit, monitored
    from hybridgen.evaluation.monitor import Monitor
    from hybridgen.networks.build import build_denoiser, build_discriminator
    from hybridgen.sampling.build import build_sampler
    from hybridgen.training.run import Run
    from hybridgen.training.setup import (
        accelerator_for,
        build_adversarial,
        start,
        validate_memory,
        warn_without_term,
    )
    from hybridgen.training.step import batches_of

    source, term, adversarial = load_data(settings.data), None, None
    settings = identified(settings, source)
    kind = "diffusion" if settings.adversarial.source is None else "hybrid"
    folder = settings.out or Path("runs", kind, f"{source.name}-seed{settings.seed}")
    accelerator = accelerator_for(folder, settings)
    # Whatever is wrong with the data or the settings is said before the folder is made.
    batches = batches_of(source, accelerator, batch=settings.training.batch, seed=settings.seed)
    denoiser = build_denoiser(settings.denoiser, source.shape, source.classes)
    validate_memory(accelerator, settings.training, denoiser)
    data_std = denoiser.config["data_std"]
    if settings.adversarial.source is not None:
        discriminator = build_discriminator(settings.discriminator, source.shape, source.classes)
        term = settings.adversarial
        adversarial = build_adversarial(discriminator, term)
    steps = train_diffusion(
        denoiser,
        batches,
        settings.training,
        accelerator,
        data_std=data_std,
        finest=data_std if source.mixture is None else float(source.mixture.stds.min()),
        adversarial=adversarial,
        term=term,
        seed=settings.seed,
        resume=lambda state: run.resume(state),
    )
    sampler = partial(build_sampler, settings.sampler, shape=source.shape)
    parameters = sum(p.numel() for p in denoiser.parameters())
    facts = {"parameters": parameters, "denoiser_calls": sampler(denoiser).cost.denoiser}
    with Run(folder, settings, accelerator) as run:
        if finished(run):
            return
        start(run, f"hybridgen-{kind}", settings)
        if term is not None:
            warn_without_term(run, settings.training.steps, term)
        monitor = Monitor(
            folder, source, sampler=sampler, seed=settings.seed, accelerator=accelerator
        )
        options = {"final_samples": settings.final_samples, "facts": facts}
        training, show = settings.training, ("total", "denoising", "discriminator")
        conclude, between = monitored(run, settings, training, monitor, "denoiser", **options)
        fit(run, steps, settings, training, conclude, between=between, show=show)


if __name__ == "__main__":
    sys.exit(command(main, Diffusion, description=__doc__ or ""))
