"""Comparing speeds on a machine that may be doing other things."""

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch
from scipy.stats import binom

from hybridgen.maths.draws import rng_for

Clock = Callable[[], float]
Rounds = Mapping[str, list[float]]


def clock_for(device: torch.device, threads: int) -> Clock:
    """The clock, in seconds, that tells what a computation costs.

    On one thread of the CPU it is the CPU time of this process: one thread either computes or
    waits for other programs, and their turns are no cost of ours. With more threads CPU time adds
    up what runs at once, and beside an accelerator it counts waiting or misses it: there it is
    the wall's clock, read when the device is idle, and the machine should be quiet.
    """

    def wall() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    return time.process_time if device.type == "cpu" and threads == 1 else wall


def take_turns(
    tasks: Mapping[str, Callable[[], object]],
    repeats: int | Mapping[str, int],
    clock: Clock,
    after: Callable[[], object] = lambda: None,
) -> Rounds:
    """Seconds of each task in each of `repeats` rounds; a first round is not counted.

    The order rotates, so that no task always follows the same one, and whatever slows the machine
    for a while meets all of them.

    Args:
        repeats: of all tasks, or of each; those with fewer sit rounds out, evenly spread.
        after: called after each round, for a progress bar.
    """
    names, rounds = list(tasks), {name: [] for name in tasks}
    wanted = dict.fromkeys(names, repeats) if isinstance(repeats, int) else repeats
    most = max(wanted.values())
    for number in range(most + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            # As many turns up to this round as its share of them says; the first counts for none.
            due = number * wanted[name] // most - max(0, number - 1) * wanted[name] // most
            if number > 0 and not due:
                continue
            begun = clock()
            tasks[name]()
            rounds[name].append(clock() - begun)
        after()
    return {name: seconds[1:] for name, seconds in rounds.items()}


def median_interval(seconds: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from the order of independent rounds.

    The median lies above the k-th of n rounds from either end unless fewer than k of them fall on
    that side of it, which is Binomial(n, 1/2): no shape of the distribution is assumed. Below six
    rounds even the least and the greatest cover only `1 - 2^(1 - n)`; they are given then.
    Source: Thompson 1936, the sign test's interval.

    Raises:
        ValueError: no rounds.
    """
    if not seconds:
        raise ValueError("a median needs at least one round, got none")
    ordered = sorted(seconds)
    k = max(0, int(binom.ppf(0.025, len(ordered), 0.5)) - 1)
    return median(ordered), ordered[k], ordered[-1 - k]


def ratio_of_medians(
    over: list[float], under: list[float], *, draws: int = 2_000, seed: int = 0
) -> tuple[float, float, float]:
    """`median(over) / median(under)` and its 95 % interval, from drawing whole rounds again.

    Source: the bootstrap's percentile interval, Efron & Tibshirani 1993, chapter 13.

    Raises:
        ValueError: no rounds, or not the same ones.
    """
    if not over or len(over) != len(under):
        raise ValueError(f"expected times of the same rounds, got {len(over)} and {len(under)}")
    pairs = torch.tensor([over, under], dtype=torch.float64)
    rows = torch.randint(len(over), (draws, len(over)), generator=rng_for("bootstrap", seed))
    above, below = pairs[:, rows].quantile(0.5, dim=-1)
    low, high = (above / below).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return median(over) / median(under), low, high
