import math

import pytest
import torch

from hybridgen.networks.residual import ResidualDiscriminator, ResidualGenerator


def test_the_blocks_of_a_network_know_how_many_they_are():
    torch.manual_seed(0)
    discriminator = ResidualDiscriminator(resolution=32, width=32, depth=4)
    variance = 2 / 1.04 / math.sqrt(16)
    assert discriminator.blocks[0].mix.weight.var().item() == pytest.approx(
        variance / (16 * 9), rel=0.05
    )


@pytest.mark.parametrize("classes", [0, 10])
def test_a_new_generator_starts_from_unit_variance(classes):
    generator = ResidualGenerator(latent=32, resolution=8, width=64, classes=classes)
    label = torch.randint(classes, (256,)) if classes else None
    scale = generator.modulate(generator.entry(torch.randn(256, 32), label))
    assert scale.var().item() == pytest.approx(1, rel=0.2)
    assert generator.constant.shape == (128, 4, 4)
    assert generator.constant.var().item() == pytest.approx(1, rel=0.15)


def test_layers_outside_the_blocks_start_with_gain_one():
    torch.manual_seed(0)
    generator = ResidualGenerator(resolution=8, channels=3, width=256, depth=1)
    discriminator = ResidualDiscriminator(resolution=8, channels=3, width=256, depth=1)
    variances = {
        generator.narrow[0]: 1 / 512,
        generator.out: 1 / 256,
        discriminator.entry: 1 / 3,
        discriminator.widen[0]: 1 / 256,
        discriminator.head.linear: 1 / 512,
    }
    for layer, variance in variances.items():
        assert layer.weight.var().item() == pytest.approx(variance, rel=0.2)
        assert layer.bias is None
    assert discriminator.collect.var().item() == pytest.approx(1 / 16, rel=0.1)


def test_a_discriminator_sees_the_pixels_at_the_border():
    discriminator = ResidualDiscriminator(resolution=12, width=8, depth=1)
    x = torch.randn(2, 1, 12, 12, requires_grad=True)
    (gradient,) = torch.autograd.grad(discriminator(x).sum(), x)
    assert gradient.ne(0).all()


def test_a_discriminator_ends_in_a_depthwise_convolution_as_large_as_the_base():
    discriminator, seen = ResidualDiscriminator(resolution=28, width=32, depth=1), []
    discriminator.blocks[-1].register_forward_hook(lambda module, args, out: seen.append(out))
    discriminator.head.linear.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    discriminator(torch.randn(2, 1, 28, 28))
    kernel = discriminator.collect.unsqueeze(1)
    expected = torch.nn.functional.conv2d(seen[0], kernel, groups=len(kernel)).flatten(1)
    torch.testing.assert_close(seen[1], expected, rtol=1e-4, atol=1e-5)
    assert discriminator.collect.std().item() == pytest.approx(1 / 7, rel=0.1)


def test_every_block_gets_the_noise_bias_that_was_made_for_it():
    discriminator, seen = ResidualDiscriminator(noise_conditional=True, resolution=16, width=8), []
    torch.nn.init.normal_(discriminator.noise.linear.weight)
    for block in discriminator.blocks:
        block.register_forward_pre_hook(lambda module, args: seen.append(args[1]))
    x, sigma = torch.randn(2, 1, 16, 16), torch.tensor([0.1, 3.0])
    discriminator(x, sigma)
    _, biases = discriminator.noise(x, sigma)
    assert len(seen) == len(biases) == len(discriminator.blocks)
    for bias, expected in zip(seen, biases, strict=True):
        torch.testing.assert_close(bias, expected)
    assert len({tuple(bias.flatten().tolist()) for bias in seen}) == len(seen)
