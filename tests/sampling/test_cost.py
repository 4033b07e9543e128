"""What a sample is said to cost, against what is counted while it is made."""

import math
from dataclasses import fields
from typing import get_args

import pytest
import torch
from oracles import Counted
from torch import nn

from hybridgen import SinglePass
from hybridgen.evaluation.cost import sampling_costs
from hybridgen.maths.noise import karras_sigmas
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.extrapolation import autoguidance, classifier_free_guidance
from hybridgen.sampling.guidance import Cost, cost_of, discriminator_guidance
from hybridgen.sampling.samplers import Heun
from hybridgen.sampling.settings import SamplerName, SamplerSettings

LABEL = torch.tensor([0, 1, 2])


class Half(nn.Module):
    def forward(self, x, sigma, label=None):
        return x / 2


halved = Half()


def total(x, sigma, label=None):
    return x.sum(1)


class CountedBackwards:
    """A discriminator that counts both its calls and the gradients taken through it."""

    def __init__(self):
        self.forward, self.backward = 0, 0

    def __call__(self, x, sigma, label=None):
        self.forward += 1
        logits = x.sum(1)
        logits.register_hook(self._count)
        return logits

    def _count(self, gradient):
        self.backward += 1


def cost(denoiser=0, forward=0, backward=0):
    return Cost(denoiser=denoiser, discriminator_forward=forward, discriminator_backward=backward)


def in_window(denoiser, discriminator):
    return discriminator_guidance(denoiser, discriminator, window=(0.3, 5.0))


GUIDANCE = {
    "no guidance": lambda d, c: d,
    "a discriminator": lambda d, c: discriminator_guidance(d, c),
    "a discriminator at scale zero": lambda d, c: discriminator_guidance(d, c, 0.0),
    "a discriminator behind a closed window": lambda d, c: discriminator_guidance(
        d, c, window=(1e-9, 1e-8)
    ),
    "a discriminator in a window": lambda d, c: in_window(d, c),
    "a discriminator at some scales": lambda d, c: discriminator_guidance(
        d, c, lambda s: (s > 1) * 2.0
    ),
    "two discriminators": lambda d, c: discriminator_guidance(discriminator_guidance(d, c), c, 0.5),
    "labels": lambda d, c: classifier_free_guidance(d, 2.0),
    "labels inside a discriminator": lambda d, c: in_window(classifier_free_guidance(d, 2.0), c),
    "a discriminator inside labels": lambda d, c: classifier_free_guidance(in_window(d, c), 2.0),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("churn", [0.0, 3.0])
@pytest.mark.parametrize("name", GUIDANCE)
def test_the_cost_that_is_told_is_the_cost_that_is_counted(name, churn, dtype):
    denoiser, discriminator = Counted(halved), CountedBackwards()
    sampler = Heun(GUIDANCE[name](denoiser, discriminator), (2,), karras_sigmas(7), churn=churn)
    sampler(torch.randn(3, 2, dtype=dtype), LABEL)
    assert sampler.cost == cost(denoiser.calls, discriminator.forward, discriminator.backward)
    assert sampler.cost.calls == denoiser.calls


def test_a_weaker_model_is_asked_inside_the_window_alone():
    denoiser, weaker = Counted(halved), Counted(halved)
    levels = karras_sigmas(7)
    for window in ((0.0, math.inf), (0.3, 5.0)):
        guided = autoguidance(denoiser, weaker, 2.0, window=window)
        sampler = Heun(guided, (2,), levels)
        before = denoiser.calls, weaker.calls
        sampler(torch.randn(3, 2))
        asked = denoiser.calls - before[0], weaker.calls - before[1]
        inside = (levels[:-1] >= window[0]) & (levels[:-1] < window[1])
        assert asked == (13, int(2 * inside.sum() - inside[0].long()))
        assert sampler.cost.calls == sum(asked)


@pytest.mark.parametrize("guidance", GUIDANCE)
@pytest.mark.parametrize("name", get_args(SamplerName))
def test_the_cost_that_is_told_is_the_cost_that_is_counted_under_every_scheduler(name, guidance):
    denoiser, discriminator = Counted(halved), CountedBackwards()
    settings = SamplerSettings(name=name, steps=6)
    sampler = build_sampler(settings, GUIDANCE[guidance](denoiser, discriminator), (2,))
    sampler(torch.randn(3, 2), LABEL)
    assert sampler.cost == cost(denoiser.calls, discriminator.forward, discriminator.backward)
    a_step = 2 if "labels" in guidance else 1
    steps = 11 if name in ("heun", "heun_discrete") else 6
    assert sampler.cost.calls == denoiser.calls == a_step * steps
    if guidance == "two discriminators":  # their window is open but for the lowest levels
        assert 2 * (steps - 2) <= discriminator.forward == discriminator.backward <= 2 * steps


def test_a_single_pass_costs_one_call_of_its_generator():
    made = []
    sampler = SinglePass(lambda noise, label: made.append(noise) or noise, (2,))
    sampler(torch.randn(3, 2))
    assert sampler.cost == Cost(generator=1) and sampler.cost.calls == len(made)


def test_costs_of_compositions_are_what_a_hand_counts():
    made = {name: make(halved, total) for name, make in GUIDANCE.items()}
    assert cost_of(made["no guidance"], 1.0) == cost(1, 0, 0)
    assert cost_of(made["a discriminator"], 1.0) == cost(1, 1, 1)
    assert cost_of(made["a discriminator"], 0.04) == cost(1, 0, 0)
    assert cost_of(made["a discriminator at scale zero"], 1.0) == cost(1, 0, 0)
    assert cost_of(made["two discriminators"], 1.0) == cost(1, 2, 2)
    assert cost_of(made["labels inside a discriminator"], 1.0) == cost(2, 1, 1)
    assert cost_of(made["a discriminator inside labels"], 1.0) == cost(2, 2, 2)


def twice(x, sigma, label=None):
    return 1.5 * halved(x, sigma, label) - 0.5 * halved(x, sigma, None)


class Twice:
    """A wrapper of one's own, as a class or, with `nn.Module` beside it, as a module."""

    def __init__(self, denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x, sigma, label=None):
        return 1.5 * self.denoiser(x, sigma, label) - 0.5 * self.denoiser(x, sigma, None)

    __call__ = forward


class TwiceModule(Twice, nn.Module):
    __call__ = nn.Module.__call__


class Told(Twice):
    def cost(self, sigma):
        return cost_of(self.denoiser, sigma) * 2


@pytest.mark.parametrize("wrapper", [twice, Twice(halved), TwiceModule(halved)])
def test_the_cost_of_a_wrapper_that_does_not_tell_it_is_not_told(wrapper):
    guided = discriminator_guidance(wrapper, total)
    for sampler in (Heun(guided, (2,), karras_sigmas(7)), scheduled(guided)):
        assert math.isnan(sampler.cost.calls) and sampler.cost.discriminator_forward > 0
    noise = torch.randn(3, 2)
    measured = sampling_costs({"plain": (scheduled(halved), (noise,)), "w": (sampler, (noise,))})
    assert measured["w"].calls is None and measured["plain"].calls == Cost(denoiser=6)


def test_a_wrapper_may_tell_its_cost_and_a_network_is_one_evaluation():
    assert scheduled(Told(halved)).cost == Cost(denoiser=12)
    assert cost_of(PointDenoiser(), 1.0) == cost_of(ImageDenoiser(), 1.0) == Cost(denoiser=1)
    assert cost_of(torch.compile(PointDenoiser(), backend="eager"), 1.0) == Cost(denoiser=1)


def scheduled(denoiser):
    return build_sampler(SamplerSettings(name="ddim", steps=6), denoiser, (2,))


def test_every_kind_of_call_is_added_and_multiplied():
    names = [field.name for field in fields(Cost)]
    one = Cost(**{name: 10.0**i for i, name in enumerate(names)})
    for i, name in enumerate(names):
        assert getattr(one * 2.5 + one, name) == 3.5 * 10**i
    assert one.calls == one.denoiser + one.generator


def test_levels_that_churn_raises_into_the_window_are_counted():
    discriminator, sigmas = CountedBackwards(), torch.tensor([4.0, 2.0, 1.0, 0.0])
    guided = discriminator_guidance(halved, discriminator, window=(4.5, 5.0))
    assert Heun(guided, (2,), sigmas).cost == cost(5, 0, 0)
    sampler = Heun(guided, (2,), sigmas, churn=0.6)
    assert sampler.cost == cost(5, 1, 1)
    sampler(torch.randn(3, 2))
    assert (discriminator.forward, discriminator.backward) == (1, 1)
