"""The duality gap of one-dimensional games whose best answers are known."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from hybridgen.errors import InputError, RunError
from hybridgen.evaluation.duality_gap import duality_gap
from hybridgen.losses.discriminators import PerSample
from hybridgen.maths.rng import rng_for


class Line(nn.Module):
    """`mean + scale z`: the generator of every Gaussian."""

    def __init__(self, mean=0.0, scale=1.0):
        super().__init__()
        self.mean, self.scale = (nn.Parameter(torch.tensor(x)) for x in (mean, scale))

    def forward(self, noise, label=None):
        return self.mean + self.scale * noise


class Parabola(nn.Module):
    """`a + b x + c x^2`: the log ratio of any two Gaussians is one."""

    def __init__(self, a=0.0, b=0.0, c=0.0):
        super().__init__()
        self.coefficients = nn.Parameter(torch.tensor([a, b, c]))

    def forward(self, x, sigma, label=None):
        a, b, c = self.coefficients
        return (a + b * x + c * x.square())[:, 0]


def data(count=20_000, seed=0):
    return torch.randn(count, 1, generator=rng_for("data", seed)), None


def gap(generator, discriminator, **options):
    options = {"latent": 1, "steps": 200, "batch": 512, "learning_rate": 0.05} | options
    return duality_gap(generator, discriminator, data(), data(seed=1), **options)


# METHODS, the lecture: means apart, and the Jensen-Shannon divergence.
APART = [(0.0, 0.0), (1.0, 0.1114), (2.0, 0.3368)]


@pytest.mark.parametrize(("apart", "divergence"), APART)
def test_of_a_discriminator_that_knows_nothing_the_gap_is_the_divergence(apart, divergence):
    figures = gap(Line(apart), Parabola())
    assert figures["duality_gap"].value == pytest.approx(divergence, abs=0.01)
    assert figures["duality_gap"].low < divergence + 0.003
    assert figures["duality_gap"].high > divergence - 0.003
    assert figures["gap_generator"].value == pytest.approx(0, abs=1e-6)


def test_against_a_peak_the_worst_generator_puts_everything_on_it():
    # Nothing is better than D(0) = sigmoid(1): min M = (E log D(x) - softplus(1)) / 2.
    figures = gap(Line(1.0), Parabola(1.0, 0.0, -1.0))
    x, _ = data(400_000, seed=2)
    least = float(F.logsigmoid(1 - x.square()).mean() - F.softplus(torch.tensor(1.0))) / 2
    assert figures["gap_generator"].value == pytest.approx(-math.log(2) - least, abs=0.02)
    assert figures["gap_discriminator"].value == pytest.approx(0.1114, abs=0.01)
    parts = figures["gap_generator"].value + figures["gap_discriminator"].value
    assert figures["duality_gap"].value == pytest.approx(parts, abs=1e-9)
    assert figures["duality_gap"].value > 0.1114


@pytest.mark.parametrize("seed", range(4))
def test_the_gap_is_not_below_the_divergence_whatever_the_players(seed):
    numbers = torch.randn(5, generator=rng_for("players", seed)).tolist()
    u, v = Line(numbers[0], 1.0), Parabola(numbers[1], numbers[2], -abs(numbers[3]))
    # Of equal widths, by the table's two ends: the divergence grows with the distance.
    divergence = next(jsd for apart, jsd in reversed(APART) if abs(numbers[0]) >= apart)
    perturbation = 0.1 * (seed % 2)
    figures = gap(u, v, steps=120, learning_rate=0.05, perturbation=perturbation)
    assert figures["duality_gap"].high > divergence


def test_a_constant_counts_unless_the_logits_are_centred():
    even, raised = Parabola(), Parabola(3.0)
    expected = (F.softplus(torch.tensor(3.0)) + F.softplus(torch.tensor(-3.0))) / 2 - math.log(2)
    plain = gap(Line(), raised, steps=1)
    assert plain["gap_generator"].value == pytest.approx(float(expected), abs=1e-4)
    assert gap(Line(), raised, steps=50, centred=True)["duality_gap"].value < 0.01
    sloped = [Parabola(a, 1.0, -0.5) for a in (0.0, 3.0)]
    one, other = (gap(Line(1.0), v, steps=20, centred=True) for v in sloped)
    for name, figure in one.items():
        assert figure.value == pytest.approx(other[name].value, abs=1e-5)
    assert gap(Line(), even, steps=1)["gap_generator"].value == pytest.approx(0, abs=1e-7)


class Drawing(nn.Module):
    """A discriminator with dropout, and a map of two patches in which the second knows nothing."""

    def __init__(self):
        super().__init__()
        self.inner, self.dropout = Parabola(0.0, 0.3, -0.2), nn.Dropout(0.5)

    def forward(self, x, sigma, label=None):
        logit = self.inner(self.dropout(x), sigma)
        return torch.stack([logit, 0 * logit], dim=1)[:, None]


def test_nothing_given_changes_and_the_gap_repeats_itself():
    u, v = Line(0.5), Drawing()
    u.requires_grad_(False)  # as an averaged generator
    v.inner.coefficients.grad = torch.ones(3)
    before = copy.deepcopy((u.state_dict(), v.state_dict()))
    state = torch.random.get_rng_state()
    options = {"steps": 5, "perturbation": 0.1, "centred": True}
    figures = gap(u, v, **options)
    assert torch.equal(state, torch.random.get_rng_state())
    for network, weights in zip((u, v), before, strict=True):
        assert all(torch.equal(network.state_dict()[name], w) for name, w in weights.items())
    assert v.training and u.training and not u.mean.requires_grad
    assert u.mean.grad is None and v.inner.coefficients.grad.tolist() == [1, 1, 1]
    torch.manual_seed(7)
    assert figures == gap(u, v, **options)
    assert figures != gap(u, v, **options, seed=1)


def test_every_patch_counts_alike_and_features_are_left_out():
    class Inner(Drawing):
        def forward(self, x, sigma, label=None):
            return self.inner(x, sigma)

    patches = gap(Line(1.0), Drawing(), steps=1, learning_rate=1e-9)
    alone = gap(Line(1.0), Inner(), steps=1, learning_rate=1e-9)
    for name, figure in patches.items():
        assert figure.value == pytest.approx(alone[name].value / 2, abs=1e-6)
    assert gap(Line(1.0), PerSample(Drawing()), steps=1)["duality_gap"].value < 0.5


def test_a_label_reaches_both_networks():
    class Conditional(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(2))

        def forward(self, noise, label):
            return noise + self.shift[label][:, None]

    class Told(Parabola):
        def forward(self, x, sigma, label=None):
            return super().forward(x - 4 * label[:, None], sigma)

    sets = []
    for seed in range(2):
        x, label = data(2_000, seed)[0], torch.arange(2_000) % 2
        sets.append((x + 4 * label[:, None], label))
    options = {"latent": 1, "steps": 200, "learning_rate": 0.05}
    wrong = duality_gap(Conditional(), Told(0.0, 0.0, -0.5), *sets, **options)
    right = Conditional()
    right.shift.data[1] = 4.0
    fooled = duality_gap(right, Told(), *sets, **options)
    assert wrong["gap_discriminator"].value > 0.15
    assert fooled["duality_gap"].value == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"steps": 0}, "got 0, 512, 0.05 and 0.0"),
        ({"perturbation": math.nan}, "perturbation of at least 0, got .* nan"),
        ({"learning_rate": 0.0}, "learning rate above 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        gap(Line(), Parabola(), **options)


def test_sets_that_do_not_fit_and_values_that_are_not_finite_get_a_sentence():
    with pytest.raises(InputError, match=r"one shape .* got \[9, 1\] and \[9, 2\]"):
        duality_gap(Line(), Parabola(), data(9), (torch.ones(9, 2), None), latent=1)
    with pytest.raises(RunError, match="is not finite"):
        gap(Line(math.inf), Parabola(), steps=1)
