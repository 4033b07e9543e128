import math
from multiprocessing.reduction import ForkingPickler
from typing import get_args

import pytest
import torch

from hybridgen.networks.blocks import (
    Activation,
    Downsample,
    ResidualBlock,
    activation_named,
    in_chunks,
    resolutions,
    upsample,
)


@pytest.mark.parametrize("kind", get_args(Activation))
def test_an_activation_keeps_the_second_moment_of_the_other_and_goes_to_a_spawned_process(kind):
    n = torch.randn(10**6, generator=torch.Generator().manual_seed(0))
    assert float(activation_named(kind)(n).square().mean()) == pytest.approx(0.52, abs=0.003)
    ForkingPickler.dumps(activation_named(kind))


def wave(size, frequency):
    """A cosine along the columns, `frequency` in cycles per pixel, sampled at pixel centres."""
    return torch.cos(2 * math.pi * frequency * (torch.arange(size) + 0.5)).expand(1, 1, size, size)


def test_resampling_keeps_a_constant():
    ones = torch.ones(2, 3, 8, 8)
    torch.testing.assert_close(upsample(ones), torch.ones(2, 3, 16, 16))
    torch.testing.assert_close(Downsample()(ones)[..., 1:-1, 1:-1], torch.ones(2, 3, 2, 2))


@pytest.mark.parametrize("frequency", [1 / 16, 1 / 8, 1 / 4])
def test_halving_multiplies_a_wave_by_the_response_of_1331(frequency):
    """`cos(pi f)^3`: [1,3,3,1] / 8 is the box [1,1] / 2 three times."""
    got = Downsample()(wave(64, frequency))[..., 4:-4, 4:-4]
    expected = math.cos(math.pi * frequency) ** 3 * wave(32, 2 * frequency)[..., 4:-4, 4:-4]
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_halving_removes_the_checkerboard():
    rows, columns = torch.meshgrid(torch.arange(16), torch.arange(16), indexing="ij")
    board = (1.0 - 2 * ((rows + columns) % 2)).expand(1, 1, 16, 16)
    assert Downsample()(board)[..., 1:-1, 1:-1].abs().max() < 1e-6


def test_doubling_is_four_times_the_transpose_of_halving():
    x = torch.randn(1, 2, 16, 16, dtype=torch.float64, requires_grad=True)
    small = torch.zeros(1, 2, 8, 8, dtype=torch.float64)
    small[..., 2:-2, 2:-2] = torch.randn(1, 2, 4, 4, dtype=torch.float64)
    (transposed,) = torch.autograd.grad((Downsample().double()(x) * small).sum(), x)
    torch.testing.assert_close(upsample(small), 4 * transposed)


def test_a_new_block_is_the_identity():
    x = torch.randn(2, 8, 4, 4)
    assert torch.equal(ResidualBlock(width=8, blocks=3)(x), x)


def test_weights_start_with_the_variances_of_the_recipe():
    block = ResidualBlock(width=64, blocks=16)
    variance = 2 / 1.04 / math.sqrt(16)
    assert block.widen.weight.var().item() == pytest.approx(variance / 64, rel=0.05)
    assert block.mix.weight.shape == (128, 16, 3, 3)
    assert block.mix.weight.var().item() == pytest.approx(variance / (16 * 9), rel=0.05)
    for bias in (block.widen.bias, block.mix.bias):
        assert not bias.any()


def test_a_block_passes_the_variance_that_its_gain_says():
    """`widen` turns unit variance into `gain^2`, the LeakyReLU's 1.04 / 2 included after it."""
    x = torch.randn(64, 64, 8, 8)
    block = ResidualBlock(width=64, blocks=16)
    variance = 2 / 1.04 / math.sqrt(16)
    hidden = block.widen(x)
    assert hidden.var().item() == pytest.approx(variance, rel=0.1)
    hidden = torch.nn.functional.leaky_relu(hidden, 0.2)
    inside = block.mix(hidden)[..., 1:-1, 1:-1]
    assert inside.var().item() == pytest.approx(variance / math.sqrt(16), rel=0.15)


def test_groups_have_sixteen_channels_or_as_many_as_divide():
    shapes = {8: 16, 4: 8, 12: 8, 3: 2}
    for width, group in shapes.items():
        assert ResidualBlock(width=width, blocks=1).mix.weight.shape[1] == group


def test_a_block_adds_three_convolutions_with_a_leaky_relu_after_the_first_two():
    block = ResidualBlock(width=8, blocks=3)
    torch.nn.init.normal_(block.narrow.weight)
    x, bias = torch.randn(2, 8, 4, 4), torch.randn(2, 16)
    h = block.widen(x) + bias.reshape(2, 16, 1, 1)
    h = block.mix(torch.where(h > 0, h, 0.2 * h))
    h = block.narrow(torch.where(h > 0, h, 0.2 * h))
    torch.testing.assert_close(block(x, bias), x + h)


def test_images_halve_to_a_base_and_channels_double_to_a_cap():
    assert resolutions(resolution=28, channels=1, width=32) == (7, (128, 64, 32))
    base, widths = resolutions(resolution=256, channels=3, width=16)
    assert (base, widths) == (4, (128, 128, 128, 128, 64, 32, 16))
    assert resolutions(resolution=64, channels=3, width=128)[1] == (512, 512, 512, 256, 128)
    assert resolutions(resolution=8, channels=3, width=768)[1] == (768, 768)


def test_a_function_in_chunks_gives_what_it_gives_at_once():
    x, label = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)), torch.arange(7)
    sizes = []

    def shifted(x, label, nothing):
        sizes.append((len(x), nothing))
        return x + label[:, None]

    whole = in_chunks(shifted, x, label, None, size=7)
    assert torch.equal(in_chunks(shifted, x, label, None, size=3), whole)
    assert sizes == [(7, None), (3, None), (3, None), (1, None)]
    assert in_chunks(lambda x: 2 * x, x[:0], size=3).shape == (0, 3)
