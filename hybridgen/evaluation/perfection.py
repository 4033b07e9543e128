"""What perfect samples get: in the limit where the density is known, else from real examples."""

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from hybridgen.evaluation.judges import NEIGHBOURS
from hybridgen.evaluation.modes import HIGH_QUALITY
from hybridgen.evaluation.prdc import expected_coverage
from hybridgen.evaluation.reference import Reference
from hybridgen.evaluation.seeing import Seen
from hybridgen.evaluation.two_sample import detectable_accuracy
from hybridgen.maths.divergences import reverse_kl
from hybridgen.maths.mixtures import GaussianMixture

FEW = 1_000
"""Test examples below which a two-sample test is a coarse one."""


def floors(reference: Reference, draws: Sequence[Seen], seed: int) -> dict[str, float]:
    """The mean figures of sets of real examples in the place of generated ones.

    Of memorisation it is what examples get that were never trained on, one half: training examples
    are their own nearest ones.
    """
    rows = []
    for seen in draws:
        whole = reference.figures(seen, [torch.arange(len(seen.features))])
        told = reference.told_apart(seen, seed)
        rows.append(
            {name: value for name, (value,) in whole.items()}
            | {name: estimate.value for name, estimate in told.items()}
        )
    found = {name: fmean(row[name] for row in rows) for name in rows[0]}
    return found | ({"memorisation": 0.5} if "memorisation" in found else {})


def truths(mixture: GaussianMixture, real: int, samples: int) -> dict[str, float]:
    """What perfect samples of well separated modes get without chance.

    High-quality points are a Gaussian cut off at r = 3 standard deviations: `P(d/2, r^2/2)` of all,
    of variance `P(d/2 + 1, r^2/2) / P(d/2, r^2/2)` a coordinate, P the regularised lower incomplete
    gamma function. Coverage and density hold for these numbers of real points and samples; all
    else is the limit of many.
    """
    shape = torch.tensor([mixture.dimension / 2, mixture.dimension / 2 + 1], dtype=torch.float64)
    within, second = torch.special.gammainc(shape, torch.tensor(HIGH_QUALITY**2 / 2)).tolist()
    return {
        "modes": float(mixture.components),
        "high_quality": within,
        "reverse_kl": reverse_kl(mixture.weights),
        "mode_std": math.sqrt(second / within),
        "density": 1.0,
        "coverage": expected_coverage(real, samples, neighbours=NEIGHBOURS),
        "c2st_accuracy": 0.5,
        **dict.fromkeys(
            ("frechet_distance", "kid", "sliced_wasserstein", "tv_bound", "jsd_bound"), 0.0
        ),
    }


def shortcomings(samples: int, held_out: Tensor, wanted: int | None) -> tuple[str, ...]:
    """What a ruler of so many samples and these held-out features `[n d]` cannot tell."""
    count, width = held_out.shape
    said = []
    if wanted is not None and samples < wanted:
        said.append(
            f"{wanted} samples were asked for, but each sampler is measured by {samples}: there "
            "are no more training examples to take the floor from."
        )
    if min(samples, count) <= width:
        said.append(
            f"The Frechet distance needs more examples than its {width} features, better many "
            f"times as many; it has {samples} samples and {count} held-out examples and says "
            "little here."
        )
    tested = 2 * (min(samples, count) - min(samples, count) // 2)
    if tested < FEW:
        said.append(
            f"The two-sample test has {tested} examples to test on: it finds (nine times in ten, "
            f"at 5 %) only what can be told apart with an accuracy of "
            f"{detectable_accuracy(tested):.3f} or more."
        )
    if count < FEW:
        said.append(
            f"There are {count} held-out examples: which they are moves every figure, of all "
            "methods together, by more than the intervals say, so compare methods with each other "
            "and with the floor."
        )
    return tuple(said)
