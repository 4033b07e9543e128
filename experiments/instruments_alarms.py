"""How often the alarms are right and what the stopping rule chooses: `--what alarms` and `rule`.

A ring of eight is trained in ways that are known to work and to fail. After every evaluation the
alarms read the log so far; the averaged model is measured a second time on other and more samples,
which neither the alarms nor the rule see.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hybridgen.evaluation.alarms import alarms, best_step, distance_name, evaluations
from hybridgen.evaluation.settings import Alarms
from hybridgen.files import write_atomically


@dataclass(frozen=True, kw_only=True)
class Regime:
    """A game and how often either network moves in a round.

    Attributes:
        fails: whether its samples are known to miss modes.
    """

    objective: str = "relativistic"
    penalty: tuple[float, float] = (0.1, 0.02)
    discriminator: int = 1
    generator: int = 1
    rounds: int = 600
    fails: bool = False


_OLD = {"objective": "non_saturating", "penalty": (0.0, 0.0)}
REGIMES = {
    "1:1": Regime(),
    "1:1 without penalties": Regime(**_OLD),
    "15:1 without penalties": Regime(discriminator=15, rounds=100, fails=True, **_OLD),
    "1:15 without penalties": Regime(generator=15, rounds=100, fails=True, **_OLD),
    "1:15": Regime(generator=15, rounds=100, fails=True),
}


def history(regime: Regime, seed: int, *, count: int = 10, batch: int = 128) -> list[dict]:
    """Rows as in `log.jsonl` of a small training with `count` evaluations of 1 000 samples, with
    figures of 10 000 other samples, called `true_...`, among them."""
    import torch

    from hybridgen import AdversarialLoss
    from hybridgen.data.points import MixturePoints
    from hybridgen.evaluation.evaluator import build_evaluator
    from hybridgen.maths.mixtures import ring
    from hybridgen.maths.objectives import objective
    from hybridgen.maths.rng import rng_for
    from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
    from hybridgen.training.optim import EMA, schedule
    from hybridgen.training.settings import Cosine

    torch.manual_seed(seed)
    source, draws = MixturePoints(mixture=ring(), name="ring"), rng_for("protocol", seed)
    generator = MlpGenerator(latent=2, width=48, depth=3)
    adversarial = AdversarialLoss(MlpDiscriminator(width=48, depth=3), objective(regime.objective))
    average = EMA(generator, 50_000.0)
    optimizers = [torch.optim.Adam(m.parameters(), fused=True) for m in (generator, adversarial)]
    evaluators = {
        prefix: build_evaluator(source, samples=samples, seed=number, intervals=False)
        for number, (prefix, samples) in enumerate({"": 1_000, "true_": 10_000}.items())
    }
    rate, penalty = (
        Cosine(start=1e-3, end=2e-5),
        Cosine(start=regime.penalty[0], end=regime.penalty[1]),
    )
    rows: list[dict] = []

    def batches() -> Iterator[Any]:
        while True:
            real = source.mixture.sample(batch, draws)[0].float()
            yield real, generator(torch.randn(batch, 2, generator=draws))

    pairs = batches()
    for number in range(1, regime.rounds + 1):
        progress = (number - 1) / regime.rounds
        for optimizer in optimizers:
            schedule(optimizer, rate(progress), (0.0, 0.99))
        adversarial.r1 = adversarial.r2 = penalty(progress)
        losses, loss = {}, torch.zeros(())
        for _ in range(regime.discriminator):
            real, fake = next(pairs)
            losses = adversarial(real=real, fake=fake.detach())
            optimizers[1].zero_grad()
            losses["total"].backward()
            optimizers[1].step()
        for _ in range(regime.generator):
            real, fake = next(pairs)
            loss = adversarial.generator_loss(real=real, fake=fake)
            optimizers[0].zero_grad()
            loss.backward()
            optimizers[0].step()
        average.update(seen=number * batch, images=batch)
        if number % 10 == 0:
            values = {k: float(v.detach()) for k, v in losses.items() if k != "total"}
            rows.append({"step": number, "generator": float(loss.detach()), **values})
        if number % (regime.rounds // count) == 0:
            row: dict[str, Any] = {"step": number}
            for prefix, evaluator in evaluators.items():
                noise = torch.randn(evaluator.samples, 2, generator=rng_for("judge", prefix, seed))
                with torch.no_grad():
                    features = evaluator.extractor.extract(average.module(noise, None))
                figures = evaluator.values(features)
                row |= {
                    f"{prefix}{k}": v for k, v in figures.items() if not prefix or "floor" not in k
                }
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


def choice(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """True distances of the rule's evaluation, of the last and of the best in hindsight."""
    entries = evaluations(rows)
    name = f"true_{distance_name(entries)}"
    true = {entry["step"]: entry[name] for entry in entries}
    return {
        "rule": true[best_step(rows) or entries[-1]["step"]],
        "last": entries[-1][name],
        "best": min(true.values()),
    }


def protocol(out: Path, seeds: Sequence[int], settings: Alarms | None = None) -> dict[str, Any]:
    """Train every regime with every seed; counts of runs with an alarm and what the rule chose.

    Writes `alarms.json`. A run that is there already is not trained again.
    """
    result: dict[str, Any] = {}
    out.mkdir(parents=True, exist_ok=True)
    for name, regime in REGIMES.items():
        runs = []
        for seed in seeds:
            path = out / f"{name.replace(':', '-').replace(' ', '-')}-seed{seed}.json"
            if not path.exists():
                write_atomically(path, json.dumps(history(regime, seed)))
            rows = json.loads(path.read_text())
            runs.append(
                {"seed": seed, "first": first_raised(rows, settings or Alarms()), **choice(rows)}
            )
            print(name, runs[-1], flush=True)
        raised = [min(run["first"].values()) for run in runs if run["first"]]
        ratios = sorted(run["rule"] / run["best"] for run in runs if math.isfinite(run["rule"]))
        result[name] = {
            "runs": len(runs),
            "fails": regime.fails,
            "with an alarm": len(raised),
            "latest first alarm": max(raised, default=None),
            "rule over best, median": ratios[len(ratios) // 2] if ratios else None,
            "detail": runs,
        }
    write_atomically(out / "alarms.json", json.dumps(result, indent=1))
    return result
