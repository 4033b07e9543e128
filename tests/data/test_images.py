"""Images held in memory."""

from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from hybridgen.data.images import (
    ImageSource,
    digits,
    split,
    split_validation,
    to_float,
)
from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Shard, Source, row_batches, shuffled_positions
from hybridgen.errors import InputError
from hybridgen.maths.mixtures import ring

COUNT = 11
tiny = ImageSource(
    name="tiny",
    train=torch.arange(COUNT, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 2, 2),
    held_out=torch.full((4, 3, 2, 2), 200, dtype=torch.uint8),
    train_labels=torch.arange(COUNT) % 3,
    held_out_labels=torch.zeros(4, dtype=torch.int64),
    classes=3,
)


def numbers(x: torch.Tensor) -> list[int]:
    """Which images of `tiny` these are."""
    return ((x[:, 0, 0, 0] + 1) * 127.5).round().int().tolist()


def test_bytes_become_floats_between_minus_one_and_one() -> None:
    x = to_float(torch.tensor([0, 51, 255], dtype=torch.uint8))
    assert torch.allclose(x, torch.tensor([-1.0, -0.6, 1.0]))
    assert x.dtype == torch.float32


def test_batches_follow_the_stateless_order_across_epochs() -> None:
    seen = [n for x, _ in islice(tiny.batches(Shard(batch=4, seed=9)), 8) for n in numbers(x)]
    assert seen == shuffled_positions(9, 0, 32, COUNT).tolist()
    assert sorted(seen[:COUNT]) == list(range(COUNT))


def test_labels_stay_with_their_images() -> None:
    for x, label in islice(tiny.batches(Shard(batch=5, seed=1)), 6):
        assert label is not None
        assert label.tolist() == [n % 3 for n in numbers(x)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), batch=st.integers(1, COUNT), skip=st.integers(0, 30))
def test_resuming_continues_the_same_sequence(seed: int, batch: int, skip: int) -> None:
    whole = islice(tiny.batches(Shard(batch=batch, seed=seed)), skip, skip + 3)
    resumed = tiny.batches(Shard(batch=batch, seed=seed, start=skip))
    assert [numbers(x) for x, _ in whole] == [numbers(x) for x, _ in islice(resumed, 3)]


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**40), start=st.integers(0, 9), world=st.sampled_from([2, 4]))
def test_the_shares_of_all_processes_joined_are_the_batch_of_one(
    seed: int, start: int, world: int
) -> None:
    one = tiny.batches(Shard(batch=8, seed=seed, start=start))
    many = [
        tiny.batches(Shard(batch=8, seed=seed, start=start, rank=rank, world=world))
        for rank in range(world)
    ]
    for (x, label), *shares in islice(zip(one, *many, strict=False), 3):
        assert torch.equal(torch.cat([y for y, _ in shares]), x)
        assert torch.equal(torch.cat([k for _, k in shares if k is not None]), label)


def test_a_batch_larger_than_the_data_is_refused_before_the_first_is_drawn() -> None:
    tiny.batches(Shard(batch=COUNT, seed=0))
    with pytest.raises(InputError, match=r"batch of 12 is larger than .* 11 examples"):
        tiny.batches(Shard(batch=COUNT + 1, seed=0))


def test_a_reference_has_each_example_at_most_once() -> None:
    x, label = tiny.reference("train", 100)
    assert sorted(numbers(x)) == list(range(COUNT))
    assert label is not None
    assert label.tolist() == [n % 3 for n in numbers(x)]
    few, _ = tiny.reference("train", 5, seed=3)
    assert len(set(numbers(few))) == 5
    assert numbers(tiny.reference("held_out", 9)[0]) == [200] * 4


def test_unconditional_batches_carry_no_label_but_the_reference_does() -> None:
    source = digits()
    assert source.classes == 0
    assert next(source.batches(Shard(batch=2, seed=0)))[1] is None
    assert source.reference("held_out", 3)[1] is not None


def test_the_digits_are_all_of_scikit_learn_split_for_good() -> None:
    source = digits(labelled=True)
    assert isinstance(source, Source)
    assert (source.shape, source.size, source.classes) == ((1, 8, 8), 1_500, 10)
    assert len(source.held_out) == 297
    both = torch.cat([source.train, source.held_out]).flatten(1).double() / 255 * 16
    values, target = load_digits(return_X_y=True)
    assert sorted(both.round().int().tolist()) == sorted(values.astype(int).tolist())
    rows = {tuple(row.astype(int)): int(label) for row, label in zip(values, target, strict=True)}
    for image, label in zip(both[:1_500], source.train_labels, strict=True):
        assert rows[tuple(image.round().int().tolist())] == label
    assert torch.equal(source.train, digits().train)
    x, _ = source.reference("train", 1_500)
    assert (x.min(), x.max()) == (-1, 1)


@given(size=st.integers(2, 300), share=st.floats(0.01, 0.99))
def test_a_split_is_disjoint_complete_and_always_the_same(size: int, share: float) -> None:
    held = min(size - 1, max(1, round(share * size)))
    train_rows, held_rows = split(size, held)
    assert sorted(train_rows.tolist() + held_rows.tolist()) == list(range(size))
    assert len(held_rows) == held
    assert torch.equal(split(size, held)[1], held_rows)


@pytest.mark.parametrize("held", [0, 5, 6])
def test_a_split_with_an_empty_part_is_refused(held: int) -> None:
    with pytest.raises(InputError, match="leaves one part empty"):
        split(5, held)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": torch.zeros(3, 1, 2, 2)}, "uint8"),
        ({"train": torch.zeros(3, 2, 2, dtype=torch.uint8)}, r"\[n c h w\]"),
        ({"train_labels": torch.zeros(2)}, "3 images but labels"),
        ({"held_out": torch.zeros(3, 3, 2, 2, dtype=torch.uint8)}, "held-out ones"),
        ({"classes": 2}, "needs train_labels"),
    ],
)
def test_tensors_that_do_not_fit_together_are_refused(changes: dict, words: str) -> None:
    images = torch.zeros(3, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match=words):
        ImageSource(**{"name": "bad", "train": images, "held_out": images, **changes})


def test_an_epoch_of_batches_shows_every_sample_once_with_its_label():
    points = torch.arange(10.0)[:, None]
    batches = list(islice(row_batches(points, torch.arange(10), Shard(batch=5, seed=1)), 2))
    rows = torch.cat([x[:, 0] for x, _ in batches])
    assert torch.equal(rows.sort().values, points[:, 0])
    assert all(torch.equal(x[:, 0].long(), label) for x, label in batches)


def test_validation_examples_are_a_part_of_the_training_examples_and_not_of_the_rest():
    source = digits(labelled=True)
    chosen = split_validation(source, 0.2)
    assert (len(chosen.train), len(chosen.held_out)) == (1_200, 300)

    def contents(images):
        return {image.numpy().tobytes() for image in images}

    both = contents(chosen.train) | contents(chosen.held_out)
    assert both == contents(source.train)
    assert not contents(chosen.held_out) & contents(chosen.train)
    assert len(chosen.held_out_labels) == 300 and chosen.classes == 10
    assert torch.equal(split_validation(source, 0.2).held_out, chosen.held_out)


def test_points_are_drawn_afresh_and_need_no_part():
    source = MixturePoints(mixture=ring(), name="ring")
    assert split_validation(source, 0.2) is source
