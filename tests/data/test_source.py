"""The order of examples."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hybridgen.data.source import shuffled_positions
from hybridgen.maths.rng import rng_for

seeds = st.integers(0, 2**63)
sizes = st.integers(1, 40)
cursors = st.integers(0, 500)


@given(seed=seeds, start=cursors, first=st.integers(0, 90), second=st.integers(0, 90), size=sizes)
def test_two_reads_in_a_row_equal_one_read(
    seed: int, start: int, first: int, second: int, size: int
) -> None:
    joined = torch.cat(
        [
            shuffled_positions(seed, start, first, size),
            shuffled_positions(seed, start + first, second, size),
        ]
    )
    assert torch.equal(joined, shuffled_positions(seed, start, first + second, size))


@given(seed=seeds, epoch=st.integers(0, 50), size=sizes)
def test_every_epoch_shows_every_example_once(seed: int, epoch: int, size: int) -> None:
    assert shuffled_positions(seed, epoch * size, size, size).sort().values.tolist() == list(
        range(size)
    )


@given(seed=seeds, start=cursors, count=st.integers(0, 90), size=sizes)
def test_the_order_does_not_depend_on_what_was_asked_before(
    seed: int, start: int, count: int, size: int
) -> None:
    before = shuffled_positions(seed, start, count, size)
    expected = before.clone()
    before.fill_(-1)  # nor on what the caller does with the answer
    torch.manual_seed(start)
    shuffled_positions(seed + 1, 3 * start, 7, size)
    assert torch.equal(shuffled_positions(seed, start, count, size), expected)


def test_epochs_and_seeds_are_shuffled_differently() -> None:
    orders = [
        shuffled_positions(seed, epoch * 50, 50, 50) for seed in range(4) for epoch in range(4)
    ]
    assert len({tuple(order.tolist()) for order in orders}) == 16


def test_first_place_of_an_epoch_is_uniform() -> None:
    first = torch.stack([shuffled_positions(3, 5 * epoch, 1, 5) for epoch in range(4_000)])
    assert torch.allclose(first.flatten().bincount() / 4_000, torch.full((5,), 0.2), atol=0.03)


def test_the_global_random_state_is_left_alone() -> None:
    state = torch.get_rng_state()
    shuffled_positions(0, 0, 10, 5)
    assert torch.equal(state, torch.get_rng_state())


def test_a_key_decides_the_random_numbers() -> None:
    def numbers(*key: int | str) -> list[float]:
        return torch.rand(3, generator=rng_for(*key)).tolist()

    assert numbers("a", 1) == numbers("a", 1)
    assert numbers("a", 1) != numbers("a", 2) != numbers("b", 1)
    assert numbers(1, 12) != numbers(11, 2)


@pytest.mark.parametrize(("start", "count", "size"), [(-1, 1, 5), (0, -1, 5), (0, 1, 0)])
def test_impossible_requests_are_refused(start: int, count: int, size: int) -> None:
    with pytest.raises(ValueError, match="start >= 0"):
        shuffled_positions(0, start, count, size)
