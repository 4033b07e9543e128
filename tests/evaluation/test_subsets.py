"""Figures of subsets in one pass, against the figures of each subset by itself."""

import pytest
import torch

from hybridgen.evaluation.distances import kernel_distance
from hybridgen.evaluation.intervals import random_parts
from hybridgen.evaluation.prdc import neighbour_radii, prdc
from hybridgen.evaluation.subsets import mean_kernel, subset_kernel_distance, subset_prdc


def features(count, d, seed):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def members_of(subsets, count):
    members = torch.zeros(len(subsets), count, dtype=torch.bool)
    for row, index in zip(members, subsets, strict=True):
        row[index] = True
    return members


@pytest.mark.parametrize(("real", "fake", "d"), [(150, 211, 2), (60, 90, 16)])
def test_prdc_of_every_subset_is_that_of_the_subset_alone(real, fake, d):
    x, y = features(real, d, 0), 0.8 * features(fake, d, 1)
    y[:20] = x[:20]  # copies, at distances that are equal to radii
    y[20:30] = y[30:40]
    few = torch.arange(0, fake, 12)  # sparse: its neighbours are far among all samples
    subsets = [torch.arange(fake), few, *random_parts(fake, parts=4)]
    found = subset_prdc(x, neighbour_radii(x), y, members_of(subsets, fake), chunk=32)
    for place, index in enumerate(subsets):
        alone = prdc(x, y[index])
        assert {name: float(values[place]) for name, values in found.items()} == pytest.approx(
            alone, abs=1e-12
        )


def test_the_kernel_distance_of_every_subset_is_that_of_the_subset_alone():
    x, y = features(100, 6, 0), 0.7 * features(200, 6, 1)
    # As many as there are real ones: then one subset of all of both is what is compared.
    subsets = torch.randperm(200, generator=torch.Generator().manual_seed(2)).split(100)
    found = subset_kernel_distance(x, mean_kernel(x), y, members_of(subsets, 200), chunk=32)
    for value, index in zip(found.tolist(), subsets, strict=True):
        alone = kernel_distance(x, y[index], subsets=1, subset_size=100)
        assert value == pytest.approx(alone, abs=1e-9)


def test_the_kernel_distance_of_sets_of_different_sizes_is_unbiased():
    x, values = features(400, 3, 0), []
    for seed in range(1, 60):
        y = features(30, 3, seed)
        everything = torch.ones(1, 30, dtype=torch.bool)
        values.append(float(subset_kernel_distance(x, mean_kernel(x), y, everything)))
    values = torch.tensor(values)
    assert abs(float(values.mean())) < 4 * float(values.std()) / 59**0.5


def test_misuse_gets_a_sentence():
    x = features(20, 2, 0)
    with pytest.raises(ValueError, match=r"members \[s 20\] of true and false, got \[1, 19\]"):
        subset_prdc(x, neighbour_radii(x), x, torch.ones(1, 19, dtype=torch.bool))
    with pytest.raises(ValueError, match="at least 6 samples"):
        subset_prdc(x, neighbour_radii(x), x, members_of([torch.arange(5)], 20))
