"""What a sample costs, against closed forms and hand counting."""

import time
from itertools import count
from typing import get_args

import pytest
import torch
from torch import nn

from hybridgen import Refined, SinglePass, discriminator_guidance
from hybridgen.evaluation.cost import (
    AllocatedBytes,
    clock_for,
    flops_and_bytes,
    interleaved_timings,
    median_interval,
    peak_bytes,
    sampling_costs,
)
from hybridgen.networks.build import DiscriminatorSettings, build_discriminator
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.settings import SamplerName, SamplerSettings

BATCH = 6


def ticks(seconds=1.0):
    """A clock by which everything takes so long."""
    moments = count()
    return lambda: seconds * next(moments)


def sampling_cost(sampler, *inputs, **options):
    """Of one sampler."""
    return sampling_costs({"one": (sampler, inputs)}, **options)["one"]


def flops(task):
    return flops_and_bytes(task)[0]


def test_operations_of_a_matrix_product_are_two_for_each_weight_and_sample():
    network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3))
    found = sampling_cost(network, torch.zeros(BATCH, 5), clock=ticks())
    assert found.flops == 2 * (5 * 7 + 7 * 3)
    assert (found.calls, found.batch) == (None, BATCH)


def test_operations_of_attention_are_four_for_each_pair_of_places_and_channel():
    b, h, n, d = 2, 4, 32, 16
    query, key, value = torch.zeros(3, b, h, n, d)
    attend = nn.functional.scaled_dot_product_attention
    forward = 4 * b * h * n**2 * d
    assert flops(lambda: attend(query, key, value)) == forward
    query.requires_grad_(True)
    # Backward there are five products for the two of forward.
    both = flops(lambda: torch.autograd.grad(attend(query, key, value).sum(), query))
    assert both == forward * 7 / 2


@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_operations_of_a_convolution_are_two_for_each_weight_and_place(stride, groups):
    network = nn.Conv2d(4, 6, 3, stride=stride, padding=1, groups=groups)
    x = torch.zeros(BATCH, 4, 8, 8)
    places = (8 // stride) ** 2
    forward = 2 * 6 * (4 // groups) * 9 * places
    assert flops(lambda: network(x)) == BATCH * forward
    inputs = x.clone().requires_grad_(True)
    assert flops(lambda: torch.autograd.grad(network(inputs).sum(), inputs)) == 2 * BATCH * forward


def test_a_discriminators_pass_back_to_its_input_costs_as_much_as_the_pass_forward():
    discriminator, width = MlpDiscriminator(width=16, depth=3, noise_conditional=True), 16
    x, sigma = torch.zeros(BATCH, 2, requires_grad=True), torch.ones(BATCH)
    layers = 2 * width + width * width * 2 + width
    noise = 24 * 3 * width  # what it does about the level does not depend on x
    assert flops(lambda: discriminator(x.detach(), sigma)) == 2 * BATCH * (layers + noise)
    back = flops(lambda: torch.autograd.grad(discriminator(x, sigma).sum(), x))
    assert back == 2 * BATCH * (2 * layers + noise)


class Network(nn.Module):
    """A denoiser of one convolution that counts its calls."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Conv2d(1, 1, 3, padding=1), 0

    def forward(self, x, sigma, label=None):
        self.calls += 1
        return 0.1 * self.layer(x).tanh()


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_operations_of_guided_sampling_are_its_calls_times_those_of_one(name):
    torch.manual_seed(0)
    denoiser = Network()
    discriminator = build_discriminator(
        DiscriminatorSettings(width=4, noise_conditional=True), (1, 8, 8)
    )
    x, sigma = torch.zeros(2, 1, 8, 8), torch.ones(2)
    inputs = x.clone().requires_grad_(True)
    once = flops(lambda: denoiser(x, sigma))
    forward = flops(lambda: discriminator(x, sigma))
    both = flops(lambda: torch.autograd.grad(discriminator(inputs, sigma).sum(), inputs))
    guided = discriminator_guidance(denoiser, discriminator, 0.1, window=(0.3, 20.0))
    sampler = build_sampler(SamplerSettings(name=name, steps=5), guided, (1, 8, 8))
    denoiser.calls = 0
    found = sampling_cost(sampler, torch.randn(2, 1, 8, 8), rounds=3, clock=ticks())
    cost = sampler.cost
    assert found.calls == cost and 0 < cost.discriminator_backward < cost.denoiser
    expected = cost.denoiser * once + cost.discriminator_forward * forward
    expected += cost.discriminator_backward * (both - forward)
    assert found.flops == expected / 2
    assert denoiser.calls == (1 + 1 + 3) * cost.denoiser  # counted, warmed up, timed


def test_operations_of_a_refined_sampler_are_those_of_every_proposal_and_its_discriminator_call():
    generator, discriminator = nn.Linear(4, 2, bias=False), nn.Linear(2, 1, bias=False)
    once = SinglePass(lambda noise, label: generator(noise), (4,))
    chain = Refined(once, lambda x, y: discriminator(x)[:, 0], "importance", 3)
    found = sampling_cost(chain, torch.randn(BATCH, 4), clock=ticks())
    assert found.flops == 4 * (2 * 8 + 2 * 2)
    assert (found.calls.generator, found.calls.discriminator_forward) == (4, 4)


def generator(noise, label=None):
    return noise if label is None else noise + label[:, None]


def test_memory_is_what_the_sampler_makes():
    found = sampling_cost(lambda noise: noise + 1, torch.zeros(BATCH, 10), clock=ticks())
    assert found.peak_bytes == BATCH * 10 * 4


def test_seconds_are_of_one_sample_and_samplers_take_turns():
    order = []

    def named(name):
        def sampler(noise, label=None):
            order.append(name)
            return noise

        return sampler

    samplers = {name: (named(name), (torch.zeros(4, 1),)) for name in "ab"}
    found = sampling_costs(samplers, rounds=4, clock=ticks())
    # Each is counted, then warmed up, then timed in turns; a batch of four takes a second.
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba" + "ab"
    assert found["a"].seconds.value == found["b"].seconds.value == 0.25
    assert found["a"].seconds.low == found["a"].seconds.high == 0.25


def test_a_slow_sampler_is_timed_less_often_than_a_fast_one():
    now, turns = [0.0], {"fast": 0, "slow": 0}

    def lasting(name, seconds):
        def sampler(noise):
            now[0] += seconds
            turns[name] += 1
            return noise

        return sampler

    noise = (torch.zeros(10, 1),)
    samplers = {"fast": (lasting("fast", 0.01), noise), "slow": (lasting("slow", 2.0), noise)}
    found = sampling_costs(samplers, rounds=9, clock=lambda: now[0])
    assert turns == {"fast": 2 + 9, "slow": 2 + 3}
    assert found["fast"].seconds.value == pytest.approx(0.001)
    assert found["slow"].seconds.value == pytest.approx(0.2)


def test_labels_reach_the_samplers_they_are_for():
    noise = torch.zeros(4, 1)
    samplers = {
        "with": (lambda noise, label: noise + label[:, None], (noise, torch.arange(4))),
        "without": (lambda noise: noise, (noise,)),
    }
    found = sampling_costs(samplers, clock=ticks())
    assert found.keys() == {"with", "without"}


def test_the_interval_of_a_median_comes_with_it():
    # One batch is counted, one warms up, three are timed.
    moments = iter([0.0, 1.0, 2.0, 9.0, 10.0, 11.0, 20.0, 22.0, 30.0, 36.0])
    found = sampling_cost(generator, torch.zeros(2, 1), rounds=3, clock=lambda: next(moments))
    assert (found.seconds.value, found.seconds.low, found.seconds.high) == (1.0, 0.5, 3.0)


def of(count, sampler=generator):
    return sampler, (torch.zeros(count, 1),)


@pytest.mark.parametrize(
    ("samplers", "more", "sentence"),
    [
        ({}, {}, "no sampler whose cost"),
        ({"a": of(3), "b": of(4)}, {}, r"at one batch size, got noise of \[3, 4\] samples"),
        ({"a": of(0)}, {}, r"noise of \[0\] samples"),
        ({"a": of(3, lambda x: x[:2])}, {}, "a made 2 samples of noise for 3"),
        ({"a": of(3)}, {"rounds": 2}, "need rounds >= 3"),
    ],
)
def test_misuse_gets_a_sentence(samplers, more, sentence):
    with pytest.raises(ValueError, match=sentence):
        sampling_costs(samplers, **more)


X = torch.zeros(1_000)  # 4 000 bytes


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
    assert peak_bytes(work) == expected


def test_views_of_what_was_there_before_count_nothing():
    weight = nn.Parameter(torch.zeros(100, 10))
    assert peak_bytes(lambda: [weight.t(), weight[3:], X.view(10, 100), weight.detach()]) == 0


def test_what_a_backward_pass_waits_for_is_alive():
    x = torch.zeros(1_000, requires_grad=True)

    def gradient():
        y = x.exp()  # its result is needed again, that of the sum's input is not
        (slope,) = torch.autograd.grad((y * 3).sum(), x)
        return slope

    with torch.enable_grad():
        without, with_graph = peak_bytes(lambda: chain(X)), peak_bytes(gradient)
    # exp(x), then 3 exp(x) and its sum; on the way back ones, three times ones, and their product.
    assert without == 8_000 and 8_000 < with_graph <= 16_100


def test_everything_is_forgotten_once_it_is_gone():
    live = AllocatedBytes()
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
        assert peak_bytes(lambda: network(x)) == 25 * (64 + 64) * 4


def test_everything_has_its_turn_in_every_round_and_the_first_round_does_not_count():
    order, now = [], [0.0]

    def task(name, cost):
        order.append(name)
        now[0] += cost if len(order) > 3 else 100.0

    costs = {"a": 1.0, "b": 2.0, "c": 3.0}
    tasks = {name: lambda n=name, c=cost: task(n, c) for name, cost in costs.items()}
    rounds = interleaved_timings(tasks, 3, lambda: now[0], lambda: order.append("|"))
    assert "".join(order) == "abc|bca|cab|abc|"
    assert rounds == {"a": [1.0] * 3, "b": [2.0] * 3, "c": [3.0] * 3}


def test_tasks_with_fewer_turns_sit_rounds_out_evenly():
    order = []
    tasks = {name: lambda n=name: order.append(n) for name in "abc"}
    rounds = interleaved_timings(
        tasks, {"a": 6, "b": 2, "c": 3}, lambda: 0.0, lambda: order.append("|")
    )
    assert {name: len(seconds) for name, seconds in rounds.items()} == {"a": 6, "b": 2, "c": 3}
    assert "".join(order) == "abc|a|ca|ab|ca|a|abc|"


def test_the_interval_of_a_median_is_that_of_the_sign_test():
    def ranks(n):
        return median_interval([float(i) for i in range(n, 0, -1)])

    # From printed tables of the sign test; five rounds cannot reach 95 %.
    assert ranks(5) == (3, 1, 5)
    assert ranks(6) == (3.5, 1, 6)
    assert ranks(9) == (5, 2, 8)
    assert ranks(20) == (10.5, 6, 15)
    assert ranks(100) == (50.5, 40, 61)
    assert ranks(1) == (1, 1, 1)
    with pytest.raises(ValueError, match="at least one round"):
        median_interval([])


def test_the_interval_holds_the_median_as_often_as_it_says():
    draws = torch.rand(2_000, 12, generator=torch.Generator().manual_seed(0)).pow(5).tolist()
    held = [low <= 0.5**5 <= high for _, low, high in map(median_interval, draws)]
    assert 0.95 <= sum(held) / len(held) <= 0.98  # .961


def test_sleeping_costs_nothing_on_one_thread_and_its_time_on_two():
    for threads, least, most in ((1, 0.0, 0.03), (2, 0.05, 10.0)):
        clock = clock_for(torch.device("cpu"), threads)
        begun = clock()
        time.sleep(0.05)
        assert least <= clock() - begun <= most
