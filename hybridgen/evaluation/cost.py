"""What a sample costs as measured: operations, seconds and memory, of any way to make it."""

import math
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from statistics import median
from typing import Any, cast

import torch
from scipy.stats import quantile_test
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hybridgen.evaluation.results import SamplingCost
from hybridgen.metrics.intervals import Estimate
from hybridgen.protocols import Cost


class AllocatedBytes(TorchDispatchMode):
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

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._follow((args, kwargs), new=False)
        out = func(*args, **kwargs)
        self._follow(out, new=True)
        return out

    def _follow(self, tree: Any, *, new: bool) -> None:
        """Count storages until they die; an input that is not known yet existed before."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Tensor) and leaf.layout == torch.strided:
                storage = leaf.untyped_storage()
                if (key := storage._cdata) not in self._alive:
                    size = storage.nbytes() if new else 0
                    self._alive[key] = weakref.ref(storage, partial(self._forget, key, size))
                    self.current += size
        self.peak = max(self.peak, self.current)

    def _forget(self, key: int, size: int, _: object) -> None:
        del self._alive[key]
        self.current -= size


def peak_bytes(task: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """The most bytes that tensors made by a task take at once.

    On the CPU they are followed one by one; on CUDA its allocator says. Either way weights, inputs
    and whatever else exists before do not count.
    """
    if torch.device(device).type != "cuda":
        with AllocatedBytes() as live:
            task()
        return live.peak
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    task()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


Clock = Callable[[], float]


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
) -> dict[str, list[float]]:
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

    That of the sign test (Thompson 1936), which assumes no shape of the distribution. Below six
    rounds even the least and the greatest cover only `1 - 2^(1 - n)`; they are given then.

    Raises:
        ValueError: no rounds.
    """
    if not seconds:
        raise ValueError("a median needs at least one round, got none")
    if len(seconds) < 6:
        return median(seconds), min(seconds), max(seconds)
    ends = quantile_test(seconds, p=0.5).confidence_interval(0.95)
    return median(seconds), float(ends.low), float(ends.high)


_ATEN = torch.ops.aten
_ATTENTION: dict[Any, Any] = {  # the CPU's fused kernel, which torch does not count
    _ATEN._scaled_dot_product_flash_attention_for_cpu: (
        lambda q, k, v, *_, out_shape=None, **__: sdpa_flop_count(q, k, v)
    ),
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: (
        lambda grad, q, k, v, *_, out_shape=None, **__: sdpa_backward_flop_count(grad, q, k, v)
    ),
}


class _NoModules(nullcontext[None]):
    """In the place of torch's tracker of modules, whose hooks forbid `torch.autograd.grad`."""

    parents = frozenset({"Global"})


def flops_and_bytes(
    task: Callable[[], object], device: torch.device | str = "cpu"
) -> tuple[int, int]:
    """Floating-point operations of a task, and its `peak_bytes`.

    Operations are those of matrix products, convolutions and attention, forward and backward; a
    multiplication and an addition are two.
    """
    flops = FlopCounterMode(display=False, custom_mapping=_ATTENTION)
    flops.mod_tracker = cast(Any, _NoModules())
    with flops:
        peak = peak_bytes(task, device)
    return flops.get_total_flops(), peak


Sampling = Callable[..., Tensor]
ROUNDS, FEWEST = 9, 3
LIMIT = 5.0
"""Seconds that the timed batches of one sampler may take, unless the fewest take longer."""


def sampling_costs(
    samplers: Mapping[str, tuple[Sampling, tuple[Tensor, ...]]],
    *,
    rounds: int = ROUNDS,
    clock: Clock | None = None,
) -> dict[str, SamplingCost]:
    """What one sample of each sampler costs, in batches of one size.

    Each makes one batch whose operations and bytes are counted, one that warms up, and then as many
    timed ones as fit into five seconds, at least three and at most `rounds`, in turns with the
    others. Operations are those of one batch over its size; a refined sampler's depend on what was
    accepted in it.

    Args:
        samplers: name -> `(noise [b ...]) -> samples [b ...]`, or `(noise, label [b])`, and one
            batch of what it takes, of one size for all; the calls of a sampler with a `cost`, like
            every `hybridgen.protocols.Sampler`, are known.
        clock: that of `clock_for` if not given.

    Raises:
        ValueError: noise of different sizes, or a sampler makes another number of samples than it
            got noise.
    """
    if not samplers:
        raise ValueError("there is no sampler whose cost could be measured")
    noise = [inputs[0] for _, inputs in samplers.values()]
    batch, device = len(noise[0]), noise[0].device
    if batch == 0 or any(len(x) != batch for x in noise):
        sizes = sorted({len(x) for x in noise})
        raise ValueError(f"samplers are compared at one batch size, got noise of {sizes} samples")
    if rounds < FEWEST:
        raise ValueError(f"need rounds >= {FEWEST}, got {rounds=}")
    clock = clock or clock_for(device, torch.get_num_threads())
    tasks = {name: partial(_sample, name, *task) for name, task in samplers.items()}
    counts, repeats = {}, {}
    for name, task in tasks.items():
        begun = clock()
        counts[name] = flops_and_bytes(task, device)
        repeats[name] = max(FEWEST, min(rounds, int(LIMIT / max(clock() - begun, 1e-9))))
    costs = {}
    for name, seconds in interleaved_timings(tasks, repeats, clock).items():
        value, low, high = (each / batch for each in median_interval(seconds))
        calls, (flops, peak) = getattr(samplers[name][0], "cost", None), counts[name]
        is_cost = isinstance(calls, Cost) and not math.isnan(calls.calls)
        costs[name] = SamplingCost(
            calls=calls if is_cost else None,
            flops=flops / batch,
            seconds=Estimate(value=value, low=low, high=high),
            peak_bytes=peak,
            batch=batch,
        )
    return costs


@torch.no_grad()
def _sample(name: str, sampler: Sampling, inputs: tuple[Tensor, ...]) -> Tensor:
    x, noise = sampler(*inputs), inputs[0]
    if len(x) != len(noise):
        raise ValueError(f"{name} made {len(x)} samples of noise for {len(noise)}")
    return x
