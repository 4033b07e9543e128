"""Noise of a batch: the same for every number of processes, and little more than is needed."""

from functools import partial

import pytest
import torch

from hybridgen.maths import rng
from hybridgen.maths.rng import normal_share, rng_for

SHAPE = (3, 4)


def drawn(processes, count=12):
    """Two draws in turn, the shares of all processes joined, and what the generator gives next."""
    shares, following = [], []
    for rank in range(processes):
        generator = rng_for(5, "noise", 7)
        draw = partial(normal_share, generator, count, torch.empty(0))
        shares.append([draw(*SHAPE, rank=rank, processes=processes) for _ in range(2)])
        following.append(torch.rand(3, generator=generator))
    return [torch.cat(parts) for parts in zip(*shares, strict=True)], following


@pytest.mark.parametrize("block", [2**20, 60, 25, 1])
@pytest.mark.parametrize("processes", [2, 3, 4, 6, 12])
def test_a_sample_has_the_same_noise_whatever_the_number_of_processes(
    processes, block, monkeypatch
):
    monkeypatch.setattr(rng, "BLOCK", block)
    (one, [next_one]), (many, next_many) = drawn(1), drawn(processes)
    assert all(torch.equal(a, b) for a, b in zip(one, many, strict=True))
    assert all(torch.equal(next_one, other) for other in next_many)


def test_noise_of_few_numbers_is_one_draw_of_its_generator():
    generator = rng_for(5, "noise", 7)
    for noise in drawn(1)[0]:
        assert torch.equal(noise, torch.randn(12, *SHAPE, generator=generator))


def test_blocks_are_of_one_normal_law_and_no_two_are_alike(monkeypatch):
    monkeypatch.setattr(rng, "BLOCK", 100)
    generator = rng_for(0)
    first, second = (normal_share(generator, 5_000, torch.empty(0), 10) for _ in range(2))
    assert len(torch.cat([first, second]).unique(dim=0)) == 10_000
    assert float(first.mean()) == pytest.approx(0, abs=0.02)
    assert float(first.std()) == pytest.approx(1, abs=0.02)


def test_a_process_draws_little_more_than_its_share(monkeypatch):
    numbers, plain = [], torch.randn

    def counted(*shape, **options):
        numbers.append(shape[0])
        return plain(*shape, **options)

    monkeypatch.setattr(rng, "BLOCK", 10 * 12)  # ten samples
    monkeypatch.setattr(torch, "randn", counted)
    noise = normal_share(rng_for(0), 800, torch.empty(0), *SHAPE, rank=3, processes=8)
    assert noise.shape == (100, *SHAPE) and sum(numbers) == 102
