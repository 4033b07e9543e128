"""Hold measures of a training against the truth: `python experiments/instruments.py --what gap`.

`certificate`: the bounds that held-out logits prove, for pairs of one-dimensional mixtures whose
divergences are exact: of the exact discriminator, of one that is too flat and noisy, and of trees
that were trained. None may be two standard errors above the truth, but by chance. `gap`: the
duality gap at moments of a training on a mixture, beside the divergence of the generator's samples
and the bound that a fresh classifier proves: does it rank the moments as the truth does? `alarms`:
trainings that are known to work and to fail; which of them raise an alarm, and how good is what the
stopping rule chose?
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from instruments_alarms import figures_of_trainings, regimes_of, source_of, trainings

from hybridgen.cli import command
from hybridgen.data.settings import DataSettings
from hybridgen.errors import InputError
from hybridgen.networks.settings import DiscriminatorSettings, GeneratorSettings
from hybridgen.settings import Count, Range, Seed, Settings, Weight
from hybridgen.training.settings import AdversarialSettings, GanTraining, RunSettings, Threads

MLP: Any = {"architecture": "mlp", "width": 128, "depth": 4}
Row = dict[str, Any]
Number = Annotated[int, Range(40, 1e5)]


@dataclass(frozen=True, kw_only=True)
class Instruments(Settings):
    """Settings of `experiments/instruments.py`; an interrupted run starts again.

    Attributes:
        out: the run's folder; `runs/instruments-WHAT/seedN` if not given.
        pairs: of mixtures, for the certificate.
        samples: of either kind, held out (and as many to train on, where something is trained).
        moments: of the training at which is measured, from step 20 on at equal ratios.
        worst_steps: of each worst-case player.
        perturbation: of the weights that the worst-case players of the second gap begin with.
        data: a mixture, for the gap: `ring`, `grid` or `line`, two Gaussians on a line; for the
            alarms of small GANs one of these or images.
        seeds: trainings of each kind from `seed` on, for the alarms.
    """

    what: Literal["certificate", "gap", "alarms"] = "certificate"
    seed: Seed = 0
    out: Path | None = None
    pairs: Annotated[int, Range(1, 1e5)] = 100
    samples: Number = 2_500
    moments: Annotated[int, Range(3, 1_000)] = 12
    worst_steps: Count = 300
    perturbation: Weight = 0.1
    seeds: Annotated[int, Range(1, 1_000)] = 20
    data: DataSettings = field(default_factory=lambda: DataSettings(path="ring"))
    generator: GeneratorSettings = field(default_factory=lambda: GeneratorSettings(latent=2, **MLP))
    discriminator: DiscriminatorSettings = field(
        default_factory=lambda: DiscriminatorSettings(**MLP)
    )
    adversarial: AdversarialSettings = field(default_factory=AdversarialSettings)
    training: GanTraining = field(default_factory=lambda: GanTraining(steps=3_000, batch=256))
    threads: Threads = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.what == "gap" and self.training.pack > 1:
            raise InputError(
                f"the gap is of single samples, got training.pack {self.training.pack}: take 1"
            )
        if self.what == "gap" and self.training.steps < 20 + self.moments:
            raise InputError(
                f"{self.moments} moments from step 20 on need a longer training, got "
                f"training.steps {self.training.steps}"
            )


def certificates(settings: Instruments) -> Iterator[Row]:
    """Of each pair the exact divergences, the bounds, and their excess in standard errors."""
    import torch

    from hybridgen.maths.mixtures import GaussianMixture
    from hybridgen.maths.rng import rng_for
    from hybridgen.metrics.divergences import mixture_divergences
    from hybridgen.metrics.intervals import Z
    from hybridgen.metrics.two_sample import examined, two_sample_test

    def mixture(rng: torch.Generator) -> GaussianMixture:
        k = int(torch.randint(1, 5, (1,), generator=rng))
        weights, stds = torch.rand(2, k, generator=rng) + 0.2
        return GaussianMixture(weights, 2 * torch.randn(k, 1, generator=rng), stds)

    for number in range(1, settings.pairs + 1):
        rng = rng_for(settings.seed, number)
        p, q = mixture(rng), mixture(rng)
        exact = mixture_divergences(p, q)
        x = [m.sample(2 * settings.samples, rng)[0] for m in (p, q)]
        ratios = torch.stack([p.log_ratio(q, each[: settings.samples].double()) for each in x])
        flat = 0.5 * ratios + 0.3 * torch.randn(ratios.shape, generator=rng)
        tests = {"exact": examined(*ratios), "flat": examined(*flat)}
        tests["trained"] = two_sample_test(*x, seed=number)
        row: Row = {"step": number, "jsd": exact["jsd"].value}
        row["tv"] = exact["total_variation"].value
        for kind, test in tests.items():
            for name in ("jsd", "tv"):
                bound = test[f"{name}_bound"]
                error = max(bound.high - bound.value, bound.value - bound.low) / Z
                row[f"{name}_{kind}"] = bound.value
                row[f"{name}_excess_{kind}"] = (bound.value - row[name]) / error
        yield row


def gaps(settings: Instruments, accelerator: Any) -> Iterator[Row]:
    """Of each moment of a training the duality gap, the truth, and the bound of a classifier."""
    import torch

    from hybridgen.evaluation.duality_gap import duality_gap
    from hybridgen.maths.rng import rng_for
    from hybridgen.metrics.divergences import histogram_divergences
    from hybridgen.metrics.modes import mode_coverage, mode_histogram
    from hybridgen.metrics.two_sample import two_sample_test
    from hybridgen.networks.build import build_discriminator, build_generator
    from hybridgen.training.gan import train_gan
    from hybridgen.training.setup import build_adversarial, validate_memory
    from hybridgen.training.step import batches_of

    source = source_of(settings.data)
    seed, latent = settings.seed, settings.generator.latent
    mixture, last = getattr(source, "mixture", None), settings.training.steps
    if mixture is None:
        raise InputError(
            f"the truth is known of mixtures alone, got data.path {source.name}: take ring"
        )
    generator = build_generator(settings.generator, source.shape, source.classes)
    discriminator = build_discriminator(settings.discriminator, source.shape, source.classes)
    validate_memory(accelerator, settings.training, generator, discriminator)
    adversarial = build_adversarial(discriminator, settings.adversarial)
    ratio = (last / 20) ** (1 / (settings.moments - 1))
    moments = {round(20 * ratio**number) for number in range(settings.moments)}
    training, held_out = (
        (source.reference(part, 2 * settings.samples, seed)[0].to(accelerator.device), None)
        for part in ("train", "held_out")
    )
    noise = torch.randn(4 * settings.samples, latent, generator=rng_for("samples", seed))
    options: dict[str, Any] = {"latent": latent, "steps": settings.worst_steps, "seed": seed}
    options |= {"centred": bool(adversarial.objective.relativistic)}
    batches = batches_of(source, accelerator, batch=settings.training.batch, seed=seed)
    steps = train_gan(
        generator, adversarial, batches, settings.training, accelerator, latent=latent, seed=seed
    )

    def measured(step: int) -> Row:
        with torch.no_grad():
            fake = generator(noise.to(accelerator.device)).cpu()
        truth = histogram_divergences(*reversed(mode_histogram(fake, mixture)))
        coverage = mode_coverage(fake, mixture)
        row: Row = {"step": step} | {name: truth[name] for name in ("reverse_kl", "jsd")}
        row |= {name: coverage[name] for name in ("modes", "high_quality", "mode_std")}
        test = two_sample_test(held_out[0].cpu(), fake[: len(held_out[0])], seed=seed)
        row["jsd_bound"] = test["jsd_bound"].value
        for suffix, width in (("", 0.0), ("_perturbed", settings.perturbation)):
            figures = duality_gap(
                generator, discriminator, training, held_out, perturbation=width, **options
            )
            row |= {f"{name}{suffix}": figure.value for name, figure in figures.items()}
        return row

    return (measured(step.number) for step in steps if step.number in moments)


def figures_of(rows: list[Row], settings: Instruments) -> Row:
    """What `result.json` says about all pairs, or all moments."""
    import numpy as np
    from scipy.stats import spearmanr

    if (what := settings.what) == "alarms":
        return figures_of_trainings(rows, settings.data.path)
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    if what == "certificate":
        excess = {name: each for name, each in columns.items() if "excess" in name}
        above = {name.replace("excess", "above"): (x > 2).sum() for name, x in excess.items()}
        greatest = {name: x.max() for name, x in excess.items()}
        return {name: float(value) for name, value in (greatest | above).items()}
    figures = {f"final_{name}": float(values[-1]) for name, values in columns.items()}
    for suffix in ("", "_perturbed"):
        gap = columns[f"duality_gap{suffix}"]
        for truth in ("reverse_kl", "jsd", "jsd_bound"):
            constant = min(np.ptp(gap), np.ptp(columns[truth])) == 0  # which ranks nothing
            rank = 0.0 if constant else float(spearmanr(gap, columns[truth])[0])  # pyright: ignore[reportArgumentType]
            figures[f"spearman_{truth}{suffix}"] = rank
        above = (gap > columns["jsd_bound"]).sum(), (gap > columns["jsd"]).sum()
        figures[f"above_jsd_bound{suffix}"], figures[f"above_jsd{suffix}"] = map(float, above)
    return {"moments": len(rows), **figures}


def main(settings: Instruments) -> None:
    # Imported once the arguments are read: these take seconds.
    from tqdm import tqdm

    from hybridgen.evaluation.fit import finished
    from hybridgen.evaluation.plots import against
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for, start_trackers

    what, seed = settings.what, settings.seed
    folder = settings.out or Path("runs", f"instruments-{what}", f"seed{seed}")
    accelerator = accelerator_for(folder, RunSettings(seed=seed, threads=settings.threads))
    # Nothing is measured before it is asked for: what is wrong is said before the folder is made.
    if what == "alarms":
        measured = trainings(settings.data, range(seed, seed + settings.seeds), accelerator)
    else:
        measured = certificates(settings) if what == "certificate" else gaps(settings, accelerator)
    with Run(folder, settings, accelerator) as run:
        if finished(run):
            return
        run.log_file.forget_after(0)
        start_trackers(accelerator, "hybridgen-instruments", run.config)
        rows = []
        total = {"certificate": settings.pairs, "gap": settings.moments}
        total = total.get(what, settings.seeds * len(regimes_of(settings.data.path)))
        for row in tqdm(measured, total=total, unit="row"):
            accelerator.log(row, step=int(row["step"]))
            rows.append(row)
        if what == "certificate":
            kinds = ("exact", "flat", "trained")
            panels = {name: [f"{name}_{kind}" for kind in kinds] for name in ("jsd", "tv")}
        elif what == "alarms":
            panels = {"step": ["first_alarm"], "last_over_best": ["rule_over_best"]}
        else:
            quantities = ["duality_gap", "duality_gap_perturbed", "jsd_bound", "jsd"]
            panels = {"step": quantities, "reverse_kl": quantities[:2]}
        against(rows, panels, folder / "picture.png", log=what == "gap")
        run.finish({**figures_of(rows, settings), "seconds": run.seconds})
    print("\n".join(f"{name} {value:.4g}" for name, value in figures_of(rows, settings).items()))


if __name__ == "__main__":
    sys.exit(command(main, Instruments, description=__doc__ or ""))
