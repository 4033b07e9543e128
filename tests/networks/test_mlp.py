import math

import pytest
import torch
from torch import nn

from hybridgen.errors import InputError
from hybridgen.networks.build import (
    DiscriminatorSettings,
    GeneratorSettings,
    build_discriminator,
    build_generator,
    load_network,
)
from hybridgen.networks.mlp import FourierFeatures, MlpDiscriminator, MlpGenerator


def by_hand(layers, last, x):
    for layer in layers:
        x = layer(x)
        x = torch.where(x > 0, x, 0.2 * x)
    return last(x)


def test_a_generator_is_linear_maps_with_leaky_relus_between():
    generator, noise = MlpGenerator(latent=3, width=16, depth=2), torch.randn(5, 3)
    assert len(generator.hidden) == 2
    torch.testing.assert_close(generator(noise), by_hand(generator.hidden, generator.out, noise))


def test_a_discriminator_is_linear_maps_with_leaky_relus_between():
    discriminator, x = MlpDiscriminator(width=16, depth=3), torch.randn(5, 2)
    expected = by_hand(discriminator.hidden, discriminator.head.linear, x).squeeze(1)
    torch.testing.assert_close(discriminator(x, torch.zeros(5)), expected)


@pytest.mark.parametrize(("architecture", "shape"), [("mlp", (2,)), ("dcgan", (1, 8, 8))])
def test_under_spectral_norm_no_matrix_of_a_discriminator_stretches(architecture, shape, tmp_path):
    torch.manual_seed(0)
    settings = DiscriminatorSettings(architecture=architecture, width=16, norm="spectral")
    discriminator, x = build_discriminator(settings, shape), torch.randn(64, *shape)
    for _ in range(50):  # power iterations
        discriminator(x)
    layers = [m for m in discriminator.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(layers) == 3
    for layer in layers:
        greatest = torch.linalg.matrix_norm(layer.weight.detach().flatten(1), 2)
        assert float(greatest) == pytest.approx(1, abs=1e-3)
    discriminator.eval().save_pretrained(tmp_path)
    torch.testing.assert_close(load_network(tmp_path)(x), discriminator(x))
    if architecture == "mlp":  # every slope is at most 1, so a logit is no steeper than a distance
        y = x.flip(0)
        apart = (discriminator(x) - discriminator(y)).abs() / (x - y).norm(dim=1)
        assert float(apart.detach().max()) <= 1 + 1e-3


def test_a_norm_that_an_architecture_does_not_have_is_refused():
    with pytest.raises(InputError, match="residual discriminator has weights without norm"):
        DiscriminatorSettings(architecture="residual", norm="spectral")
    assert DiscriminatorSettings(architecture="residual", norm="none").norm == "none"


def test_amplitudes_decay_only_where_there_are_frequencies():
    with pytest.raises(InputError, match=r"got decay 0\.5: set discriminator\.frequencies"):
        DiscriminatorSettings(architecture="mlp", decay=0.5)
    assert DiscriminatorSettings(architecture="mlp", decay=0.5, frequencies=1).decay == 0.5


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_fourier_features_are_sines_and_cosines_of_each_coordinate(decay):
    features = FourierFeatures(dimension=2, frequencies=3, min_wavelength=0.5, decay=decay)
    x = torch.tensor([[0.3, -1.1]])
    expected = [0.3, -1.1]
    for function in (math.sin, math.cos):
        for v in (0.3, -1.1):
            waves = [2 * math.pi / length for length in (8, 2, 0.5)]
            expected += [function(v * wave) / wave**decay for wave in waves]
    torch.testing.assert_close(features(x), torch.tensor([expected]))
    assert features.size == len(expected)


@pytest.mark.parametrize("frequencies", [0, 8])
def test_each_layer_has_a_bias_of_the_level_and_the_first_sees_the_fourier_features(frequencies):
    discriminator = MlpDiscriminator(
        width=8, depth=3, frequencies=frequencies, noise_conditional=True, classes=2
    )
    nn.init.normal_(discriminator.noise.linear.weight)
    x, level, label = torch.randn(5, 2), torch.full((5,), 0.5), torch.tensor([0, 1, 1, 0, 1])
    h, biases = discriminator.noise(x, level)
    h = discriminator.features(h) if frequencies else h
    for layer, bias in zip(discriminator.hidden, biases, strict=True):
        h = layer(h) + bias
        h = torch.where(h > 0, h, 0.2 * h)
    torch.testing.assert_close(discriminator(x, level, label), discriminator.head(h, label))


def test_with_frequencies_it_learns_the_width_of_narrow_points_and_without_it_does_not():
    """Points a hundredth as wide as their distance, against points half as wide."""

    def learned(network):
        torch.manual_seed(0)
        optimizer = torch.optim.Adam(network.parameters(), 2e-3)
        gain = 0.0
        for number in range(150):
            centre = torch.randint(0, 3, (512, 1)) - 1.0
            real, fake = (
                centre + 0.014 * torch.randn(2, 512, 1) * torch.tensor([1, 0.5])[:, None, None]
            )
            logits = network(torch.cat([real, fake]), None)
            loss = nn.functional.softplus(
                logits * (torch.arange(1024) < 512).float().mul(-2).add(1)
            )
            optimizer.zero_grad()
            loss.mean().backward()
            optimizer.step()
            if number >= 130:
                gain += (math.log(2) - loss.mean().item()) / 20
        return gain

    torch.manual_seed(0)
    settings = {"width": 64, "depth": 2, "activation": "silu"}
    plain, fine = (
        build_discriminator(
            DiscriminatorSettings(architecture="mlp", frequencies=frequencies, **settings), (1,)
        )
        for frequencies in (0, 8)
    )
    assert learned(plain) < 0.005 < 0.05 < learned(fine)


def test_it_is_built_by_name_and_read_back(tmp_path):
    settings = DiscriminatorSettings(architecture="mlp", frequencies=8, noise_conditional=True)
    discriminator = build_discriminator(settings, (3,), 4)
    discriminator.save_pretrained(tmp_path)
    x, level, label = torch.randn(5, 3), torch.rand(5), torch.tensor([0, 3, 1, 2, 2])
    torch.testing.assert_close(
        load_network(tmp_path)(x, level, label), discriminator(x, level, label)
    )
    assert discriminator.shape == (3,)
    assert (discriminator.config["frequencies"], discriminator.config["min_wavelength"]) == (
        8,
        0.05,
    )


def test_frequencies_that_no_network_can_have_are_refused():
    for architecture in ("residual", "dcgan"):
        settings = DiscriminatorSettings(architecture=architecture, frequencies=8)
        with pytest.raises(InputError, match=f"points, but architecture {architecture} is for im"):
            build_discriminator(settings, (1, 8, 8))
    with pytest.raises(InputError, match="architecture mlp is for points"):
        build_discriminator(DiscriminatorSettings(architecture="mlp", frequencies=8), (1, 8, 8))
    with pytest.raises(InputError, match="frequencies is -1, but must be at least 1"):
        MlpDiscriminator(frequencies=-1)
    with pytest.raises(
        InputError, match="architecture must be one of mlp, dcgan, residual, got 'fourier'"
    ):
        build_generator(GeneratorSettings(architecture="fourier"), (2,))  # pyright: ignore
    with pytest.raises(InputError, match="min_wavelength must be positive and finite"):
        FourierFeatures(dimension=2, frequencies=3, min_wavelength=0.0)
