import math

import pytest
import torch

from hybridgen.errors import InputError
from hybridgen.networks.conditioning import (
    LabelledNoise,
    NoiseConditioning,
    ProjectionHead,
    noise_features,
)
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator


def test_without_classes_the_noise_passes_unchanged():
    noise = torch.randn(3, 4)
    entry = LabelledNoise(latent=4, classes=0)
    assert entry.size == 4
    assert entry(noise, None) is noise


def test_a_uniform_prior_makes_normal_noise_uniform_and_draws_nothing():
    entry = LabelledNoise(latent=1, classes=0, prior="uniform")
    quantiles = torch.tensor([-1.959964, -0.6744898, 0.0, 1.281552], dtype=torch.float64)
    expected = torch.tensor([-0.95, -0.5, 0.0, 0.8], dtype=torch.float64)
    torch.testing.assert_close(entry(quantiles[:, None], None)[:, 0], expected, rtol=0, atol=1e-6)
    with pytest.raises(InputError, match="prior is 'cauchy'; choose one of normal, uniform"):
        LabelledNoise(latent=1, classes=0, prior="cauchy")


def test_a_label_is_joined_to_the_noise_as_its_own_vector():
    noise, entry = torch.randn(3, 4), LabelledNoise(latent=4, classes=10)
    out = entry(noise, torch.tensor([7, 0, 7]))
    assert out.shape == (3, entry.size) == (3, 14)
    assert torch.equal(out[:, :4], noise)
    assert torch.equal(out[0, 4:], out[2, 4:])
    assert not torch.equal(out[0, 4:], out[1, 4:])
    assert LabelledNoise(latent=4, classes=1000).size == 68


def test_a_projection_term_starts_at_the_scale_of_a_logit():
    h = torch.randn(4000, 50)
    head = ProjectionHead(features=50, classes=1000)
    torch.nn.init.zeros_(head.linear.weight)
    torch.nn.init.zeros_(head.linear.bias)
    assert head(h, torch.arange(4000) % 1000).var().item() == pytest.approx(1, rel=0.15)


def test_noise_features_are_sines_and_cosines_of_the_logarithm_of_sigma():
    sigma = torch.tensor([0.0, 0.002, 1.0, 80.0])
    features = noise_features(sigma)
    assert features.shape == (4, 24)
    assert features.isfinite().all()
    torch.testing.assert_close(features[0], torch.tensor([1.0] * 12 + [0.0] * 12))
    level = math.log(1.0 / 0.002 + math.sqrt((1.0 / 0.002) ** 2 + 1))
    frequencies = [0.25 * math.sqrt(2) ** k for k in range(12)]
    exact = [function(level * f) for function in (math.cos, math.sin) for f in frequencies]
    torch.testing.assert_close(features[2], torch.tensor(exact), rtol=1e-4, atol=1e-4)


def test_noise_features_tell_any_two_levels_apart_but_change_smoothly():
    sigma = torch.logspace(-4, 2, 200)
    features = noise_features(sigma)
    distance = (features[:, None] - features[None]).norm(dim=-1)
    level = torch.asinh(sigma / 0.002)
    apart = (level[:, None] - level[None]).abs()
    assert distance[apart > 0.05].min() > 0.3
    assert (distance <= 16 * apart + 1e-4).all()


def test_noise_conditioning_gives_every_block_its_own_bias():
    noise = NoiseConditioning([3, 5])
    torch.nn.init.normal_(noise.linear.weight)
    _, biases = noise(torch.randn(4, 2), torch.rand(4))
    assert [list(bias.shape) for bias in biases] == [[4, 3], [4, 5]]


@pytest.mark.parametrize(
    ("label", "classes", "message"),
    [
        (None, 3, "3 classes but got label=None"),
        (torch.zeros(2).long(), 0, "classes=0 but got labels"),
        (torch.zeros(2, 1).long(), 3, r"shape \[2, 1\]"),
        (torch.zeros(3).long(), 3, r"expected integers of shape \[2\]"),
        (torch.zeros(2), 3, "float32"),
    ],
)
def test_a_missing_an_unwanted_and_an_odd_label_get_a_sentence(label, classes, message):
    with pytest.raises(ValueError, match=message):
        MlpGenerator(width=4, depth=1, classes=classes)(torch.randn(2, 2), label)
    with pytest.raises(ValueError, match=message):
        MlpDiscriminator(width=4, depth=1, classes=classes)(
            torch.randn(2, 2), torch.zeros(2), label
        )


def test_inputs_of_another_shape_get_a_sentence():
    with pytest.raises(ValueError, match=r"noise has shape \[2, 3\].*\[b 2\]"):
        MlpGenerator(width=4, depth=1)(torch.randn(2, 3))
    with pytest.raises(ValueError, match=r"x has shape \[2, 1, 3\].*\[b 2\]"):
        MlpDiscriminator(width=4, depth=1)(torch.randn(2, 1, 3), torch.zeros(2))


@pytest.mark.parametrize("sigma", [None, torch.tensor(0.5), torch.zeros(3), torch.zeros(2, 1)])
def test_a_noise_conditional_discriminator_asks_for_one_sigma_a_sample(sigma):
    with pytest.raises(ValueError, match=r"noise-conditional discriminator needs \[2\]"):
        MlpDiscriminator(width=4, depth=1, noise_conditional=True)(torch.randn(2, 2), sigma)


def test_a_negative_number_of_classes_is_an_input_error():
    with pytest.raises(InputError, match="classes is -1"):
        MlpGenerator(classes=-1)
    with pytest.raises(InputError, match="classes is -1"):
        MlpDiscriminator(classes=-1)
