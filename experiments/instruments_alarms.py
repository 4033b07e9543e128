"""Are the alarms right, and what does the stopping rule choose? `instruments.py --what alarms`.

A ring of eight is trained in ways that are known to work and to fail. After every evaluation the
alarms read the log so far; the averaged model is measured a second time on other and more samples,
which neither the alarms nor the rule see.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hybridgen.evaluation.alarms import alarms, best_step, distance_name, evaluations
from hybridgen.evaluation.settings import Alarms
from hybridgen.training.settings import Cosine, GanTraining, NetworkTraining

Row = dict[str, Any]
EVALUATIONS = 10


@dataclass(frozen=True, kw_only=True)
class Regime:
    """A game and how often either network moves in a step.

    Attributes:
        fails: whether its samples are known to miss modes.
    """

    objective: str = "relativistic"
    r1: Cosine = field(default_factory=lambda: Cosine(start=0.1, end=0.02))
    discriminator: int = 1
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
            discriminator=NetworkTraining(moves=self.discriminator),
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
"""By moves of the discriminator and of the generator (METHODS: healthy, and what breaks it)."""


def history(regime: Regime, seed: int, accelerator: Any) -> list[Row]:
    """Rows as in `log.jsonl` of a small training with ten evaluations of 1 000 samples, with
    figures of 10 000 other samples, called `true_...`, among them."""
    import torch

    from hybridgen import AdversarialLoss
    from hybridgen.data.points import MixturePoints
    from hybridgen.evaluation.evaluator import build_evaluator
    from hybridgen.maths.mixtures import ring
    from hybridgen.maths.objectives import objective
    from hybridgen.maths.rng import rng_for
    from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
    from hybridgen.training.gan import train_gan
    from hybridgen.training.step import batches_of

    torch.manual_seed(seed)
    source = MixturePoints(mixture=ring(), name="ring")
    generator = MlpGenerator(latent=2, width=48, depth=3)
    adversarial = AdversarialLoss(MlpDiscriminator(width=48, depth=3), objective(regime.objective))
    evaluators = {
        prefix: build_evaluator(source, samples=samples, seed=number, intervals=False)
        for number, (prefix, samples) in enumerate({"": 1_000, "true_": 10_000}.items())
    }
    batches = batches_of(source, accelerator, batch=128, seed=seed)
    config = regime.training
    steps = train_gan(generator, adversarial, batches, config, accelerator, latent=2, seed=seed)
    rows: list[Row] = []
    for step in steps:
        if step.number % 10 == 0:
            rows.append({"step": step.number, **step.losses})
        if step.number % (regime.steps // EVALUATIONS):
            continue
        row: Row = {"step": step.number}
        for prefix, evaluator in evaluators.items():
            noise = torch.randn(evaluator.samples, 2, generator=rng_for("judge", prefix, seed))
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


def trainings(seeds: Sequence[int], accelerator: Any) -> Iterator[Row]:
    """Of each regime and seed: the first alarm and the true distance of what the rule chose, over
    that of the best evaluation in hindsight; likewise of the last one."""
    number = 0
    for seed in seeds:
        for place, regime in enumerate(REGIMES.values()):
            rows = history(regime, seed, accelerator)
            entries, raised = evaluations(rows), first_raised(rows, Alarms())
            true = {entry["step"]: entry[f"true_{distance_name(entries)}"] for entry in entries}
            chosen, best = best_step(rows) or entries[-1]["step"], min(true.values())
            yield {
                "step": (number := number + 1),
                "regime": place,
                "fails": float(regime.fails),
                "first_alarm": float(min(raised.values(), default=0)),
                "rule_over_best": true[chosen] / best,
                "last_over_best": true[entries[-1]["step"]] / best,
                "modes": entries[-1]["true_modes"],
                **{f"first_{kind}": float(evaluation) for kind, evaluation in raised.items()},
            }


def figures_of_trainings(rows: Sequence[Row]) -> dict[str, float]:
    """Of each regime how many runs, how many with an alarm, when at the latest, and medians."""
    from statistics import median

    figures: dict[str, float] = {}
    for place, name in enumerate(REGIMES):
        runs = [row for row in rows if row["regime"] == place]
        raised = [row["first_alarm"] for row in runs if row["first_alarm"]]
        label = name.replace(":", "_to_").replace(" ", "_")
        if not runs:
            continue
        figures |= {f"{label}/runs": len(runs), f"{label}/with_an_alarm": len(raised)}
        figures[f"{label}/latest_first_alarm"] = max(raised, default=0)
        for key in ("rule_over_best", "last_over_best", "modes"):
            figures[f"{label}/{key}"] = median(row[key] for row in runs)
    return figures
