"""Nearest training neighbours, against copies, new examples and scikit-learn."""

import pytest
import torch
from scipy.stats import mannwhitneyu
from sklearn.neighbors import NearestNeighbors

from hybridgen.evaluation.memorisation import closeness, memorisation, nearest


def normal(count, d=5, seed=0):
    return torch.randn(count, d, generator=torch.Generator().manual_seed(seed))


def test_nearest_neighbours_are_those_of_scikit_learn():
    x, training = normal(301), normal(200, seed=1)
    distance, index = nearest(x, training, chunk=100)
    expected = NearestNeighbors(n_neighbors=1).fit(training.numpy()).kneighbors(x.numpy())
    assert index.tolist() == expected[1][:, 0].tolist()
    torch.testing.assert_close(distance, torch.from_numpy(expected[0][:, 0]).double())


def test_a_copy_is_at_distance_zero_and_found():
    training = 100 + normal(500, d=64)
    rows = torch.tensor([3, 499, 3])
    distance, index = nearest(training[rows], training)
    assert index.tolist() == rows.tolist()
    assert distance.tolist() == [0.0, 0.0, 0.0]


def test_new_samples_score_one_half_and_copies_one():
    training, held_out = normal(400), normal(300, seed=1)
    own = nearest(held_out, training)[0]
    new = memorisation(nearest(normal(1_000, seed=2), training)[0], own)
    assert new == pytest.approx(0.5, abs=0.05)
    assert memorisation(own, own) == 0.5
    assert memorisation(nearest(training, training)[0], own) == 1.0
    half = torch.cat([training[:200], normal(200, seed=3)])
    assert memorisation(nearest(half, training)[0], own) == pytest.approx(0.75, abs=0.05)
    assert memorisation(nearest(normal(200, seed=4) + 30, training)[0], own) == 0.0


def test_the_share_is_the_mann_whitney_statistic():
    a = torch.tensor([1.0, 2.0, 2.0, 5.0, 0.5])
    b = torch.tensor([2.0, 3.0, 1.0, 2.0])
    statistic = mannwhitneyu(b.numpy(), a.numpy()).statistic
    assert memorisation(a, b) == pytest.approx(statistic / 20)
    torch.testing.assert_close(closeness(a, b), torch.tensor([7 / 8, 1 / 2, 1 / 2, 0, 1]).double())


def test_misuse_gets_a_sentence():
    with pytest.raises(ValueError, match=r"\[b d\] and \[n d\], n >= 1, got \[3, 5\] and \[3, 4\]"):
        nearest(normal(3), normal(3, d=4))
    with pytest.raises(ValueError, match="m >= 1"):
        closeness(torch.ones(3), torch.ones(0))
