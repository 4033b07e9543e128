"""Logits made into log ratios, on fixture A, where the right ratio is known."""

import json
import math
from statistics import NormalDist

import pytest
import torch
import yaml
from oracles import P, Q, draws, ks, w1
from sklearn.linear_model import LogisticRegression

from hybridgen import Refined, SinglePass
from hybridgen.data.images import digits, quantised
from hybridgen.data.points import MixturePoints
from hybridgen.errors import InputError
from hybridgen.evaluation.density_ratio import (
    BOUND,
    Calibration,
    LogRatio,
    calibrated,
    clean_logits,
    overfitting,
    platt,
)
from hybridgen.evaluation.runs import SavedRun, load_guide
from hybridgen.maths.mixtures import ring
from hybridgen.metrics.calibration import cross_entropy
from hybridgen.networks.dcgan import DcganDiscriminator
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.training.validation import HeldOutValidation

N = 20_000
REAL, FAKE = draws(P, N, seed=11), draws(Q, N, seed=12)
BEST = 1.1333
"""The least cross-entropy without noise, integrated."""


def exact(x, sigma=0.0, label=None):
    return P.log_ratio(Q, x)


def validation(count=N):
    return HeldOutValidation(REAL[:count], FAKE[:count], torch.tensor([0.02, 0.5, 3.0]).double())


@pytest.mark.parametrize(("factor", "shift"), [(1.0, 0.0), (0.02, -3.0), (40.0, 7.0)])
def test_the_right_line_through_distorted_logits_is_found(factor, shift):
    slope, offset = platt(factor * exact(REAL) + shift, factor * exact(FAKE) + shift)
    assert slope * factor == pytest.approx(1, abs=0.03)
    assert offset + slope * shift == pytest.approx(0, abs=0.03)


def test_the_line_is_that_of_logistic_regression():
    real, fake = 3 * exact(REAL) - 1, 3 * exact(FAKE[:5_000]) - 1
    known = LogisticRegression(C=1e9, class_weight="balanced", tol=1e-8)
    known.fit(torch.cat([real, fake])[:, None].numpy(), [1] * len(real) + [0] * len(fake))
    slope, offset = platt(real, fake)
    assert slope == pytest.approx(known.coef_[0, 0], rel=0.01)
    assert offset == pytest.approx(known.intercept_[0], abs=0.01)


def test_logits_that_are_wrong_way_round_or_say_nothing_are_ignored():
    slope, offset = platt(-exact(REAL), -exact(FAKE[:100]))
    assert slope == 0 and offset == pytest.approx(0, abs=1e-4)
    for constant in (3.0, 0.1, -1e3, 0.0):  # the mean of many 0.1 is not quite 0.1
        assert platt(torch.full((50,), constant), torch.full((9,), constant)) == (0, 0)


def test_logits_that_part_the_sets_entirely_get_a_finite_slope():
    slope, offset = platt(torch.linspace(1, 2, 50), torch.linspace(-2, -1, 50))
    assert 0 < slope < 20 and abs(offset) < 0.1
    # At two points the best probabilities are Platt's targets themselves, 51/52 and 1/52.
    slope, offset = platt(torch.full((50,), 2.0), torch.full((50,), -2.0))
    assert 2 * slope + offset == pytest.approx(math.log(51), rel=1e-3)
    assert -2 * slope + offset == pytest.approx(-math.log(51), rel=1e-3)
    few, _ = platt(torch.full((50,), 2.0), torch.full((8,), -2.0))  # the smaller set decides
    assert 2 * few == pytest.approx(math.log(9), rel=1e-3)


def distorted(x, sigma, label=None):
    """Right at one level, up to a line; at the others it knows less."""
    near = (sigma - 0.5).abs() < 0.01
    return torch.where(near, 5 * exact(x) - 2, 0.1 * exact(x) + 4 * torch.sin(50 * x[:, 0]))


def test_the_level_the_line_and_the_bound_are_chosen():
    found, figures = calibrated(distorted, validation())
    assert found.sigma == pytest.approx(0.5)
    assert found.slope == pytest.approx(0.2, rel=0.05)
    assert found.offset == pytest.approx(0.4, abs=0.05)
    ratios = LogRatio(discriminator=distorted, calibration=found)(FAKE)
    assert float((ratios <= found.log_bound).double().mean()) == pytest.approx(BOUND, abs=1e-3)
    expected = (ratios - found.log_bound).exp().clamp(max=1).mean()
    assert found.acceptance == pytest.approx(float(expected))
    assert figures["log_ratio_bce"] == pytest.approx(BEST, abs=0.015)
    assert figures["log_ratio_bce_raw"] > BEST + 0.5
    assert figures["log_ratio_slope"] == found.slope


def test_figures_are_of_the_half_that_chose_nothing():
    real, fake = REAL[:400].clone(), FAKE[:400].clone()
    real[1::2], fake[1::2] = FAKE[:200], REAL[:200]  # the other half is the wrong way round
    level = torch.tensor([0.5]).double()
    found, figures = calibrated(distorted, HeldOutValidation(real, fake, level))
    assert found.slope == pytest.approx(0.2, rel=0.3)
    assert figures["log_ratio_bce"] > 2 * math.log(2)
    raw = (clean_logits(distorted, x[1::2], 0.5) for x in (real, fake))
    assert figures["log_ratio_bce_raw"] == pytest.approx(cross_entropy(*raw))


def test_the_level_is_that_of_the_half_that_chooses():
    """At .5 it is right for even rows and the wrong way round for odd ones, at 3 a little off."""
    row = torch.arange(2_000)

    def divided(x, sigma, label=None):
        sign = torch.where(row[: len(x)] % 2 == 0, 1.0, -1.0)
        off = exact(x + 0.3 * x.flip(0))
        return torch.where((sigma - 0.5).abs() < 0.01, sign * exact(x), off)

    level = torch.tensor([0.5, 3.0]).double()
    asked = HeldOutValidation(REAL[:1_000], FAKE[:1_000], level)
    found, figures = calibrated(divided, asked)
    assert found.sigma == 0.5
    assert figures["log_ratio_bce"] > 2 * math.log(2)


def test_the_ratio_refines_samples_once_it_is_calibrated():
    found, _ = calibrated(distorted, validation(2_000))
    ratio = LogRatio(discriminator=distorted, calibration=found)
    noise = torch.randn(N, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    made = SinglePass(
        lambda z, label: Q.sample(len(z), torch.Generator().manual_seed(len(z)))[0], (1,)
    )
    chain = Refined(
        made, lambda x, label: distorted(x, torch.full((len(x),), 0.5)), "importance", 20
    )
    assert w1(chain(noise)) > 0.1  # five times too sure
    settings = found.log_bound, found.acceptance
    x = Refined(made, ratio, "rejection", 40, *settings)(noise)
    assert w1(x) < 0.09 and ks(x) < 0.05


def test_a_discriminator_that_knows_nothing_changes_nothing():
    found, _ = calibrated(lambda x, sigma, label: -exact(x), validation(500))
    assert found.slope == 0
    assert (found.log_bound, found.acceptance) == (found.offset, 1)


def test_images_are_taken_as_they_are_saved():
    seen = []

    def discriminator(x, sigma, label):
        seen.append((x, sigma))
        return x.flatten(1).sum(1)

    x = torch.rand(3, 1, 4, 4) * 3 - 1.5
    clean_logits(discriminator, x, 0.25)
    torch.testing.assert_close(seen[0][0], quantised(x), rtol=0, atol=0)
    assert seen[0][1].tolist() == [0.25] * 3


def test_cross_entropy_of_the_exact_ratio_is_the_least_there_is():
    assert cross_entropy(exact(REAL), exact(FAKE)) == pytest.approx(BEST, abs=0.01)


@pytest.fixture
def guide(tmp_path):
    """A discriminator of a GAN, as experiments/guide.py leaves it."""
    MlpGenerator(width=8, depth=1).save_pretrained(tmp_path / "gan" / "generator")
    MlpDiscriminator(width=8, depth=1, noise_conditional=True).save_pretrained(
        tmp_path / "g" / "discriminator"
    )
    (tmp_path / "g" / "config.yaml").write_text(yaml.safe_dump({"run": f"{tmp_path}/gan"}))
    said = {"sampler": "single_pass", "steps": 1, "scale": 0.0, "window": [0.05, None]}
    said |= {"validation_fraction": 0.2, "significant": True}
    said["model"] = SavedRun(tmp_path / "gan").fingerprint

    def write(**more):
        (tmp_path / "g" / "guide.json").write_text(json.dumps({**said, **more}))
        return load_guide(tmp_path / "g")

    return write


CALIBRATION = {"sigma": 0.1, "slope": 2.0, "offset": -1.0, "log_bound": 1.5, "acceptance": 0.4}


def test_a_finished_guide_of_a_gan_has_its_log_ratio(guide):
    found = guide(log_ratio=CALIBRATION)
    x = torch.randn(5, 2)
    expected = 2 * found.discriminator(x, torch.full((5,), 0.1)) - 1
    torch.testing.assert_close(found.log_ratio(x), expected.double())
    assert found.log_ratio.calibration == Calibration(**CALIBRATION)
    assert found.sampler == "single_pass"


def test_a_guide_without_its_log_ratio_is_damaged(guide):
    with pytest.raises(InputError, match=r"guide.json is damaged .*: train it again"):
        guide()


@pytest.mark.parametrize(
    "damage",
    [
        *({"scale": scale} for scale in (math.nan, math.inf, -1.0, 1e300)),
        *({"window": window} for window in ([-1, 5], [5, 1], [math.nan, 5], [1], [None, 2])),
        *({"steps": steps} for steps in (-3, 0)),
        *({"log_ratio": {**CALIBRATION, "acceptance": share}} for share in (0, 2, math.nan)),
        *({"log_ratio": {**CALIBRATION, "log_bound": bound}} for bound in (math.nan, math.inf)),
        *({"log_ratio": {**CALIBRATION, "slope": slope}} for slope in (math.nan, -5)),
        *({"log_ratio": {**CALIBRATION, "sigma": sigma}} for sigma in (math.nan, -1)),
    ],
)
def test_a_guide_of_numbers_that_cannot_be_is_damaged(guide, damage):
    with pytest.raises(InputError, match=r"guide.json is damaged"):
        guide(**{"log_ratio": CALIBRATION, **damage})


def test_logits_that_are_not_finite_have_no_calibration():
    with pytest.raises(ValueError, match="must be finite"):
        platt(torch.tensor([1.0, math.nan]), torch.zeros(2))


def test_a_guide_of_another_generator_is_refused(guide):
    with pytest.raises(InputError, match="a guide for another model"):
        guide(model="another", log_ratio=CALIBRATION)


class Memory(torch.nn.Module):
    """Knows training examples from others, with noise of deviation 1 about logits 2 apart."""

    def __init__(self, known):
        super().__init__()
        self.known = torch.nn.Parameter(known.flatten(1))
        self.modes = []

    def forward(self, x, sigma, label):
        self.modes.append(self.training)
        seen = torch.cdist(x.flatten(1), self.known).amin(1) < 0.1
        rng = torch.Generator().manual_seed(len(x))
        return 2.0 * seen + torch.randn(len(x), generator=rng)


def test_a_discriminator_that_knows_training_examples_by_heart_overfits():
    source = digits()
    memory = Memory(source.reference("train", 2_000)[0])
    assert overfitting(memory, source) == pytest.approx(NormalDist().cdf(2**0.5), abs=0.03)
    assert memory.modes == [False, False] and memory.training
    torch.manual_seed(0)
    untrained = DcganDiscriminator(resolution=8, width=8)
    before = torch.get_rng_state()
    assert abs(overfitting(untrained, source, seed=3) - 0.5) < 4 * math.sqrt(1 / 6 / 256)
    assert torch.equal(before, torch.get_rng_state())
    assert overfitting(MlpDiscriminator(width=8), MixturePoints(mixture=ring(), name="r")) is None


def test_a_discriminator_of_packs_is_shown_packs():
    class OfTwo(DcganDiscriminator):
        def forward(self, x, sigma, label=None):
            assert x.shape[1:] == (2, 8, 8)
            return super().forward(x, sigma, label)

    rank = overfitting(OfTwo(resolution=8, channels=2, width=8), digits(), pack=2)
    assert 0.3 < rank < 0.7
