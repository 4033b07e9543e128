"""What samples are compared with, worked out once, and their figures in comparison."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridgen.evaluation.classes import class_reverse_kl
from hybridgen.evaluation.comparison import Estimate
from hybridgen.evaluation.distances import frechet_distance, sliced_wasserstein
from hybridgen.evaluation.judges import NEIGHBOURS
from hybridgen.evaluation.memorisation import closeness, nearest
from hybridgen.evaluation.modes import mode_coverage
from hybridgen.evaluation.prdc import neighbour_radii
from hybridgen.evaluation.seeing import Seen
from hybridgen.evaluation.subsets import mean_kernel, subset_kernel_distance, subset_prdc
from hybridgen.evaluation.two_sample import two_sample_test
from hybridgen.maths.mixtures import GaussianMixture

MODES = ("modes", "high_quality", "reverse_kl", "mode_std")


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Held-out examples and training examples as features, and what follows from them alone.

    Attributes:
        held_out: `[n d]`, what samples are compared with.
        radii: `[n]`, see `neighbour_radii`.
        kernel: the mean kernel among held-out examples, see `mean_kernel`.
        classes: how many the network tells apart; 0 where they are not the data's.
        training: `[t d]`, and `distance` `[n]` from held-out examples to it; `None` if endless.
        mixture: the density of points, if known.
    """

    held_out: Tensor
    radii: Tensor
    kernel: float
    classes: int
    training: Tensor | None
    distance: Tensor | None
    mixture: GaussianMixture | None

    def figures(self, seen: Seen, subsets: Sequence[Tensor]) -> dict[str, list[float]]:
        """Every figure but the two-sample test's, for each subset of the samples.

        Args:
            subsets: indices of samples.

        Returns:
            metric -> a value for each subset.
        """
        fake = seen.features
        members = torch.zeros(len(subsets), len(fake), dtype=torch.bool)
        for member, index in zip(members, subsets, strict=True):
            member[index] = True
        found = {
            "frechet_distance": [frechet_distance(self.held_out, fake[i]) for i in subsets],
            "kid": subset_kernel_distance(self.held_out, self.kernel, fake, members).tolist(),
        }
        shares = subset_prdc(self.held_out, self.radii, fake, members, neighbours=NEIGHBOURS)
        found.update((name, values.tolist()) for name, values in shares.items())
        if self.classes and seen.label is not None:
            label = seen.label
            found["class_reverse_kl"] = [class_reverse_kl(label[i], self.classes) for i in subsets]
        if self.training is not None and self.distance is not None:
            close = closeness(nearest(fake, self.training)[0], self.distance)
            found["memorisation"] = [float(close[i].mean()) for i in subsets]
        if self.mixture is not None:
            rows = [mode_coverage(fake[i], self.mixture) for i in subsets]
            found.update((name, [row[name] for row in rows]) for name in MODES)
            if self.mixture.dimension <= 2:
                found["sliced_wasserstein"] = [
                    sliced_wasserstein(self.held_out[: len(i)], fake[i]) for i in subsets
                ]
        return found

    def told_apart(self, seen: Seen, seed: int) -> dict[str, Estimate]:
        """The two-sample test; its own intervals, and none for its p-value."""
        test = two_sample_test(self.held_out, seen.features, seed=seed)
        return {
            "c2st_accuracy": test.accuracy,
            "c2st_p": Estimate(value=test.p, low=test.p, high=test.p),
            "tv_bound": test.tv_bound,
            "jsd_bound": test.jsd_bound,
        }


def reference_of(
    held_out: Tensor, training: Tensor | None, classes: int, mixture: GaussianMixture | None
) -> Reference:
    """Work out what does not depend on samples; features `[n d]` and `[t d]`."""
    return Reference(
        held_out=held_out,
        radii=neighbour_radii(held_out, neighbours=NEIGHBOURS),
        kernel=mean_kernel(held_out),
        classes=classes,
        training=training,
        distance=None if training is None else nearest(held_out, training)[0],
        mixture=mixture,
    )
