"""Bytes of tensors alive at once, of chains that can be counted by hand."""

import pytest
import torch
from torch import nn

from hybridgen.evaluation.live_bytes import LiveBytes, peak_bytes

X = torch.zeros(1_000)  # 4 000 bytes


def peak(work):
    with peak_bytes("cpu") as found:
        work()
    return found[0]


def chain(x):
    x = x + 1
    x = x * 2
    return x.exp()


def kept(x):
    return [x + 1, x + 2, x + 3]


def freed(x):
    big = torch.cat([x, x, x])
    total = big.sum()
    del big
    return total + x


@pytest.mark.parametrize(
    ("work", "expected"),
    [
        (lambda: X, 0),
        (lambda: X + 1, 4_000),
        (lambda: chain(X), 8_000),  # an operation's input and its output
        (lambda: kept(X), 12_000),
        (lambda: freed(X), 12_004),  # a number of four bytes, then the large one is gone
        (lambda: X.double(), 8_000),
        (lambda: [torch.zeros(500), torch.ones(250, 2)], 4_000),
        (lambda: X.clone().add_(1), 4_000),
        (lambda: X.clone().view(10, 100).t()[2:], 4_000),
    ],
)
def test_the_peak_is_what_a_hand_counts(work, expected):
    assert peak(work) == expected


def test_views_of_what_was_there_before_count_nothing():
    weight = nn.Parameter(torch.zeros(100, 10))
    assert peak(lambda: [weight.t(), weight[3:], X.view(10, 100), weight.detach()]) == 0


def test_what_a_backward_pass_waits_for_is_alive():
    x = torch.zeros(1_000, requires_grad=True)

    def gradient():
        y = x.exp()  # its result is needed again, that of the sum's input is not
        (slope,) = torch.autograd.grad((y * 3).sum(), x)
        return slope

    with torch.enable_grad():
        without, with_graph = peak(lambda: chain(X)), peak(gradient)
    # exp(x), then 3 exp(x) and its sum; on the way back ones, three times ones, and their product.
    assert without == 8_000 and 8_000 < with_graph <= 16_100


def test_everything_is_forgotten_once_it_is_gone():
    live = LiveBytes()
    with live:
        first = chain(X)
        assert live.current == 4_000
        del first
        assert live.current == 0 and live.peak == 8_000
        second = chain(X)
    assert live.peak == 8_000
    del second
    assert live.current == 0


def test_a_network_takes_the_activations_of_two_layers():
    network = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 16), nn.Linear(16, 1))
    with torch.no_grad():
        x = torch.zeros(25, 8)
        assert peak(lambda: network(x)) == 25 * (64 + 64) * 4
