"""How much memory tensors take while something is computed."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


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
