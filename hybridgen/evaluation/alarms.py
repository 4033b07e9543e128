"""What the log of a training says about it: alarms, the best evaluation, and when to end.

Losses of two players oscillate and tell nothing, so all of this reads the evaluations along the
way, on data that was held out, and takes the losses between them as one fact more. Everything is a
pure function of the rows of `log.jsonl`: a run that is resumed comes to what it would have come to.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

from hybridgen.evaluation.settings import Alarms, Stopping

Rows = Sequence[Mapping[str, Any]]
DISTANCES = ("frechet_distance", "sliced_wasserstein", "l1")
"""Of images, of points and of reconstructions, to what was held out; the first that there is."""
ADVICE = {
    "collapse": "raise r1 and r2, take the relativistic objective, or let the discriminator move "
    "as often as the generator",
    "hopping": "let the discriminator move as often as the generator, or lower the learning rate",
    "divergence": "lower the learning rate, raise r1 and r2, or use full precision",
    "overfitting": "augment (augment.adaptive true), raise r1, or take a smaller discriminator",
    "stuck": "raise r1 and r2, let the discriminator move less often, or raise the learning rate",
}
"""What usually helps against each kind of alarm."""
_TWICE = 2
"""Evaluations in a row that must agree: one alone may be noise."""
_CERTAIN, _PROGRESS, _POOR = 0.9, 0.9, 3.0
_SPREAD, _NEW, _NARROW = 0.2, 3.0, 0.75


@dataclass(frozen=True)
class Alarm:
    """Something that goes wrong: one of `ADVICE`, since which step, and a sentence for a person."""

    kind: str
    since: int
    sentence: str


Check = Callable[[Rows, Alarms], Alarm | None]
"""From evaluations, as `evaluations` returns them, to what the last one has wrong with it."""


def evaluations(rows: Rows) -> list[dict[str, Any]]:
    """One entry an evaluation: its row, and as `losses` the medians of the other numbers that were
    logged since the one before. A null, of a number that was not finite, makes them infinite."""
    entries, since = [], {}
    for row in rows:
        numbers = {k: _number(v) for k, v in row.items() if not isinstance(v, str)}
        if any(name.startswith("floor_") for name in row):  # which no other row has
            losses = {k: math.inf if math.inf in v else median(v) for k, v in since.items()}
            entries.append({**row, **numbers, "step": row["step"], "losses": losses})
            since = {}
            continue
        for name, value in numbers.items():
            since.setdefault(name, []).append(value)
    return entries


def _number(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else math.inf


def alarms(rows: Rows, settings: Alarms) -> list[Alarm]:
    """What goes wrong at the last evaluation in the log."""
    history = evaluations(rows)
    checks: Sequence[Check] = (collapse, hopping, divergence, overfitting, stuck)
    return [alarm for check in checks if history and (alarm := check(history, settings))]


def first_alarms(rows: Rows) -> dict[str, int]:
    """The step of the first evaluation at which each kind was logged."""
    steps: dict[str, int] = {}
    for row in rows:
        for kind in ADVICE:
            if row.get(f"alarm_{kind}") == 1:
                steps.setdefault(f"alarm_{kind}", row["step"])
    return steps


def shares_of(entry: Mapping[str, Any]) -> list[float]:
    """The shares of its samples over modes or classes; none if the evaluation knows neither."""
    return [float(share) for share in str(entry.get("shares", "")).split()]


def effective_number(shares: Iterable[float]) -> float:
    """`exp(- sum_i p_i log p_i)`: k for k equal shares, 1 if one has everything."""
    return math.exp(-sum(p * math.log(p) for p in shares if p > 0))


def shift(one: Sequence[float], other: Sequence[float]) -> float:
    """Total variation between two histograms of as many shares, `sum_i |p_i - q_i| / 2`."""
    return sum(abs(p - q) for p, q in zip(one, other, strict=True)) / 2


def changes(rows: Rows) -> dict[str, float]:
    """`mode_shift`, how far the shares of the last evaluation are from those of the one before."""
    *_, one, other = [[], [], *map(shares_of, evaluations(rows))]
    return {"mode_shift": shift(one, other)} if one and other else {}


def collapse(history: Rows, settings: Alarms) -> Alarm | None:
    """Diversity below a fraction of its own best, or of real samples', at two evaluations.

    Diversity is the effective number of modes or classes, coverage and recall. The last two are
    compared with their own best alone: they are low wherever samples are merely poor.
    """
    if all(shares_of(entry) for entry in history):
        numbers = [effective_number(shares_of(entry)) for entry in history]
        floors = [_first(entry, "floor_class_reverse_kl", "floor_reverse_kl") for entry in history]
        count = len(shares_of(history[-1]))
        least = [settings.collapse * count * math.exp(-(floor or 0)) for floor in floors]
        kept = [settings.collapse * best for best in accumulate(numbers, max)]
        low = [
            number < kept[i] or (i >= settings.patience - 1 and number < least[i])
            for i, number in enumerate(numbers)
        ]
        if (since := _since(history, low)) is not None:
            text = f"samples are spread as over {numbers[-1]:.1f} of {count} modes or classes"
            best = max(numbers)
            return _alarm("collapse", since, f"{text} (at best over {best:.1f})")
    for name in ("coverage", "recall"):
        values = [entry.get(name, 0.0) for entry in history]
        bests = list(accumulate(values, max))
        low = [v < settings.collapse * best for v, best in zip(values, bests, strict=True)]
        if (since := _since(history, low)) is not None:
            text = f"{name} fell to {values[-1]:.2f} from {bests[-1]:.2f}"
            return _alarm("collapse", since, text)
    return None


def hopping(history: Rows, settings: Alarms) -> Alarm | None:
    """Samples change their modes or classes from one evaluation to the next, twice in a row, and
    are not spread over all of them meanwhile: one odd evaluation is a change there and back. A
    young training may."""
    shares = [shares_of(entry) for entry in history]
    if not all(shares):
        return None
    shifts = [0.0, *(shift(one, other) for one, other in pairwise(shares))]
    narrow = [effective_number(each) < _NARROW * len(each) for each in shares]
    moved = [s > settings.hopping and n for s, n in zip(shifts, narrow, strict=True)]
    moved[: settings.patience] = [False] * min(settings.patience, len(moved))
    if (since := _since(history, moved)) is None:
        return None
    text = f"{shifts[-1]:.0%} of the samples changed their mode or class since the last evaluation"
    return _alarm("hopping", since, text)


def divergence(history: Rows, settings: Alarms) -> Alarm | None:
    """A distance or a loss that is not finite; a gap of logits that is too wide, or a loss or
    penalty far from its earlier values, at two evaluations.

    Far is measured in the median deviation from the earlier median, or a fifth of that if it is
    more: losses that hardly moved are not alarming because they move. And it is three times as much
    as ever before, for penalties grow in every training that comes to something.
    """
    losses, name = history[-1]["losses"], distance_name(history)
    infinite = [n for n, value in losses.items() if value == math.inf]
    if infinite or history[-1].get(name) == math.inf:
        text = f"{(*infinite, name)[0]} is not finite"
        return _alarm("divergence", history[-1]["step"], text)
    gaps = [_loss(entry, "logit_real") - _loss(entry, "logit_fake") for entry in history]
    # A Wasserstein game's logits have the data's units, and may begin as far apart.
    widest = max(settings.logit_gap, _NEW * abs(gaps[0]) if math.isfinite(gaps[0]) else 0.0)
    if (since := _since(history, [abs(gap) > widest for gap in gaps])) is not None:
        text = f"logits of real and generated samples are {gaps[-1]:.3g} apart"
        return _alarm("divergence", since, text)
    for name in (name for name in losses if name not in _NO_LOSSES):
        values, far, usual = [_loss(entry, name) for entry in history], [], math.nan
        for i, value in enumerate(values):
            # Not the last one: of two in a row both are compared with what was usual before them.
            # A quantity that is not there yet, or has no weight, is not usual.
            past = [v for v in values[: max(i - 1, 0)] if math.isfinite(v) and v != 0]
            enough = len(past) >= max(settings.patience - 1, 1)
            usual = median(past) if enough else math.nan
            spread = 1.4826 * median(abs(v - usual) for v in past) if past else math.nan
            least = max(spread, _SPREAD * abs(usual))
            new = abs(value) > _NEW * max(map(abs, past), default=math.inf)
            far.append(new and abs(value - usual) > settings.divergence * least)
        if (since := _since(history, far)) is not None:
            text = f"{name} is {values[-1]:.3g} and used to be {usual:.3g}"
            return _alarm("divergence", since, text)
    return None


_NO_LOSSES = {"step", "logit_real", "logit_fake", "sign_accuracy", "depth"}


def _loss(entry: Mapping[str, Any], name: str) -> float:
    return entry["losses"].get(name, math.nan)


def overfitting(history: Rows, settings: Alarms) -> Alarm | None:
    """The discriminator knows training examples from held-out ones, at two evaluations."""
    values = [entry.get("overfit_rank", 0.5) for entry in history]
    since = _since(history, [value > settings.overfitting for value in values])
    if since is None:
        return None
    text = (
        f"the discriminator rates {values[-1]:.0%} of training examples above held-out ones, where "
        "50% is right"
    )
    return _alarm("overfitting", since, text)


def stuck(history: Rows, settings: Alarms) -> Alarm | None:
    """A poor distance that is not a tenth better than at the first evaluation; or, while the
    discriminator tells samples apart without fail, than at any before. Poor is more than three
    times that of real samples."""
    name = distance_name(history)
    values, floor = (
        [entry.get(name, math.inf) for entry in history],
        history[-1].get(f"floor_{name}"),
    )
    patience, poor = settings.patience, floor is not None and values[-1] > _POOR * floor > 0
    if len(values) <= patience or not poor:
        return None
    recent, before = values[-patience:], values[:-patience]
    certain = all(_loss(entry, "sign_accuracy") > _CERTAIN for entry in history[-patience:])
    start = min(before) if certain else values[0]
    if min(recent) < _PROGRESS * start:
        return None
    always = "and the discriminator always tells samples apart, " if certain else ""
    step = history[values.index(start)]["step"]
    text = f"{name} is {values[-1]:.3g}, {always}and was {start:.3g} at step {step}"
    return _alarm("stuck", history[-patience]["step"], text.replace(", and", " and"))


def distance_name(history: Rows) -> str:
    """The figure by which evaluations are compared; empty if they have none."""
    return next((n for n in DISTANCES if history and n in history[-1]), "")


def best_step(rows: Rows) -> int | None:
    """The step of the evaluation with the least distance, the first of equal ones."""
    history = evaluations(rows)
    name = distance_name(history)
    finite = [e for e in history if math.isfinite(e.get(name, math.inf))]
    return min(finite, key=lambda entry: entry[name])["step"] if finite else None


def ending(rows: Rows, settings: Alarms, stopping: Stopping) -> str:
    """Why the run should end with the last evaluation, in a sentence; empty if it should not."""
    history = evaluations(rows)
    if settings.enabled and settings.stop and (raised := alarms(rows, settings)):
        return f"an alarm ends the run (alarms.stop true): {raised[0].sentence}"
    best = best_step(rows)
    steps = [entry["step"] for entry in history]
    if (
        stopping.patience is None
        or best is None
        or steps.index(best) + stopping.patience >= len(steps)
    ):
        return ""
    return (
        f"the {stopping.patience} evaluations since step {best} were no better, which ends the run "
        f"(stopping.patience {stopping.patience})"
    )


def _since(history: Rows, holds: Sequence[bool]) -> int | None:
    """The first step of the evaluations up to the last at which it holds, if they are two."""
    count = next((i for i, each in enumerate(reversed(holds)) if not each), len(holds))
    return history[-count]["step"] if count >= _TWICE else None


def _first(entry: Mapping[str, Any], *names: str) -> float | None:
    return next((entry[name] for name in names if name in entry), None)


def _alarm(kind: str, since: int, text: str) -> Alarm:
    helps = f"what usually helps: {ADVICE[kind]}"
    return Alarm(kind, since, f"{kind} since step {since}: {text}; {helps}")
