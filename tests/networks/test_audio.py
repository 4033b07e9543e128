import math

import pytest
import torch
import torch.nn.functional as F

from hybridgen.networks.audio import (
    MultiPeriodDiscriminator,
    MultiScaleDiscriminator,
    MultiStftDiscriminator,
    by_period,
    spectrogram,
)


def forms(stack):
    """Channels, kernel, stride, groups and dilation of every convolution, the last included."""
    layers = [*stack.layers, stack.head.convolution]
    return [
        (m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.groups, m.dilation)
        for m in layers
    ]


def played(stack, x):
    """The stack written out with torch's functions, and every hidden layer."""
    hidden = []
    for module in stack.layers:
        kernel = (module.weight, module.bias, module.stride, module.padding)
        x = (F.conv1d if x.ndim == 3 else F.conv2d)(x, *kernel, module.dilation, module.groups)
        hidden.append(x := F.leaky_relu(x, 0.2))
    last = stack.head.convolution
    x = (F.conv1d if x.ndim == 3 else F.conv2d)(x, last.weight, last.bias, 1, last.padding)
    return x, hidden


def test_periods_have_the_form_of_hifi_gan():
    with torch.device("meta"):
        network = MultiPeriodDiscriminator()
    tall = [(1, 32), (32, 128), (128, 512), (512, 1024)]
    expected = [(a, b, (5, 1), (3, 1), (2, 0), 1, (1, 1)) for a, b in tall]
    expected += [(1024, 1024, (5, 1), (1, 1), (2, 0), 1, (1, 1))]
    expected += [(1024, 1, (3, 1), (1, 1), (1, 0), 1, (1, 1))]
    assert [forms(stack) for stack in network.stacks] == [expected] * 5
    assert network.config["periods"] == (2, 3, 5, 7, 11)


@pytest.mark.parametrize("length", [11, 12, 60, 61])
@pytest.mark.parametrize("period", [2, 3, 11])
def test_a_column_holds_the_samples_one_period_apart_and_the_end_is_reflected(length, period):
    x = torch.randn(2, 3, length)
    folded = by_period(x, period)
    rows = math.ceil(length / period)
    assert folded.shape == (2, 3, rows, period)
    for i in range(rows * period):
        sample = x[..., i] if i < length else x[..., 2 * (length - 1) - i]
        assert torch.equal(folded[..., i // period, i % period], sample)


def test_a_logit_of_a_period_sees_samples_of_its_own_column_alone():
    network = MultiPeriodDiscriminator(periods=(3,), width=2)
    x = torch.randn(1, 1, 60, requires_grad=True)
    logits = network(x)
    assert logits.shape == (1, 1, 1, 3)
    (gradient,) = torch.autograd.grad(logits[0, 0, :, 1].sum(), x)
    assert gradient[0, 0, 1::3].ne(0).all()
    assert gradient[0, 0].ne(0).sum() == 20


def test_scales_have_the_form_of_hifi_gan():
    with torch.device("meta"):
        network = MultiScaleDiscriminator()
    expected = [
        (1, 128, (15,), (1,), (7,), 1, (1,)),
        (128, 128, (41,), (2,), (20,), 4, (1,)),
        (128, 256, (41,), (2,), (20,), 16, (1,)),
        (256, 512, (41,), (4,), (20,), 16, (1,)),
        (512, 1024, (41,), (4,), (20,), 16, (1,)),
        (1024, 1024, (41,), (1,), (20,), 16, (1,)),
        (1024, 1024, (5,), (1,), (2,), 1, (1,)),
        (1024, 1, (3,), (1,), (1,), 1, (1,)),
    ]
    assert [forms(stack) for stack in network.stacks] == [expected] * 3
    names = [type(s.layers[0].parametrizations.weight[0]).__name__ for s in network.stacks]
    assert names == ["_SpectralNorm", "_WeightNorm", "_WeightNorm"]


@pytest.mark.parametrize("length", [1, 2, 77])
def test_each_scale_sees_means_of_four_samples_of_the_one_before(length):
    network = MultiScaleDiscriminator(width=2, features=True).eval()
    x = torch.randn(2, 1, length)
    answer, scaled = network(x), x
    for i, (logits, features) in enumerate(zip(*answer, strict=True)):
        if i > 0:
            scaled = F.pad(scaled, (2, 2)).unfold(2, 4, 2).mean(3)
        expected, hidden = played(network.stacks[i], scaled)
        torch.testing.assert_close(logits, expected)
        torch.testing.assert_close(features, hidden)


def test_spectrograms_have_the_form_of_encodec():
    with torch.device("meta"):
        network = MultiStftDiscriminator(channels=2)
    expected = [(4, 32, (3, 9), (1, 1), (1, 4), 1, (1, 1))]
    expected += [(32, 32, (3, 9), (1, 2), (d, 4), 1, (d, 1)) for d in (1, 2, 4)]
    expected += [(32, c, (3, 3), (1, 1), (1, 1), 1, (1, 1)) for c in (32, 1)]
    assert [forms(stack) for stack in network.stacks] == [expected] * 5
    assert network.config["windows"] == (2048, 1024, 512, 256, 128)


@pytest.mark.parametrize("window", [16, 10])
def test_a_spectrogram_is_the_windowed_fourier_sum(window):
    x = torch.randn(2, 3, 53, dtype=torch.float64)
    n, hop = torch.arange(window, dtype=torch.float64), window // 4
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * n / window)
    angles = 2 * math.pi * torch.outer(torch.arange(window // 2 + 1), n) / window
    frames = x.unfold(2, window, hop) * hann / hann.square().sum().sqrt()
    expected = torch.cat([frames @ angles.cos().T, frames @ -angles.sin().T], dim=1)
    torch.testing.assert_close(spectrogram(x, window), expected)
    assert expected.shape == (2, 6, (53 - window) // hop + 1, window // 2 + 1)
    assert spectrogram(x.bfloat16(), window).dtype == torch.bfloat16


def test_each_window_and_each_period_has_its_own_stack():
    x = torch.randn(2, 1, 80)
    windows = MultiStftDiscriminator(windows=(16, 32), width=2, features=True)
    periods = MultiPeriodDiscriminator(periods=(2, 5), width=2, features=True)
    pictures = [(windows, spectrogram, (16, 32)), (periods, by_period, (2, 5))]
    for network, picture, sizes in pictures:
        answer = network(x)
        for i, size in enumerate(sizes):
            logits, hidden = played(network.stacks[i], picture(x, size))
            torch.testing.assert_close(answer.logits[i], logits)
            torch.testing.assert_close(answer.features[i], hidden)


@pytest.mark.parametrize(
    ("network", "least"),
    [
        (MultiPeriodDiscriminator(periods=(2, 7), width=1), 7),
        (MultiScaleDiscriminator(width=1), 1),
        (MultiStftDiscriminator(windows=(32, 8), width=1), 32),
    ],
)
def test_the_shortest_waveform_works_and_a_shorter_one_gets_a_sentence(network, least):
    assert all(len(logits) == 2 for logits in network(torch.randn(2, 1, least)))
    with pytest.raises(ValueError, match=f"with t of at least {least}"):
        network(torch.randn(2, 1, least - 1))
