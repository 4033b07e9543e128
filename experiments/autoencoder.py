"""Train an autoencoder, with or without a discriminator: `python experiments/autoencoder.py`.

The finished run is a data set of latents: `diffusion.py --data.path runs/autoencoder/digits-seed0`.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.evaluation.settings import MonitoredRunSettings
from hybridgen.networks.settings import AutoencoderSettings, DiscriminatorSettings
from hybridgen.training.settings import AutoencoderTraining
from hybridgen.training.terms import AuxiliaryTerm


@dataclass(frozen=True, kw_only=True)
class Autoencoder(MonitoredRunSettings):
    """Settings of `experiments/autoencoder.py`.

    Attributes:
        adversarial: the discriminator's part; `adversarial.weight 0` trains without one.
    """

    data: DataSettings = field(default_factory=DataSettings)
    autoencoder: AutoencoderSettings = field(default_factory=AutoencoderSettings)
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(width=32)
    )
    adversarial: AuxiliaryTerm = field(default_factory=lambda: AuxiliaryTerm(adaptive=True))
    training: AutoencoderTraining = field(default_factory=AutoencoderTraining)


def main(settings: Autoencoder) -> None:
    # Imported once the arguments are read: these take seconds.
    from hybridgen import load_data, train_autoencoder
    from hybridgen.data.load import identified
    from hybridgen.evaluation.fit import finished, fit, monitored
    from hybridgen.evaluation.monitor import Reconstructions
    from hybridgen.networks.build import build_autoencoder, build_discriminator
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
    if getattr(source, "decode", None) is not None:
        raise InputError(
            f"{settings.data.path} holds latents, and an autoencoder is of images: give data.path "
            "the images"
        )
    settings = identified(settings, source)
    folder = settings.out or Path("runs", "autoencoder", f"{source.name}-seed{settings.seed}")
    accelerator = accelerator_for(folder, settings)
    # Whatever is wrong with the data or the settings is said before the folder is made.
    autoencoder = build_autoencoder(settings.autoencoder, source.shape)
    batches = batches_of(source, accelerator, batch=settings.training.batch, seed=settings.seed)
    validate_memory(accelerator, settings.training, autoencoder)
    if settings.adversarial.weight > 0:
        discriminator = build_discriminator(settings.discriminator, source.shape)
        validate_memory(accelerator, settings.training, discriminator)
        term = settings.adversarial
        adversarial = build_adversarial(discriminator, term)
    steps = train_autoencoder(
        autoencoder,
        batches,
        settings.training,
        accelerator,
        adversarial=adversarial,
        term=term,
        seed=settings.seed,
        resume=lambda state: run.resume(state),
    )
    facts = {"parameters": sum(p.numel() for p in autoencoder.parameters())}
    with Run(folder, settings, accelerator) as run:
        if finished(run):
            return
        start(run, "hybridgen-autoencoder", settings)
        if term is not None:
            warn_without_term(run, settings.training.steps, term)
        monitor = Reconstructions(folder, source)
        training, show = settings.training, ("l1", "generator", "discriminator")
        conclude, between = monitored(run, settings, training, monitor, "autoencoder", facts=facts)
        fit(run, steps, settings, training, conclude, between=between, show=show)


if __name__ == "__main__":
    sys.exit(command(main, Autoencoder, description=__doc__ or ""))
