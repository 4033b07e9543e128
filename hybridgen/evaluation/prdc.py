"""Precision, recall, density and coverage: fidelity and diversity by nearest neighbours."""

import torch
from einops import rearrange
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


def neighbour_radii(x: Tensor, *, neighbours: int = 5, chunk: int = 1_000) -> Tensor:
    """Distance from each point of `[n d]` to its k-th nearest *other* point, `[n]`.

    Other by position, not by distance: a copy of a point is another point.
    """
    if not 1 <= neighbours < len(x):
        raise ValueError(f"{len(x)} points have no {neighbours}-th nearest other point")
    radii = []
    for start in range(0, len(x), chunk):
        distances = torch.cdist(x[start : start + chunk], x)
        rows = torch.arange(len(distances), device=x.device)
        distances[rows, rows + start] = torch.inf
        radii.append(distances.topk(neighbours, dim=1, largest=False).values[:, -1])
    return torch.cat(radii)


def prdc(
    real: Tensor, fake: Tensor, *, neighbours: int = 5, chunk: int = 1_000
) -> dict[str, float]:
    """How the two sets' k-nearest-neighbour balls contain each other's points, strictly inside.

    `precision`: fake points in some real ball; `recall`: real points in some fake ball; `density`:
    real balls a fake point is in, over k, which may exceed 1; `coverage`: real balls with a fake
    point inside. For two sets from one distribution see `expected_coverage`.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.

    Args:
        real: `[n d]`.
        fake: `[m d]`.
        neighbours: k.
        chunk: real points compared with everything at a time, which bounds the memory.
    """
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(
            f"expected features [n d] and [m d], got {tuple(real.shape)} and {tuple(fake.shape)}"
        )
    real, fake = real.detach().double(), fake.detach().double()
    real_radii = neighbour_radii(real, neighbours=neighbours, chunk=chunk)
    fake_radii = neighbour_radii(fake, neighbours=neighbours, chunk=chunk)
    balls = torch.zeros(len(fake), dtype=torch.int64, device=real.device)
    recalled = covered = 0
    for part, radii in zip(real.split(chunk), real_radii.split(chunk), strict=True):
        distances = torch.cdist(part, fake)
        inside = distances < rearrange(radii, "n -> n 1")
        balls += inside.sum(dim=0)
        covered += int(inside.any(dim=1).sum())
        recalled += int((distances < fake_radii).any(dim=1).sum())
    return {
        "precision": float((balls > 0).double().mean()),
        "recall": recalled / len(real),
        "density": float(balls.double().mean()) / neighbours,
        "coverage": covered / len(real),
    }


def expected_coverage(real: int, fake: int, *, neighbours: int = 5) -> float:
    """Mean coverage of a perfect sampler: `1 - prod_{i=1..k} (n - i) / (n + m - i)`.

    A real point stays uncovered if its k nearest among all others are all real. Exact for any
    distribution without ties. Source: Naeem et al. 2020, arXiv:2002.09797, lemma 2.
    """
    missed = 1.0
    for i in range(1, neighbours + 1):
        missed *= (real - i) / (real + fake - i)
    return 1 - missed


class Prdc(Metric):
    """`prdc` of features that come in batches and on many processes."""

    full_state_update = False
    real: list[Tensor]
    fake: list[Tensor]

    def __init__(self, *, neighbours: int = 5) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.add_state("real", [], dist_reduce_fx="cat")
        self.add_state("fake", [], dist_reduce_fx="cat")

    def update(self, features: Tensor, *, real: bool) -> None:
        (self.real if real else self.fake).append(features.detach())

    def compute(self) -> dict[str, float]:
        return prdc(dim_zero_cat(self.real), dim_zero_cat(self.fake), neighbours=self.neighbours)
