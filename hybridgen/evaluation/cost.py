"""What a sample costs as measured: operations, seconds and memory, of any way to make it."""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, cast

import numpy as np
import torch
from scipy.stats import bootstrap, quantile_test
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hybridgen.evaluation.results import SamplingCost
from hybridgen.metrics.intervals import Estimate
from hybridgen.protocols import Cost


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations allocate, from their birth to their death.

    Weights, noise and other storages that exist before do not count, nor do views of them. What an
    operation needs within itself is not counted, so a process takes more.

    Attributes:
        current: bytes alive now.
        peak: the most there were at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.current, self.peak = 0, 0
        self._alive: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        for storage in _storages((args, kwargs)):
            self._follow(storage, 0)  # an input that is new to us existed before: it counts nothing
        out = func(*args, **kwargs)
        for storage in _storages(out):
            self._follow(storage, storage.nbytes())
        return out

    def _follow(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key in self._alive:
            return

        def died(_: Any) -> None:
            self._alive.pop(key, None)
            self.current -= size

        self._alive[key] = weakref.ref(storage, died)
        self.current += size
        self.peak = max(self.peak, self.current)


@contextmanager
def peak_bytes(device: torch.device | str) -> Iterator[list[int]]:
    """A list that holds, afterwards, the most bytes that tensors made inside took at once.

    On the CPU they are followed one by one; on CUDA its allocator says. Either way weights, inputs
    and whatever else exists before do not count.
    """
    peak: list[int] = []
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with LiveBytes() as live:
        yield peak
    peak.append(live.peak)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()


Clock = Callable[[], float]
Rounds = Mapping[str, list[float]]


def clock_for(device: torch.device, threads: int) -> Clock:
    """The clock, in seconds, by which a computation is timed.

    On one thread of the CPU it is the CPU time of this process, which leaves out the turns of other
    programs. With more threads CPU time adds up what runs at once, and beside an accelerator it
    misses what that does: there it is the wall's clock, read when the device is idle, and the
    machine should be quiet.
    """

    def wall() -> float:
        if device.type != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter()

    return time.process_time if device.type == "cpu" and threads == 1 else wall


def interleaved_timings(
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
    turns = dict.fromkeys(names, repeats) if isinstance(repeats, int) else repeats
    most = max(turns.values())
    for number in range(most + 1):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            # A task with few turns has one whenever its share of all rounds grows by a whole turn.
            if number * turns[name] // most == (number - 1) * turns[name] // most:
                continue
            begun = clock()
            tasks[name]()
            rounds[name].append(clock() - begun)
        after()
    return {name: seconds[1:] for name, seconds in rounds.items()}


def median_interval(seconds: list[float]) -> tuple[float, float, float]:
    """The median and its 95 % interval, from the order of independent rounds.

    That of the sign test, which assumes no shape of the distribution. Below six rounds even the
    least and the greatest cover only `1 - 2^(1 - n)`; they are given then.
    Source: Thompson 1936, the sign test's interval.

    Raises:
        ValueError: no rounds.
    """
    if not seconds:
        raise ValueError("a median needs at least one round, got none")
    if len(seconds) < 6:
        return median(seconds), min(seconds), max(seconds)
    ends = quantile_test(seconds, p=0.5).confidence_interval(0.95)
    return median(seconds), float(ends.low), float(ends.high)


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
    ends = bootstrap(
        (over, under),
        lambda a, b, axis: np.median(a, axis=axis) / np.median(b, axis=axis),
        paired=True,
        n_resamples=draws,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return median(over) / median(under), float(ends.low), float(ends.high)


_ATEN = torch.ops.aten
_ATTENTION: dict[Any, Any] = {  # the CPU's fused kernel, which torch does not count
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}
Sampling = Callable[..., Tensor]
ROUNDS = 9
FEWEST = 3


def sampling_costs(
    samplers: Mapping[str, Sampling],
    noise: Mapping[str, Tensor],
    label: Mapping[str, Tensor | None] | None = None,
    *,
    rounds: int = ROUNDS,
    limit: float = 5.0,
    clock: Clock | None = None,
) -> dict[str, SamplingCost]:
    """What one sample of each sampler costs, in batches of one size.

    Each makes one batch whose operations and bytes are counted, one that warms up, and then as many
    timed ones as fit into `limit` seconds, at least three and at most `rounds`, in turns with the
    others: whatever slows the machine for a while meets all of them.

    Operations are those of one batch over its size; a refined sampler's depend on what was accepted
    in it. Bytes are of tensors that the sampler makes: weights and noise do not count.

    Args:
        samplers: name -> `(noise [b ...]) -> samples [b ...]`, or `(noise, label [b])` where labels
            are given; the calls of one with a `cost`, like every `hybridgen.protocols.Sampler`, are
            known.
        noise: name -> one batch of noise, of the same number of samples for all.
        label: name -> labels; none for a name that is missing.
        rounds: timed batches at most.
        limit: seconds that the timed batches of one sampler may take, unless three take longer.
        clock: that of `clock_for` if not given.

    Raises:
        ValueError: noise is missing or of different sizes, or a sampler makes another number of
            samples than it got noise.
    """
    batch, device = _checked(samplers, noise)
    if rounds < FEWEST or not limit > 0:
        raise ValueError(f"need rounds >= {FEWEST} and limit > 0, got {rounds=}, {limit=}")
    clock = clock or clock_for(device, torch.get_num_threads())
    tasks = {
        name: partial(_sampled, name, sampler, noise[name], (label or {}).get(name))
        for name, sampler in samplers.items()
    }
    counts, repeats = {}, {}
    for name, task in tasks.items():
        begun = clock()
        counts[name] = flops_and_bytes(task, device)
        repeats[name] = max(FEWEST, min(rounds, int(limit / max(clock() - begun, 1e-9))))
    seconds = seconds_per_sample(tasks, samples=batch, rounds=repeats, clock=clock)
    return {
        name: SamplingCost(
            calls=_calls(sampler),
            flops=counts[name][0] / batch,
            seconds=seconds[name],
            peak_bytes=counts[name][1],
            batch=batch,
        )
        for name, sampler in samplers.items()
    }


def sampling_cost(
    sampler: Sampling,
    noise: Tensor,
    label: Tensor | None = None,
    *,
    rounds: int = ROUNDS,
    limit: float = 5.0,
    clock: Clock | None = None,
) -> SamplingCost:
    """What one sample of one sampler costs; see `sampling_costs`."""
    name = "the sampler"
    costs = sampling_costs(
        {name: sampler}, {name: noise}, {name: label}, rounds=rounds, limit=limit, clock=clock
    )
    return costs[name]


def flops_and_bytes(
    task: Callable[[], object], device: torch.device | str = "cpu"
) -> tuple[int, int]:
    """Floating-point operations of a task, and the most bytes that tensors made by it take at once.

    Operations are those of matrix products, convolutions and attention, forward and backward; a
    multiplication and an addition are two.
    """
    flops = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    # torch finds the module of an operation by hooks that forbid `torch.autograd.grad`.
    flops.mod_tracker = cast(Any, _NoModules())
    with flops, peak_bytes(device) as peak:
        task()
    return flops.get_total_flops(), peak[0]


def seconds_per_sample(
    tasks: Mapping[str, Callable[[], object]],
    *,
    samples: int,
    rounds: int | Mapping[str, int],
    clock: Clock,
) -> dict[str, Estimate]:
    """Seconds per sample of tasks that make `samples` each: the median over rounds, in turns."""
    estimates = {}
    for name, seconds in interleaved_timings(tasks, rounds, clock).items():
        value, low, high = (s / samples for s in median_interval(seconds))
        estimates[name] = Estimate(value=value, low=low, high=high)
    return estimates


class _NoModules:
    """Stands for torch's tracker of modules: every operation belongs to the whole."""

    parents = frozenset({"Global"})

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def _checked(
    samplers: Mapping[str, Sampling], noise: Mapping[str, Tensor]
) -> tuple[int, torch.device]:
    if not samplers:
        raise ValueError("there is no sampler whose cost could be measured")
    missing = [name for name in samplers if name not in noise]
    if missing:
        raise ValueError(f"no noise is given for {missing[0]!r}; give one batch for each sampler")
    sizes = {len(noise[name]) for name in samplers}
    if len(sizes) > 1 or 0 in sizes:
        raise ValueError(
            f"samplers are compared at one batch size, got noise of {sorted(sizes)} samples"
        )
    return sizes.pop(), noise[next(iter(samplers))].device


def _sampled(name: str, sampler: Sampling, noise: Tensor, label: Tensor | None) -> Tensor:
    with torch.no_grad():
        x = sampler(noise) if label is None else sampler(noise, label)
    if len(x) != len(noise):
        raise ValueError(f"{name} made {len(x)} samples of noise for {len(noise)}")
    return x


def _calls(sampler: Sampling) -> Cost | None:
    cost = getattr(sampler, "cost", None)
    return cost if isinstance(cost, Cost) else None
