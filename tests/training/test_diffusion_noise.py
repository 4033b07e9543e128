"""Noise on all that a GAN's discriminator sees (Diffusion-GAN): levels, depth, and the loop."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from hybridgen import AdversarialLoss
from hybridgen.data.augment import DiffusionNoise
from hybridgen.data.images import digits
from hybridgen.data.settings import AugmentSettings, DiffusionNoiseSettings
from hybridgen.data.source import Shard
from hybridgen.errors import InputError
from hybridgen.maths.rng import normal_share
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.networks.patch import PatchDiscriminator
from hybridgen.networks.residual import ResidualDiscriminator
from hybridgen.training.gan import GanTraining, train_gan
from hybridgen.training.gan import _noise as noise_of_the_loop


def noise(depth=0.0, **changes):
    made = DiffusionNoise(DiffusionNoiseSettings(**{"highest": 1.0, "lowest": 0.01, **changes}))
    made.depth.fill_(depth)
    return made


@pytest.mark.parametrize(("depth", "largest"), [(0.0, 0.01), (0.5, 0.1), (1.0, 1.0)])
def test_a_share_has_no_noise_and_the_other_levels_are_log_uniform_up_to_the_depth(depth, largest):
    level = noise(depth, clean=0.25).level((torch.arange(1_000) + 0.5) / 1_000)
    assert (level == 0).sum() == 250
    decades = level[level > 0].double().log10()
    deepest = torch.tensor(largest).log10().item()
    assert decades.min() >= -2 - 1e-6 and decades.max() <= deepest + 1e-6
    assert float(decades.mean()) == pytest.approx((deepest - 2) / 2, abs=1e-5)
    if depth > 0:
        assert torch.histc(decades.float(), 5, -2, deepest).tolist() == pytest.approx([150] * 5)


def test_real_and_generated_samples_have_one_level_and_noise_of_their_own():
    made, x = noise(1.0), torch.ones(64, 3, 4, 4)
    setup = SimpleNamespace(config=GanTraining(batch=64), normal=normal_share, share=lambda x: x)
    real_noise, fake_noise, uniform = noise_of_the_loop(
        setup, x, 64, torch.Generator().manual_seed(0)
    )
    assert abs(float((real_noise * fake_noise).mean())) < 0.05
    assert float(real_noise.std()) == pytest.approx(1, abs=0.05)
    pair = made(x, -x, real_noise, fake_noise, uniform)
    sigma = pair["sigma"]
    assert (sigma == 0).sum() == 32 and len(sigma.unique()) == 33
    for i in range(64):
        torch.testing.assert_close(pair["real"][i], 1 + sigma[i] * real_noise[i])
        torch.testing.assert_close(pair["fake"][i], -1 + sigma[i] * fake_noise[i])


@pytest.mark.parametrize(
    ("before", "sign", "after"),
    [(0.5, 0.9, 0.6), (0.5, 0.2, 0.4), (0.5, 0.6, 0.5), (0.95, 0.9, 1.0), (0.05, -1.0, 0.0)],
)
def test_the_depth_rises_above_the_target_and_falls_below_it(before, sign, after):
    made = noise(before, target=0.6, speed_images=1_000)
    made.update(sign, 100)
    assert float(made.depth) == pytest.approx(after)
    other = noise()
    other.load_state_dict(made.state_dict())
    assert torch.equal(other.depth, made.depth) and not list(made.parameters())


@pytest.mark.parametrize(("sign", "count"), [(1.5, 1), (float("nan"), 1), (0.0, -1)])
def test_impossible_observations_are_refused(sign, count):
    with pytest.raises(ValueError, match="sign_accuracy in"):
        noise().update(sign, count)


@pytest.mark.parametrize(
    ("refused", "sentence"),
    [
        (lambda: DiffusionNoise(DiffusionNoiseSettings()), "give highest"),
        (lambda: noise(lowest=1.0), "lowest must be below diffusion.highest, got 1.0 and 1.0"),
        (lambda: noise(clean=1.0), r"clean must be a number in \[0, 1\), got 1.0"),
        (lambda: noise(highest=0.0), "highest must be a number in"),
    ],
)
def test_settings_of_impossible_noise_are_one_sentence(refused, sentence):
    with pytest.raises(InputError, match=sentence):
        refused()


@pytest.mark.parametrize(
    ("noise_conditional", "augment", "sentence"),
    [
        (False, {}, "set discriminator.noise_conditional true"),
        (True, {"strength": 0.5}, "set augment.strength 0"),
        (True, {"adaptive": True}, "set augment.strength 0"),
    ],
)
def test_a_blind_discriminator_and_augmentation_are_refused(noise_conditional, augment, sentence):
    augment = AugmentSettings(**augment)
    DiffusionNoiseSettings().check_discriminator(noise_conditional, augment)
    with pytest.raises(InputError, match=sentence):
        DiffusionNoiseSettings(highest=1.0).check_discriminator(noise_conditional, augment)


def test_the_loop_refuses_them_before_the_first_step(train, training, players):
    with pytest.raises(InputError, match="noise_conditional=True"):
        train(training(), players(), noise=noise())
    sighted = MlpDiscriminator(classes=8, noise_conditional=True)
    with pytest.raises(InputError, match="leave out one of the two"):
        train(training(), players(sighted, augment=lambda x: x), noise=noise())


class Zero(nn.Module):
    """A generator of zeros."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 2))

    def forward(self, z, label):
        return 0 * (z @ self.weight)


class Zeros:
    """A source of nothing but zeros, so that what the discriminator sees is noise."""

    def batches(self, shard):
        while True:
            yield torch.zeros(16, 2), torch.zeros(16, dtype=torch.int64)


class Recorded(nn.Module):
    """A discriminator that remembers its inputs."""

    def __init__(self):
        super().__init__()
        self.weight, self.calls = nn.Parameter(torch.ones(2)), []

    def forward(self, x, sigma, label):
        self.calls.append((x.detach().clone(), sigma.clone()))
        return x @ self.weight


def test_in_both_halves_of_a_step_the_discriminator_sees_fresh_noise_and_is_told_its_level(
    train, training
):
    discriminator, made = Recorded(), noise(1.0, target=-0.9)
    players = Zero(), AdversarialLoss(discriminator)
    config = training(steps=2, accumulation=2)
    list(train(config, players, noise=made, source=Zeros()))
    assert len(discriminator.calls) == 8  # steps, halves, micro-batches
    seen = []
    for x, sigma in discriminator.calls:
        level, same = sigma.chunk(2)
        assert torch.equal(level, same) and x.shape == (16, 2)
        assert torch.equal(x[sigma == 0], torch.zeros_like(x[sigma == 0]))
        normal = x[sigma > 0] / sigma[sigma > 0, None]
        assert 0 < normal.abs().max() < 5
        seen += normal.flatten().tolist()
    assert len(set(seen)) == len(seen) == 2 * 2 * 16 * 2  # half of the samples, two entries each
    for first, second in zip(discriminator.calls[::2], discriminator.calls[1::2], strict=True):
        levels = torch.cat([first[1][:8], second[1][:8]])
        assert (levels == 0).sum() == 8  # of a whole batch, exactly half


def test_every_step_moves_the_depth_and_says_it(train, training, players):
    torch.manual_seed(0)
    sighted = MlpDiscriminator(width=16, depth=2, classes=8, noise_conditional=True)
    made, depth, directions = noise(0.5, target=-0.3, speed_images=160), 0.5, set()
    for step in train(training(steps=7), players(sighted), noise=made):
        directions.add(step.losses["sign_accuracy"] > -0.3)
        depth += 0.1 if step.losses["sign_accuracy"] > -0.3 else -0.1
        depth = min(max(depth, 0.0), 1.0)
        assert step.losses["depth"] == float(step.state["diffusion"].depth)
        assert step.losses["depth"] == pytest.approx(depth, abs=1e-6)
    assert directions == {True, False}


@pytest.mark.parametrize("kind", [DcganDiscriminator, ResidualDiscriminator, PatchDiscriminator])
def test_every_discriminator_of_images_can_be_told_the_level(kind):
    size = {"resolution": 8} if kind is not PatchDiscriminator else {"depth": 1}
    discriminator = kind(channels=1, width=8, noise_conditional=True, **size)
    steps = train_gan(
        DcganGenerator(latent=3, resolution=8, channels=1, width=8),
        AdversarialLoss(discriminator),
        lambda start: digits().batches(Shard(batch=16, seed=0, start=start)),
        GanTraining(steps=2, batch=16),
        Accelerator(cpu=True),
        latent=3,
        noise=noise(1.0),
    )
    list(steps)  # two, because the ends of residual blocks begin at zero
    biases = [p.grad for name, p in discriminator.named_parameters() if "noise.linear" in name]
    assert biases and all(gradient.abs().sum() > 0 for gradient in biases)
