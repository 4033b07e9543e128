"""Examples and samples as they are compared: as features, all by the same eye."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridgen.data.images import to_float
from hybridgen.data.source import Source
from hybridgen.errors import InputError, RunError
from hybridgen.evaluation.features import LeNet, extract
from hybridgen.evaluation.judges import IMAGES
from hybridgen.evaluation.pictures import to_bytes

Features = Callable[[Tensor], Tensor]
BATCH = 500
DRAWS = 4
"""Sets of a mixture's own points that its floors are the mean of."""
TRAINING = 100_000
"""Training examples among which nearest ones are looked for, at most."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """Samples as they are compared.

    Attributes:
        features: `[b d]`.
        label: `[b]`, the class that the network sees in each, or `None`.
    """

    features: Tensor
    label: Tensor | None

    def take(self, rows: Tensor) -> "Seen":
        """Some of them."""
        return Seen(
            features=self.features[rows], label=None if self.label is None else self.label[rows]
        )


@dataclass(frozen=True, kw_only=True)
class Eye:
    """How examples of one shape become features, on the CPU, a batch at a time.

    Images are seen as they would be saved, in 256 grey values, whoever made them.

    Attributes:
        shape: of one example.
        features: `[b ...] -> [b d]`; `None` where `classes` or the coordinates give them.
        network: whose classes are the data's, if there is one.
    """

    shape: tuple[int, ...]
    features: Features | None
    network: LeNet | None

    @torch.no_grad()
    def see(self, x: Tensor) -> Seen:
        """Features of `[b ...]`.

        Raises:
            ValueError: examples of another shape.
            RunError: a number that is not finite.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected examples {list(self.shape)}, got {list(x.shape[1:])}")
        features, labels = [], []
        look = self.features
        for part in x.detach().split(BATCH):
            if not bool(torch.isfinite(part).all()):
                raise RunError(
                    "cannot measure samples that are not finite: the sampler or its training has "
                    "diverged."
                )
            part = to_float(to_bytes(part)) if part.ndim == 4 else part.cpu()
            found = part
            if self.network is not None:
                found, label = extract(self.network, part)
                labels.append(label)
            if look is not None:
                found = look(part).detach().cpu()
            _check(found, len(part))
            features.append(found)
        return Seen(features=torch.cat(features), label=torch.cat(labels) if labels else None)


def examples(
    data: Source | tuple[Tensor, Tensor], samples: int, seed: int
) -> tuple[Tensor, Tensor | None, Tensor | None, list[Tensor]]:
    """What a ruler needs of the data.

    Returns:
        Held-out examples; their labels, if there are any; training examples; and, if those are
        drawn without end, some sets of `samples` of them in their place.

    Raises:
        InputError: training and held-out examples of different shapes, or images that are not in
            [-1, 1].
    """
    if isinstance(data, tuple):
        train, held_out = data
        for examples in data:
            _check_examples(examples)
        if train.shape[1:] != held_out.shape[1:]:
            raise InputError(
                "training and held-out examples must have one shape, got "
                f"{list(train.shape[1:])} and {list(held_out.shape[1:])}"
            )
        return held_out, None, train, []
    if data.size is None:
        held_out, label = data.reference("held_out", samples, seed)
        draws = [data.reference("train", samples, seed + number)[0] for number in range(DRAWS)]
        return held_out, label, None, draws
    held_out, label = data.reference("held_out", max(samples, IMAGES), seed)
    return held_out, label, data.reference("train", min(data.size, TRAINING), seed)[0], []


def unseen(data: Source | tuple[Tensor, Tensor]) -> tuple[str, ...]:
    """A sentence if nearest training examples are looked for among a part of them only."""
    size = None if isinstance(data, tuple) else data.size
    if size is None or size <= TRAINING:
        return ()
    return (
        f"Nearest training examples are looked for among {TRAINING} of {size}: copies of others "
        "are not found.",
    )


def _check_examples(x: Tensor) -> None:
    """Refuse bytes, and images in [0, 1] or [0, 255]: clipped, they would all look alike."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or len(x) == 0:
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(
            f"expected examples as floating-point tensors, not empty, got {kind}: bytes become "
            "images in [-1, 1] by x / 127.5 - 1"
        )
    low, high = float(x.min()), float(x.max())
    if x.ndim == 4 and not (-1.01 <= low < 0 < high <= 1.01):
        raise InputError(
            f"expected images in [-1, 1], got values from {low:.4g} to {high:.4g}: rescale them"
        )


def _check(features: Tensor, count: int) -> None:
    if features.ndim != 2 or len(features) != count:
        raise InputError(
            f"the features of {count} examples must be [{count} d], got {list(features.shape)}: "
            "pass features, a function of a batch of images"
        )
