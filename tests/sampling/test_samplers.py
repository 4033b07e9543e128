"""Heun's sampler against flows that are known in closed form."""

import math

import pytest
import torch
from oracles import Counted
from torch import nn

from hybridgen.errors import RunError
from hybridgen.maths.noise import karras_sigmas
from hybridgen.protocols import Cost
from hybridgen.sampling.samplers import Heun, check_samples

STD = 0.5


def gaussian_denoiser(x, sigma, label=None):
    """Of `N(0, STD^2)`; a label moves the data to that many units."""
    mean = 0 if label is None else label[:, None].to(x)
    return mean + (x - mean) * (STD**2 / (STD**2 + sigma[:, None] ** 2))


def flow(noise, sigmas):
    """Where the probability flow of one Gaussian takes the noise: standard deviations shrink."""
    start = float(sigmas[0])
    return noise * start * STD / math.sqrt(STD**2 + start**2)


def test_heun_follows_the_gaussian_flow():
    noise, sigmas = torch.randn(64, 2, dtype=torch.float64), karras_sigmas(200)
    x = Heun(gaussian_denoiser, (2,), sigmas)(noise)
    torch.testing.assert_close(x, flow(noise, sigmas), rtol=1e-3, atol=0)


def uneven(steps):
    """Levels that share their ends and the last Euler step, however many there are between."""
    return torch.cat([torch.linspace(20, 0.3, steps, dtype=torch.float64), torch.zeros(1)])


def test_the_error_falls_fourfold_when_steps_double():
    def factor(steps):
        sigmas = uneven(steps)
        got = float(Heun(gaussian_denoiser, (1,), sigmas)(torch.ones(1, 1).double()))
        ahead = 20 * math.sqrt((STD**2 + 0.3**2) / (STD**2 + 20**2))
        return got - ahead * STD**2 / (STD**2 + 0.3**2)

    errors = [abs(factor(steps)) for steps in (201, 401, 801)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.05)


def test_two_steps_are_the_numbers_that_a_hand_computes():
    """From 2 to 1 by the mean of two slopes, from 1 to 0 by one."""
    sampler = Heun(lambda x, s, y: x / (1 + s[:, None] ** 2), (1,), torch.tensor([2.0, 1.0, 0.0]))
    x = 2 * 1.0
    first = (x - x / 5) / 2
    ahead = x - first
    second = (ahead - ahead / 2) / 1
    x = x - (first + second) / 2
    x = x / 2
    assert float(sampler(torch.ones(1, 1))) == pytest.approx(x)


@pytest.mark.parametrize("churn", [0.0, 5.0])
def test_a_sample_costs_two_calls_a_step_but_one_for_the_last(churn):
    denoiser = Counted(gaussian_denoiser)
    sampler = Heun(denoiser, (2,), karras_sigmas(18), churn=churn)
    sampler(torch.randn(3, 2))
    assert denoiser.calls == sampler.cost.calls == 35
    assert sampler.cost == Cost(denoiser=35)


def test_the_denoiser_is_asked_at_the_grids_levels_and_churn_raises_the_first_of_each_step():
    levels = []

    def spy(x, sigma, label=None):
        assert sigma.shape == (len(x),)
        levels.append(round(float(sigma[0]), 6))
        return gaussian_denoiser(x, sigma)

    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])
    Heun(spy, (2,), sigmas)(torch.randn(2, 2))
    assert levels == [4, 2, 2, 1, 1]
    levels.clear()
    Heun(spy, (2,), sigmas, churn=0.6)(torch.randn(2, 2))
    assert levels == pytest.approx([4.8, 2, 2.4, 1, 1.2])
    levels.clear()
    Heun(spy, (2,), sigmas, churn=100.0)(torch.randn(2, 2))
    root = math.sqrt(2)
    assert levels == pytest.approx([4 * root, 2, 2 * root, 1, root], abs=1e-5)


@pytest.mark.parametrize("churn", [0.0, 0.6, 100.0])
def test_at_every_level_that_is_asked_about_the_noise_has_that_level(churn):
    """Data that is a single point at 0: what is left of x is noise alone."""
    spreads = []

    def origin(x, sigma, label=None):
        spreads.append(float(x.std() / sigma[0]))
        return torch.zeros_like(x)

    noise = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(0))
    Heun(origin, (1,), torch.tensor([4.0, 2.0, 1.0, 0.0]), churn=churn)(noise)
    assert spreads == pytest.approx([1] * 5, rel=0.01)


def test_churn_raises_levels_of_its_range_alone_by_noise_of_its_own_deviation():
    """Karras et al. 2022, algorithm 2, lines 4 to 6, on data that is a single point at 0."""
    levels, spreads = [], []

    def origin(x, sigma, label=None):
        levels.append(float(sigma[0]))
        spreads.append(float(x.std()))
        return torch.zeros_like(x)

    noise = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(0))
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])
    options = {"churn": 0.6, "churn_levels": (2.0, 3.0), "churn_noise": 1.5}
    sampler = Heun(Counted(origin), (1,), sigmas, **options)
    sampler(noise)
    assert levels == pytest.approx([4, 2, 2.4, 1, 1])
    assert sampler.cost.calls == sampler.denoiser.calls == 5
    raised = math.sqrt(2**2 + 1.5**2 * (2.4**2 - 2**2))
    assert spreads == pytest.approx([4, 2, raised, raised / 2.4, raised / 2.4], rel=0.01)
    levels.clear()
    Heun(origin, (1,), sigmas, churn=0.6, churn_levels=(0.0, 2.0))(noise)
    assert levels == pytest.approx([4, 2, 2.4, 1, 1.2])


@pytest.mark.parametrize("churn", [10.0, 40.0, 1000.0])
def test_churn_keeps_the_variance_of_the_data(churn):
    noise = torch.randn(20_000, 2, generator=torch.Generator().manual_seed(0)).double()
    x = Heun(gaussian_denoiser, (2,), karras_sigmas(100), churn=churn)(noise)
    assert float(x.std()) == pytest.approx(STD, rel=0.02)
    assert abs(float(x.mean())) < 0.015


def test_churn_adds_noise_of_its_own():
    noise = torch.randn(2_000, 2, generator=torch.Generator().manual_seed(0))
    plain = Heun(gaussian_denoiser, (2,), karras_sigmas(20))(noise)
    stirred = Heun(gaussian_denoiser, (2,), karras_sigmas(20), churn=20.0)(noise)
    correlation = torch.corrcoef(torch.stack([plain.flatten(), stirred.flatten()]))[0, 1]
    assert abs(float(correlation)) < 0.9


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_the_same_noise_gives_the_same_samples_and_other_noise_others(churn):
    sampler = Heun(gaussian_denoiser, (2,), karras_sigmas(10), churn=churn)
    noise = torch.randn(8, 2)
    once = sampler(noise)
    torch.manual_seed(5)
    torch.testing.assert_close(sampler(noise.clone()), once, rtol=0, atol=0)
    assert not torch.allclose(sampler(noise + 0.1), once)


def test_labels_reach_every_slope():
    noise, label = torch.randn(4, 2).double(), torch.tensor([0, 10, 20, 30])
    x = Heun(gaussian_denoiser, (2,), karras_sigmas(100))(noise, label)
    # The flow's end also remembers a mean / 80 of a standard deviation of where it started.
    expected = label[:, None] + flow(noise - label[:, None] / 80, karras_sigmas(100))
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)


def test_samples_have_the_type_of_the_noise_and_no_gradient():
    network = nn.Linear(2, 2)
    x = Heun(lambda x, s, y: network(x), (2,), karras_sigmas(4))(torch.randn(3, 2))
    assert not x.requires_grad
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        noise = torch.randn(3, 2, dtype=dtype)
        assert Heun(gaussian_denoiser, (2,), karras_sigmas(4))(noise).dtype == dtype


@pytest.mark.parametrize("churn", [0.0, 5.0])
def test_steps_from_half_precision_noise_are_taken_in_full_precision(churn):
    seen = []

    def denoiser(x, sigma, label=None):
        seen.append(x.dtype)
        return gaussian_denoiser(x, sigma)

    sampler = Heun(denoiser, (2,), karras_sigmas(18), churn)
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0)).bfloat16()
    if churn == 0:
        exact = Heun(gaussian_denoiser, (2,), karras_sigmas(18))(noise.double())
        torch.testing.assert_close(sampler(noise).double(), exact, rtol=2**-8, atol=1e-6)
    else:
        sampler(noise)
    assert set(seen) == {torch.float32}


def test_images_of_any_shape_are_sampled():
    sampler = Heun(lambda x, s, y: torch.full_like(x, 3.0), (2, 4, 4), karras_sigmas(5))
    torch.testing.assert_close(sampler(torch.randn(3, 2, 4, 4)), torch.full((3, 2, 4, 4), 3.0))


def test_samples_that_stop_being_finite_stop_the_sampler_and_name_the_step():
    sigmas = torch.tensor([4.0, 2.0, 1.0, 0.0])

    def explodes(x, sigma, label=None):
        return torch.where(sigma[:, None] < 3, math.inf, 0.0) * torch.ones_like(x)

    with pytest.raises(RunError, match=r"step 1 of 3 \(sigma 4\)"):
        Heun(explodes, (2,), sigmas)(torch.randn(3, 2))
    with pytest.raises(RunError, match=r"step 2 of 7 \(sigma 0.125\)"):
        check_samples([torch.tensor(step != 1) for step in range(7)], [1.0, 0.125] + [0.1] * 5)


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (
            lambda s: Heun(gaussian_denoiser, (2,), s)(torch.randn(3, 5)),
            r"\[b, \*\[2\]\].*\[3, 5\]",
        ),
        (lambda s: Heun(gaussian_denoiser, (2,), s[:-1]), "fall strictly to 0"),
        (lambda s: Heun(gaussian_denoiser, (2,), s.flip(0)), "fall strictly to 0"),
        (lambda s: Heun(gaussian_denoiser, (2,), s[-1:]), "fall strictly to 0"),
        (lambda s: Heun(gaussian_denoiser, (2,), s[None]), "fall strictly to 0"),
        (
            lambda s: Heun(gaussian_denoiser, (2,), torch.tensor([math.inf, 1.0, 0.0])),
            "must be finite",
        ),
        (
            lambda s: Heun(gaussian_denoiser, (2,), torch.tensor([math.nan, 1.0, 0.0])),
            "must be finite",
        ),
        (lambda s: Heun(gaussian_denoiser, (2,), s, churn=-1.0), "churn must be finite and >= 0"),
        (lambda s: Heun(gaussian_denoiser, (2,), s, churn=math.nan), "churn"),
        (lambda s: Heun(gaussian_denoiser, (2,), s, churn=math.inf), "churn"),
        (lambda s: Heun(gaussian_denoiser, (2,), s, churn_levels=(3.0, 2.0)), "low <= high, got 3"),
        (lambda s: Heun(gaussian_denoiser, (2,), s, churn_levels=(-1.0, 2.0)), "0 <= low"),
        (lambda s: Heun(gaussian_denoiser, (2,), s, churn_noise=0.0), "churn_noise must be pos"),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse(karras_sigmas(5))


def test_sampling_can_begin_from_an_image_with_noise():
    """Of a Gaussian every path is known: `x (v / (v + s^2))^(1/2)`."""
    image, noise = torch.randn(2, 50, 2, dtype=torch.float64)
    x = Heun(gaussian_denoiser, (2,), karras_sigmas(200, 0.002, 1.5))(noise, image=image)
    torch.testing.assert_close(
        x, (image + 1.5 * noise) * STD / math.sqrt(STD**2 + 1.5**2), rtol=0, atol=1e-3
    )
    with pytest.raises(ValueError, match="expected noise of shape"):
        Heun(gaussian_denoiser, (2,), karras_sigmas(5))(noise, image=image[:, :1])
