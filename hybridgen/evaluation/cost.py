"""What a sample costs as measured: operations, seconds and memory, of any way to make it."""

import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from scipy.stats import binom
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hybridgen.evaluation.results import SamplingCost
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.intervals import Estimate
from hybridgen.protocols import Cost


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations allocate, from their birth to their death.

    What was there before, such as weights and noise, does not count, nor does a view of it. What an
    operation needs within itself is not seen, so this is less than a process takes.

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
            self._follow(storage, 0)
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

    On the CPU they are followed one by one; on CUDA its allocator is asked. Either way weights,
    inputs and whatever else is there before do not count.
    """
    found: list[int] = []
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield found
        torch.cuda.synchronize(device)
        found.append(torch.cuda.max_memory_allocated(device) - before)
        return
    with LiveBytes() as live:
        yield found
    found.append(live.peak)


def _storages(tree: Any) -> Iterator[torch.UntypedStorage]:
    for leaf in tree_leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.layout == torch.strided:
            yield leaf.untyped_storage()


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


def expenses(
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
            are given; one with a `cost`, like every `hybridgen.protocols.Sampler`, tells its calls.
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
    counted, repeats = {}, {}
    for name, task in tasks.items():
        begun = clock()
        counted[name] = counts(task, device)
        repeats[name] = max(FEWEST, min(rounds, int(limit / max(clock() - begun, 1e-9))))
    seconds = alternated(tasks, samples=batch, rounds=repeats, clock=clock)
    return {
        name: SamplingCost(
            calls=_told(sampler),
            flops=counted[name][0] / batch,
            seconds=seconds[name],
            peak_bytes=counted[name][1],
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
    """What one sample of one sampler costs; see `expenses`."""
    name = "the sampler"
    given = ({name: sampler}, {name: noise}, {name: label})
    return expenses(*given, rounds=rounds, limit=limit, clock=clock)[name]


def counts(task: Callable[[], object], device: torch.device | str = "cpu") -> tuple[int, int]:
    """Floating-point operations of a task, and the most bytes that tensors made by it take at once.

    Operations are those of matrix products, convolutions and attention, forward and backward; a
    multiplication and an addition are two.
    """
    flops = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    # Which module an operation belongs to is told by hooks that forbid `torch.autograd.grad`.
    flops.mod_tracker = cast(Any, _NoModules())
    with flops, peak_bytes(device) as peak:
        task()
    return flops.get_total_flops(), peak[0]


def alternated(
    tasks: Mapping[str, Callable[[], object]],
    *,
    samples: int,
    rounds: int | Mapping[str, int],
    clock: Clock,
) -> dict[str, Estimate]:
    """Seconds per sample of tasks that make `samples` each: the median over rounds, in turns."""
    found = {}
    for name, seconds in interleaved_timings(tasks, rounds, clock).items():
        value, low, high = (s / samples for s in median_interval(seconds))
        found[name] = Estimate(value=value, low=low, high=high)
    return found


class _NoModules:
    """In the place of torch's tracker of modules: everything belongs to the whole."""

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


def _told(sampler: Sampling) -> Cost | None:
    cost = getattr(sampler, "cost", None)
    return cost if isinstance(cost, Cost) else None
