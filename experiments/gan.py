"""Train a GAN, watch it, say how good it is: `accelerate launch experiments/gan.py`."""

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

from hybridgen.cli import command
from hybridgen.data.settings import AugmentSettings, DataSettings, DiffusionNoiseSettings
from hybridgen.evaluation.settings import MonitoredRunSettings
from hybridgen.networks.settings import DiscriminatorSettings, GeneratorSettings
from hybridgen.training.settings import AdversarialSettings, GanTraining


@dataclass(frozen=True, kw_only=True)
class Gan(MonitoredRunSettings):
    """Settings of `experiments/gan.py`."""

    data: DataSettings = field(default_factory=DataSettings)
    generator: GeneratorSettings = field(default_factory=GeneratorSettings)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    adversarial: AdversarialSettings = field(default_factory=AdversarialSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)
    diffusion: DiffusionNoiseSettings = field(default_factory=DiffusionNoiseSettings)
    training: GanTraining = field(default_factory=GanTraining)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.augment.check_architecture(self.discriminator.architecture)
        self.diffusion.check_discriminator(self.discriminator.noise_conditional, self.augment)


def main(settings: Gan) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen import SinglePass, load_data, train_gan
    from hybridgen.data.augment import DiffusionNoise
    from hybridgen.data.load import identified
    from hybridgen.evaluation.fit import finished, fit, monitored
    from hybridgen.evaluation.monitor import Monitor
    from hybridgen.networks.build import build_discriminator, build_generator
    from hybridgen.settings import check_memory
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for, build_adversarial, start, validate_memory
    from hybridgen.training.step import batches_of

    source = load_data(settings.data)
    settings = identified(settings, source)
    latent, seed = settings.generator.latent, settings.seed
    folder = settings.out or Path("runs", "gan", f"{source.name}-seed{seed}")
    accelerator = accelerator_for(folder, settings)
    # Nothing trains before `fit`: what is wrong is said before the folder is made by `Run`.
    batches = batches_of(source, accelerator, batch=settings.training.batch, seed=seed)
    generator = build_generator(settings.generator, source.shape, source.classes)
    shape = (settings.training.pack * source.shape[0], *source.shape[1:])
    discriminator = build_discriminator(settings.discriminator, shape, source.classes)
    validate_memory(accelerator, settings.training, generator, discriminator)
    if settings.training.replay > 0:
        kept = settings.training.replay_size
        needed = 4.0 * kept * math.prod(source.shape)
        check_memory(needed, f"{kept} past samples", "lower training.replay_size")
    steps = train_gan(
        generator,
        build_adversarial(discriminator, settings.adversarial, settings.augment),
        batches,
        settings.training,
        accelerator,
        latent=latent,
        noise=DiffusionNoise(settings.diffusion) if settings.diffusion.highest else None,
        seed=seed,
        resume=lambda state: run.resume(state),
    )
    with Run(folder, settings, accelerator) as run:
        if finished(run):
            return
        start(run, "hybridgen-gan", settings)
        monitor = Monitor(
            folder,
            source,
            sampler=lambda g: SinglePass(g, (latent,)),
            seed=seed,
            accelerator=accelerator,
        )
        show = ("discriminator", "generator")
        conclude, between = monitored(run, settings, settings.training, monitor, "generator")
        fit(run, steps, settings, settings.training, conclude, between=between, show=show)


if __name__ == "__main__":
    sys.exit(command(main, Gan, description=__doc__ or ""))
