"""What every data set offers, whether it is drawn, resident in memory or streamed."""

from collections.abc import Iterator
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from hybridgen.errors import InputError
from hybridgen.maths.mixtures import GaussianMixture

Part = Literal["train", "held_out"]
Batch = tuple[Tensor, Tensor | None]


@runtime_checkable
class Source(Protocol):
    """Examples to train on and examples to judge by.

    Attributes:
        name: what to call it in reports.
        shape: of one example, `(d,)` for points or `(c, h, w)` for images.
        classes: how many labels the batches carry; 0 when they carry none.
        mixture: the exact density, where it is known.
        size: training examples; `None` when they are drawn without end.
    """

    @property
    def name(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def classes(self) -> int: ...
    @property
    def mixture(self) -> GaussianMixture | None: ...
    @property
    def size(self) -> int | None: ...

    def batches(
        self,
        *,
        batch: int,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
    ) -> Iterator[Batch]:
        """Endless `(x [b ...], label [b] or None)`; `b = batch / world`.

        Item i is this rank's contiguous share of global batch `start + i`: a function of
        `(batch, seed, start + i)` alone, so resuming is starting later and the shares of all
        ranks joined are the batch of one process.

        Raises:
            InputError: a batch larger than the training data, or not divisible by `world`.
        """
        ...

    def reference(self, part: Part, count: int, seed: int = 0) -> Batch:
        """Up to `count` examples in the scale of the batches, on the CPU, for judging.

        Labels are given wherever the data has them, also if `classes` is 0.
        """
        ...


def share(batch: int, start: int, rank: int, world: int, size: int | None) -> int:
    """Examples of one rank's share of a batch, after checking what `batches` was given.

    Raises:
        InputError: see `Source.batches`.
    """
    if batch < 1 or start < 0:
        raise InputError(
            f"need a batch of at least 1 and a start of at least 0, got {batch=}, {start=}."
        )
    if world < 1 or not 0 <= rank < world:
        raise InputError(f"need 0 <= rank < world, got {rank=}, {world=}.")
    if batch % world:
        raise InputError(
            f"a batch of {batch} cannot be shared equally by {world} processes; "
            f"set the batch to a multiple of {world}."
        )
    if size is not None and batch > size:
        raise InputError(
            f"the batch of {batch} is larger than the training data of {size} examples; "
            f"set the batch to at most {size}."
        )
    return batch // world


def check_part(part: str, count: int) -> None:
    """Refuse a part that does not exist, or fewer than one example.

    Raises:
        ValueError: the part or count is not usable.
    """
    if part not in ("train", "held_out"):
        raise ValueError(f"there are the parts 'train' and 'held_out', got {part!r}")
    if count < 1:
        raise ValueError(f"a reference needs at least 1 example, got count={count}")
