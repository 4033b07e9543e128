"""Points from mixtures."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Shard, Source
from hybridgen.errors import InputError
from hybridgen.maths.mixtures import grid, ring

plain = MixturePoints(mixture=ring(), name="ring")
labelled = MixturePoints(mixture=grid(), name="grid", labelled=True)


def test_points_are_a_source_with_a_known_density() -> None:
    assert isinstance(plain, Source)
    assert (plain.shape, plain.classes, plain.size) == ((2,), 0, None)
    assert labelled.classes == 25
    assert plain.mixture.components == 8


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), start=st.integers(0, 1_000), skip=st.integers(0, 5))
def test_resuming_continues_the_same_sequence(seed: int, start: int, skip: int) -> None:
    whole = islice(labelled.batches(Shard(batch=12, seed=seed, start=start)), skip, skip + 3)
    resumed = labelled.batches(Shard(batch=12, seed=seed, start=start + skip))
    for (x, label), (y, other) in zip(whole, resumed, strict=False):
        assert torch.equal(x, y)
        assert label is not None
        assert other is not None
        assert torch.equal(label, other)


@pytest.mark.parametrize("world", [2, 3])
def test_the_shares_of_all_processes_joined_are_the_batch_of_one(world: int) -> None:
    one, label = next(labelled.batches(Shard(batch=12, seed=4, start=7)))
    shares = [
        next(labelled.batches(Shard(batch=12, seed=4, start=7, rank=r, world=world)))
        for r in range(world)
    ]
    assert torch.equal(torch.cat([x for x, _ in shares]), one)
    assert torch.equal(torch.cat([y for _, y in shares if y is not None]), label)


def test_batches_and_seeds_differ() -> None:
    batches = plain.batches(Shard(batch=4, seed=0))
    first, second = next(batches)[0], next(batches)[0]
    other = next(plain.batches(Shard(batch=4, seed=1)))[0]
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)


def test_a_label_is_the_component_of_its_point() -> None:
    x, label = next(labelled.batches(Shard(batch=200, seed=0)))
    nearest = torch.cdist(x.double(), labelled.mixture.means).argmin(1)
    assert torch.equal(label, nearest)
    assert next(plain.batches(Shard(batch=4, seed=0)))[1] is None


def test_reference_points_occur_in_no_batch_and_carry_labels() -> None:
    train, label = plain.reference("train", 64)
    held_out, _ = plain.reference("held_out", 64)
    batch, _ = next(plain.batches(Shard(batch=64, seed=0)))
    assert train.dtype == torch.float32
    assert label is not None
    assert torch.cdist(train, held_out).min() > 0
    assert torch.cdist(train, batch).min() > 0
    assert torch.equal(plain.reference("train", 64)[0], train)
    assert not torch.equal(plain.reference("train", 64, seed=1)[0], train)


def test_a_part_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match="'train' and 'held_out'"):
        plain.reference("test", 3)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 1"):
        plain.reference("train", 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": 5, "world": 2}, "cannot be shared equally"),
        ({"batch": 0}, "at least 1"),
        ({"batch": 4, "start": -1}, "at least 0"),
        ({"batch": 4, "rank": 2, "world": 2}, "rank < world"),
    ],
)
def test_impossible_shares_of_a_batch_are_refused(options: dict[str, int], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Shard(seed=0, **options)
