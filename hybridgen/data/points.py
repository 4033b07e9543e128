"""Points drawn from a Gaussian mixture: data whose density is known exactly."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count as count_from

from hybridgen.data.source import Batch, Part, Shard, check_part, to_device
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.rng import rng_for


@dataclass(frozen=True, kw_only=True)
class MixturePoints:
    """Fresh points in every batch; a label is the component that a point was drawn from.

    Batch i depends on `(seed, i)` alone, like the order of a finite set. Training and reference
    draws never share a random stream.

    Args:
        mixture: the density.
        name: what to call it in reports.
        labelled: whether the batches carry labels.
    """

    mixture: GaussianMixture
    name: str
    labelled: bool = False
    size = None

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.mixture.dimension,)

    @property
    def identity(self) -> str:
        return self.name

    @property
    def classes(self) -> int:
        return self.mixture.components if self.labelled else 0

    def batches(self, shard: Shard) -> Iterator[Batch]:
        """See `Source.batches`. Drawn on the CPU, so that every device sees the same points."""
        for number in count_from(shard.start):
            rng = rng_for("batch", shard.seed, number)
            points, component = self.mixture.sample(shard.batch, rng)
            label = to_device(component[shard.rows], shard.device) if self.labelled else None
            yield to_device(points[shard.rows], shard.device), label

    def reference(self, part: Part, count: int, seed: int = 0) -> Batch:
        """`count` points that occur in no batch; see `Source.reference`."""
        check_part(part, count)
        return self.mixture.sample(count, rng_for(part, seed))
