"""Our figures and other packages', of the same features."""

import numpy as np
import pytest
import scipy.linalg
import torch
from prdc import compute_prdc
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from hybridgen.metrics.distances import frechet_distance, kernel_distance
from hybridgen.metrics.neighbours import prdc


class Features(nn.Module):
    """Stands where torchmetrics expects a network, for features that are already computed."""

    def __init__(self, num_features):
        super().__init__()
        self.num_features = num_features

    def forward(self, features):
        return features


CLOSE = {"rel": 1e-5, "abs": 0}
RECORDED = {"frechet_distance": 0.5151887674622344, "kid": 0.015813851242874488}
"""What torch-fidelity 0.4.0 said of `waves`: it needs torchvision, which is no dependency here."""


def waves(count, width=24, phase=0.0):
    """Features without random numbers, the same in every version of everything."""
    i, j = torch.arange(count, dtype=torch.float64), torch.arange(width, dtype=torch.float64)
    angle = (i[:, None] + 1) * (j + 2).sqrt() * 1.7 + phase * j
    return torch.sin(angle) + 0.5 * torch.cos(0.3 * angle * angle.sqrt()) + phase


def features(count, seed, *, shift=0.0, stretch=1.0, width=24):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=generator, dtype=torch.float64)
    return stretch * x @ torch.linspace(0.2, 2, width).double().diag() + shift


PAIRS = {
    "alike": (features(700, 0), features(700, 1)),
    "shifted": (features(700, 0), features(500, 1, shift=0.3)),
    "narrow": (features(600, 0), features(900, 1, stretch=0.5)),
    "far from the origin": (features(600, 0, shift=1e4), features(400, 1, shift=1e4)),
    "waves": (waves(300), waves(300, phase=0.1)),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("neighbours", [1, 5])
def test_nearest_neighbours_are_counted_as_by_prdc(pair, neighbours, capsys):
    real, fake = PAIRS[pair]
    theirs = compute_prdc(real.numpy(), fake.numpy(), neighbours)
    ours = prdc(real, fake, neighbours=neighbours, chunk=256)
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(float(value), abs=1e-12)


@pytest.mark.parametrize("pair", ["alike", "narrow", "waves"])
def test_single_precision_features_are_counted_as_by_prdc(pair, capsys):
    real, fake = (x.float() for x in PAIRS[pair])
    theirs = compute_prdc(real.double().numpy(), fake.double().numpy(), 5)
    ours = prdc(real, fake)
    for name, value in theirs.items():
        assert float(ours[name]) == pytest.approx(float(value), abs=1e-12)


@pytest.mark.filterwarnings("ignore:Metric .Kernel:UserWarning")
@pytest.mark.parametrize("pair", ["alike", "waves"])
def test_kid_of_all_samples_is_that_of_torchmetrics(pair):
    real, fake = PAIRS[pair]
    theirs = KernelInceptionDistance(
        feature=Features(real.shape[1]), subsets=1, subset_size=len(real)
    )
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    mean, _ = theirs.compute()
    assert float(kernel_distance(real, fake)) == pytest.approx(float(mean), **CLOSE)


@pytest.mark.parametrize("pair", ["alike", "shifted", "narrow", "waves"])
def test_the_frechet_distance_is_that_of_torchmetrics(pair):
    real, fake = PAIRS[pair]
    theirs = FrechetInceptionDistance(feature=Features(real.shape[1]))
    theirs.update(real, real=True)
    theirs.update(fake, real=False)
    assert frechet_distance(real, fake) == pytest.approx(float(theirs.compute()), **CLOSE)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_frechet_distance_is_its_formula_in_scipy(pair):
    real, fake = (x.numpy() for x in PAIRS[pair])
    c, d = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = scipy.linalg.sqrtm(c @ d).real
    exact = np.square(real.mean(0) - fake.mean(0)).sum() + np.trace(c + d - 2 * root)
    ours = frechet_distance(*PAIRS[pair])
    assert ours == pytest.approx(float(exact), **CLOSE)


def test_torch_fidelity_once_said_the_same():
    real, fake = PAIRS["waves"]
    assert frechet_distance(real, fake) == pytest.approx(RECORDED["frechet_distance"], **CLOSE)
    assert float(kernel_distance(real, fake)) == pytest.approx(RECORDED["kid"], **CLOSE)


@pytest.mark.parametrize("pair", ["alike", "waves"])
def test_torch_fidelity_says_the_same(pair):
    try:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
        from torch_fidelity.metric_kid import kid_features_to_metric
    except Exception as error:
        pytest.skip(f"needs torch-fidelity and the torchvision that goes with this torch: {error}")
    real, fake = PAIRS[pair]
    moments = [fid_features_to_statistics(x) for x in (real, fake)]
    distance = fid_statistics_to_metric(*moments, False)["frechet_inception_distance"]
    kid = kid_features_to_metric(
        real, fake, kid_subsets=1, kid_subset_size=len(real), verbose=False
    )["kernel_inception_distance_mean"]
    assert frechet_distance(real, fake) == pytest.approx(distance, **CLOSE)
    assert float(kernel_distance(real, fake)) == pytest.approx(kid, **CLOSE)
