"""What a sample costs as measured: operations, seconds and memory, of any way to make it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from hybridgen.evaluation.comparison import Estimate, Expense
from hybridgen.evaluation.live_bytes import peak_bytes
from hybridgen.evaluation.timing import Clock, clock_for, median_interval, take_turns
from hybridgen.maths.cost import Cost

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
) -> dict[str, Expense]:
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
        name: Expense(
            calls=_told(sampler),
            flops=counted[name][0] / batch,
            seconds=seconds[name],
            peak_bytes=counted[name][1],
            batch=batch,
        )
        for name, sampler in samplers.items()
    }


def expense_of(
    sampler: Sampling,
    noise: Tensor,
    label: Tensor | None = None,
    *,
    rounds: int = ROUNDS,
    limit: float = 5.0,
    clock: Clock | None = None,
) -> Expense:
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
    for name, seconds in take_turns(tasks, rounds, clock).items():
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
