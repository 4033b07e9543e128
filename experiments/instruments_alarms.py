"""Are the alarms right, and what does the stopping rule choose? `instruments.py --what alarms`.

A small GAN is trained in ways that are known to work and to fail. After every evaluation the alarms
read the log so far; the averaged model is measured a second time on other and more samples, which
neither the alarms nor the rule see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hybridgen.data.settings import DataSettings
from hybridgen.evaluation.alarms import alarms, best_step, distance_name, evaluations
from hybridgen.evaluation.settings import Alarms
from hybridgen.networks.settings import DiscriminatorSettings, GeneratorSettings
from hybridgen.training.settings import Cosine, GanTraining, NetworkTraining

Row = dict[str, Any]
EVALUATIONS, SAMPLES = 10, 1_000
LINE = "line"
"""The name of two Gaussians on a line, which no other script has."""
LAST = ("modes", "frechet_distance")
"""Figures of the last evaluation that are reported, of data that has them."""
POINTS: Any = {"architecture": "mlp", "width": 48, "depth": 3}


@dataclass(frozen=True, kw_only=True)
class Regime:
    """A game and how often either network moves in a step.

    Attributes:
        rate: of the discriminator's learning, where the generator's is 1.
        fails: whether its samples are known to miss modes.
    """

    objective: str = "relativistic"
    r1: Cosine = field(default_factory=lambda: Cosine(start=0.1, end=0.02))
    discriminator: int = 1
    rate: float = 1.0
    generator: int = 1
    steps: int = 600
    fails: bool = False

    @property
    def training(self) -> GanTraining:
        """Of its networks; r2 weighs as much as r1."""
        return GanTraining(
            steps=self.steps,
            batch=128,
            learning_rate=Cosine(start=1e-3, end=2e-5),
            r1=self.r1,
            r2=self.r1,
            discriminator=NetworkTraining(moves=self.discriminator, rate=self.rate),
            generator=NetworkTraining(moves=self.generator),
            ema_half_life=50_000.0,
        )


_OLD: Any = {"objective": "non_saturating", "r1": Cosine(start=0.0)}
REGIMES = {
    "1:1": Regime(),
    "1:1 without penalties": Regime(**_OLD),
    "15:1 without penalties": Regime(discriminator=15, steps=100, fails=True, **_OLD),
    "1:15 without penalties": Regime(generator=15, steps=100, fails=True, **_OLD),
    "1:15": Regime(generator=15, steps=100, fails=True),
}
"""Of points, by moves of the discriminator and of the generator: healthy, and what breaks it."""
IMAGES = {
    "1:1": Regime(steps=1_000),
    "crippled discriminator": Regime(rate=1e-2, steps=1_000, fails=True),
    "1:15": Regime(generator=15, steps=150, fails=True),
}


def regimes_of(data: str) -> dict[str, Regime]:
    """By name."""
    return REGIMES if data in (LINE, "ring", "grid") else IMAGES


def source_of(data: DataSettings) -> Any:
    """Of examples without labels: what other scripts load, or `LINE`."""
    import torch

    from hybridgen.data.load import load_data
    from hybridgen.data.points import MixturePoints
    from hybridgen.maths.mixtures import GaussianMixture

    if data.path != LINE:
        return load_data(replace(data, labels=False))
    weights, means = torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]])
    mixture = GaussianMixture(weights, means, torch.tensor([0.5, 0.5])).standardised()
    return MixturePoints(mixture=mixture, name=LINE)


def history(regime: Regime, data: DataSettings, seed: int, accelerator: Any) -> list[Row]:
    """Rows as in `log.jsonl` of a small training with ten evaluations of 1 000 samples, with
    figures of 10 000 other samples (3 000 of images), called `true_...`, among them."""
    import torch

    from hybridgen import AdversarialLoss
    from hybridgen.evaluation.evaluator import build_evaluator
    from hybridgen.maths.objectives import objective
    from hybridgen.maths.rng import rng_for
    from hybridgen.networks.build import build_discriminator, build_generator
    from hybridgen.training.gan import train_gan
    from hybridgen.training.step import batches_of

    torch.manual_seed(seed)
    source = source_of(data)
    images = len(source.shape) > 1
    size: Any = {"architecture": "dcgan", "width": 16} if images else POINTS
    latent = 32 if images else 2
    generator = build_generator(GeneratorSettings(latent=latent, **size), source.shape, 0)
    discriminator = build_discriminator(DiscriminatorSettings(**size), source.shape, 0)
    adversarial = AdversarialLoss(discriminator, objective(regime.objective))
    evaluators = {
        prefix: build_evaluator(source, samples=samples, seed=number, intervals=False)
        for number, (prefix, samples) in enumerate(
            {"": SAMPLES, "true_": (3 if images else 10) * SAMPLES}.items()
        )
    }
    config = regime.training
    batches = batches_of(source, accelerator, batch=config.batch, seed=seed)
    steps = train_gan(
        generator, adversarial, batches, config, accelerator, latent=latent, seed=seed
    )
    rows: list[Row] = []
    for step in steps:
        if step.number % 10 == 0:
            rows.append({"step": step.number, **step.losses})
        if step.number % (regime.steps // EVALUATIONS):
            continue
        row: Row = {"step": step.number}
        for prefix, evaluator in evaluators.items():
            noise = torch.randn(evaluator.samples, latent, generator=rng_for("judge", prefix, seed))
            with torch.no_grad():
                fake = step.average(noise.to(accelerator.device), None).cpu()
            features = evaluator.extractor.extract(fake)
            figures = evaluator.values(features)
            row |= {f"{prefix}{k}": v for k, v in figures.items() if not prefix or "floor" not in k}
            if not prefix:
                row["shares"] = " ".join(f"{share:.4g}" for share in evaluator.shares(features))
        rows.append(row)
    return rows


def first_raised(rows: Sequence[Mapping[str, Any]], settings: Alarms) -> dict[str, int]:
    """The evaluation, counted from 1, at which each kind of alarm was first raised."""
    ends = [i for i, row in enumerate(rows, 1) if "shares" in row]
    first: dict[str, int] = {}
    for number, end in enumerate(ends, 1):
        for alarm in alarms(rows[:end], settings):
            first.setdefault(alarm.kind, number)
    return first


def trainings(data: DataSettings, seeds: Sequence[int], accelerator: Any) -> Iterator[Row]:
    """Of each regime and seed: the first alarm and the true distance of what the rule chose, over
    that of the best evaluation in hindsight; likewise of the last one."""
    number = 0
    for seed in seeds:
        for place, regime in enumerate(regimes_of(data.path).values()):
            rows = history(regime, data, seed, accelerator)
            entries, raised = evaluations(rows), first_raised(rows, Alarms())
            true = {entry["step"]: entry[f"true_{distance_name(entries)}"] for entry in entries}
            chosen, best = best_step(rows) or entries[-1]["step"], min(true.values())
            last = entries[-1]
            yield {
                "step": (number := number + 1),
                "regime": place,
                "fails": float(regime.fails),
                "first_alarm": float(min(raised.values(), default=0)),
                "rule_over_best": true[chosen] / best,
                "last_over_best": true[last["step"]] / best,
                **{name: last[f"true_{name}"] for name in LAST if f"true_{name}" in last},
                **{f"first_{kind}": float(evaluation) for kind, evaluation in raised.items()},
            }


def figures_of_trainings(rows: Sequence[Row], data: str) -> dict[str, float]:
    """Of each regime how many runs, how many with an alarm, when at the latest, and medians."""
    from statistics import median

    figures: dict[str, float] = {}
    for place, name in enumerate(regimes_of(data)):
        runs = [row for row in rows if row["regime"] == place]
        raised = [row["first_alarm"] for row in runs if row["first_alarm"]]
        label = name.replace(":", "_to_").replace(" ", "_")
        if not runs:
            continue
        figures |= {f"{label}/runs": len(runs), f"{label}/with_an_alarm": len(raised)}
        figures[f"{label}/latest_first_alarm"] = max(raised, default=0)
        for key in ("rule_over_best", "last_over_best", *LAST):
            if key in runs[0]:
                figures[f"{label}/{key}"] = median(row[key] for row in runs)
    return figures
