"""The two-sample test against exact divergences, exact p-values and its own promises."""

import math
from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy.stats import fisher_exact
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from hybridgen.data.images import digits
from hybridgen.maths.mixtures import GaussianMixture, grid
from hybridgen.metrics.features import extract, feature_network
from hybridgen.metrics.two_sample import certificate, detectable_accuracy, examined, two_sample_test


def generator(seed):
    return torch.Generator().manual_seed(seed)


def normal(count, mean=0.0, d=1, seed=0):
    return mean + torch.randn(count, d, generator=generator(seed))


# METHODS, the lecture: means apart, Jensen-Shannon divergence, accuracy of the best classifier.
PAIRS = [(0.5, 0.0303, 0.599), (1.0, 0.1114, 0.691), (2.0, 0.3368, 0.841), (4.0, 0.6327, 0.977)]


@pytest.mark.parametrize(("apart", "divergence", "best"), PAIRS)
def test_the_exact_classifier_of_two_gaussians_reaches_their_divergence(apart, divergence, best):
    real, fake = normal(200_000)[:, 0], normal(200_000, apart, seed=1)[:, 0]
    test = examined(apart * (apart / 2 - real), apart * (apart / 2 - fake))
    assert test["jsd_bound"].value == pytest.approx(divergence, abs=0.002)
    assert test["jsd_bound"].low < divergence < test["jsd_bound"].high
    assert test["c2st_accuracy"].value == pytest.approx(best, abs=0.002)
    assert test["c2st_accuracy"].low < best + 5e-4 and best - 5e-4 < test["c2st_accuracy"].high
    assert test["tv_bound"].value == pytest.approx(2 * test["c2st_accuracy"].value - 1)
    assert test["tv_bound"].low == pytest.approx(2 * test["c2st_accuracy"].low - 1)


# Of K equal modes k are kept: divergence and accuracy of the best classifier.
KEPT = [(1, 8, 0.497, 0.938), (4, 8, 0.216, 0.75), (20, 25, 0.075, 0.6), (24, 25, 0.014, 0.52)]


@pytest.mark.parametrize(("kept", "modes", "divergence", "best"), KEPT)
def test_the_exact_classifier_of_missing_modes_reaches_their_divergence(
    kept, modes, divergence, best
):
    mode = torch.randint(modes, (400_000,), generator=generator(0))
    real = torch.where(mode < kept, math.log(kept / modes), 20.0)
    fake = torch.full((400_000,), math.log(kept / modes))
    test = examined(real, fake)
    assert test["jsd_bound"].value == pytest.approx(divergence, abs=0.002)
    assert test["c2st_accuracy"].value == pytest.approx(best, abs=0.002)


def test_the_interval_of_the_certificate_holds_the_divergence_as_often_as_it_says():
    apart, divergence, held = 1.0, 0.1114, 0
    for seed in range(300):
        real, fake = normal(300, seed=seed)[:, 0], normal(300, apart, seed=1_000 + seed)[:, 0]
        bound = certificate(apart * (apart / 2 - real), apart * (apart / 2 - fake))
        held += bound.low <= divergence <= bound.high
    assert 276 <= held <= 297


def test_the_p_value_is_fishers_with_half_of_an_equal_outcome():
    real = torch.cat([torch.ones(70), -torch.ones(30)])
    fake = torch.cat([torch.ones(55), -torch.ones(45)])
    table = np.array([[70, 30], [55, 45]])
    whole = fisher_exact(table, alternative="greater").pvalue
    above = fisher_exact(table + np.array([[1, -1], [-1, 1]]), alternative="greater").pvalue
    assert examined(real, fake)["c2st_p"].value == pytest.approx((whole + above) / 2)
    assert examined(torch.ones(9), torch.ones(9))["c2st_p"].value == pytest.approx(0.5)


def test_false_alarms_are_as_frequent_as_announced():
    mixture = grid()
    alarms = 0
    for seed in range(400):
        a, b = (mixture.sample(300, generator(1_000 * side + seed))[0] for side in (1, 2))
        alarms += two_sample_test(a, b, seed=seed)["c2st_p"].value <= 0.05
    assert 12 <= alarms <= 28  # 3 to 7 %


def test_two_missing_modes_of_twenty_five_are_found_with_ten_thousand_points():
    full = grid().standardised()
    kept = GaussianMixture(full.weights[:23], full.means[:23], full.stds[:23])
    found = 0
    for seed in range(10):
        real, fake = full.sample(10_000, generator(seed))[0], kept.sample(10_000, generator(-seed))
        test = two_sample_test(real, fake[0], seed=seed)
        assert test["c2st_accuracy"].low < 0.54
        found += test["c2st_p"].value <= 0.05
    assert found >= 9


@pytest.mark.parametrize(("apart", "divergence"), [(1.0, 0.1114), (4.0, 0.6327)])
def test_a_trained_classifier_certifies_no_more_than_the_truth(apart, divergence):
    above, bounds = 0, []
    for seed in range(40):
        real, fake = normal(400, seed=seed), normal(400, apart, seed=500 + seed)
        bound = two_sample_test(real, fake, seed=seed)["jsd_bound"]
        above += bound.low > divergence
        bounds.append(bound.value)
    assert above <= 3
    assert divergence - 0.05 < float(np.mean(bounds)) < divergence


def test_sets_that_do_not_overlap_are_certified_with_a_finite_loss():
    test = two_sample_test(normal(100), normal(100, 50.0, seed=1))
    assert test["c2st_accuracy"].value == 1.0
    assert test["c2st_accuracy"].low < 0.99
    assert 0.6 < test["jsd_bound"].value < math.log(2)
    assert test["jsd_bound"].low < 0.66
    assert test["c2st_p"].value < 1e-20


def test_noise_on_digits_is_found_among_few_hundred_features():
    network = feature_network((1, 8, 8))
    x, _ = digits().reference("train", 600)
    held_out, _ = digits().reference("held_out", 297)
    real, new = extract(network, held_out)[0], extract(network, x)[0]
    noisy = extract(network, x + 0.6 * torch.randn(x.shape, generator=generator(0)))[0]
    assert two_sample_test(real, noisy)["c2st_p"].value < 0.01
    assert two_sample_test(real, new)["c2st_p"].value > 0.01


class Recorded(LogisticRegression):
    """Remembers how many examples it was trained on and asked about."""

    rows: ClassVar = {"fit": [], "predict_proba": []}

    def fit(self, x, y):
        self.rows["fit"].append(len(x))
        return super().fit(x, y)

    def predict_proba(self, x):
        self.rows["predict_proba"].append(len(x))
        return super().predict_proba(x)


def test_a_classifier_of_ones_own_is_trained_afresh():
    own, real, fake = Recorded(), normal(4_001, d=3), normal(4_500, 0.5, d=3, seed=1)
    test = two_sample_test(real, fake, classifier=own)
    assert not hasattr(own, "coef_")
    # Trained on half of as many of both kinds, and asked about all of them.
    assert Recorded.rows == {"fit": [2 * 2_000], "predict_proba": [4_001, 4_001]}
    best = 0.5 * (1 + math.erf(0.5 * math.sqrt(3) / 2 / math.sqrt(2)))
    assert test["c2st_accuracy"].value == pytest.approx(best, abs=0.02)


def test_a_classifier_that_is_always_certain_is_believed_no_more_than_it_has_seen():
    test = two_sample_test(normal(200), normal(200, seed=1), classifier=KNeighborsClassifier(1))
    cost = math.log(101)  # of an error, after 100 examples of each kind
    wrong = 1 - test["c2st_accuracy"].value
    expected = math.log(2) - math.log1p(1 / 101) - wrong * cost
    assert test["jsd_bound"].value == pytest.approx(expected, abs=1e-6)


def test_the_test_repeats_itself_and_leaves_random_numbers_alone():
    real, fake = normal(100), normal(250, seed=1)
    states = torch.random.get_rng_state(), np.random.get_state()[1].copy()
    assert two_sample_test(real, fake) == two_sample_test(real, fake)
    assert two_sample_test(real, fake, seed=1) != two_sample_test(real, fake)
    assert torch.equal(torch.random.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()


def test_the_order_of_samples_does_not_choose_which_are_tested():
    ordered = torch.cat([normal(500), normal(500, 3.0, seed=1)])
    test = two_sample_test(normal(250, seed=2), ordered)
    assert test["c2st_accuracy"].value > 0.65


def test_what_can_be_detected_lies_above_the_critical_accuracy():
    for tested, critical in ((1_000, 0.526), (2_000, 0.518), (10_000, 0.508)):
        reach = detectable_accuracy(tested) - 1.2816 / (2 * math.sqrt(tested))
        assert reach == pytest.approx(critical, abs=5e-4)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: two_sample_test(normal(100), normal(100, d=2)), r"got \(100, 1\) and \(100, 2\)"),
        (
            lambda: two_sample_test(normal(100), normal(39)),
            "need 40 samples of each kind, got 100 and 39",
        ),
        (lambda: examined(torch.tensor([1.0, math.inf]), torch.zeros(2)), "finite logits"),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()


def alarms(make, repeats=100):
    """How often sets of one law are told apart at 5 %, by a classifier that knows rows again."""
    nearest, found = KNeighborsClassifier(1), 0
    for seed in range(repeats):
        real, fake = make(2 * seed), make(2 * seed + 1)
        found += two_sample_test(real, fake, classifier=nearest, seed=seed)["c2st_p"].value < 0.05
    return found / repeats


def test_sets_that_hold_every_point_twice_are_told_apart_as_seldom_as_others():
    assert alarms(lambda seed: normal(100, d=2, seed=seed)) < 0.09
    assert alarms(lambda seed: normal(50, d=2, seed=seed).repeat(2, 1)) < 0.09


def test_a_few_copies_change_little_of_the_power():
    real, fake = normal(400, d=2), normal(400, 1.0, d=2, seed=1)
    fake[:20] = fake[20:40]
    assert two_sample_test(real, fake)["c2st_p"].value < 1e-6


def test_samples_that_are_all_alike_are_told_apart_all_the_same():
    for fake in (torch.zeros(300, 2), normal(2, d=2, seed=1).repeat(150, 1)):
        test = two_sample_test(normal(300, d=2), fake)
        assert test["c2st_accuracy"].value > 0.9
        assert test["c2st_p"].value < 0.05


def test_copies_count_once_in_every_uncertainty():
    real, fake = normal(200, seed=0)[:, 0] + 0.2, normal(200, seed=1)[:, 0]
    alone = examined(real, fake)
    twice = examined(real.repeat(2), fake.repeat(2), tested=(200.0, 200.0))
    for name, estimate in alone.items():
        for end in ("value", "low", "high"):
            assert getattr(twice[name], end) == pytest.approx(getattr(estimate, end), abs=2e-3)
