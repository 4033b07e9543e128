"""Sets that are read while training."""

import os
import signal
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
import torch

from hybridgen.data.load import DataSettings, load_data
from hybridgen.data.source import Shard, Source
from hybridgen.data.streamed import StreamedSource
from hybridgen.errors import InputError

Folder = Callable[..., Path]


def both(root: Path, **settings: object) -> tuple[Source, StreamedSource]:
    """The same data in memory and streamed."""
    in_memory = load_data(DataSettings(path=str(root), **settings))  # type: ignore[arg-type]
    streamed = load_data(DataSettings(path=str(root), memory_limit=0, **settings))  # type: ignore[arg-type]
    assert isinstance(streamed, StreamedSource)
    return in_memory, streamed


@pytest.mark.parametrize("workers", [0, 2])
def test_streamed_batches_equal_those_from_memory_bit_for_bit(folder: Folder, workers: int) -> None:
    in_memory, streamed = both(
        folder("a", "b", mode="RGB", size=(12, 9)), resolution=6, labels=True, workers=workers
    )
    assert (streamed.shape, streamed.size, streamed.classes) == ((3, 6, 6), 10, 2)
    shard = Shard(batch=4, seed=5)
    pairs = zip(in_memory.batches(shard), streamed.batches(shard), strict=False)
    for (x, label), (y, other) in islice(pairs, 8):
        assert torch.equal(x, y)
        assert label is not None
        assert other is not None
        assert torch.equal(label, other)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_resuming_continues_the_same_sequence(folder: Folder, workers: int) -> None:
    _, streamed = both(folder(count=7), workers=workers)
    whole = [x for x, _ in islice(streamed.batches(Shard(batch=4, seed=2)), 6)]
    resumed = [x for x, _ in islice(streamed.batches(Shard(batch=4, seed=2, start=3)), 3)]
    assert torch.equal(torch.stack(whole[3:]), torch.stack(resumed))


def test_the_shares_of_two_processes_joined_are_the_batch_of_one(folder: Folder) -> None:
    in_memory, streamed = both(folder(count=7), workers=0)
    one = next(in_memory.batches(Shard(batch=4, seed=2, start=5)))[0]
    shares = [
        next(streamed.batches(Shard(batch=4, seed=2, start=5, rank=rank, world=2)))[0]
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat(shares), one)


def test_the_references_of_both_are_equal(folder: Folder) -> None:
    in_memory, streamed = both(folder("a", "b"))
    for part in ("train", "held_out"):
        (x, label), (y, other) = in_memory.reference(part, 5), streamed.reference(part, 5)
        assert torch.equal(x, y)
        assert label is not None
        assert other is not None
        assert torch.equal(label, other)
    assert len(streamed.reference("held_out", 100)[0]) == 2


def test_streaming_leaves_the_global_random_state_alone(folder: Folder) -> None:
    _, streamed = both(folder(), workers=1)
    state = torch.get_rng_state()
    next(streamed.batches(Shard(batch=2, seed=0)))
    assert torch.equal(state, torch.get_rng_state())


def test_a_truncated_image_is_named_by_its_path_alone(folder: Folder) -> None:
    root = folder(count=8)
    _, streamed = both(root, workers=1)
    broken = root / f"{int(streamed.train.rows[2]):03}.png"
    broken.write_bytes(broken.read_bytes()[:60])
    with pytest.raises(InputError) as caught:
        list(islice(streamed.batches(Shard(batch=streamed.size, seed=0)), 1))
    assert str(caught.value).startswith(f"{broken} cannot be decoded")
    assert "\n" not in str(caught.value)


def test_a_batch_larger_than_the_data_is_refused_before_reading(folder: Folder) -> None:
    _, streamed = both(folder())
    with pytest.raises(InputError, match=r"batch of 6 is larger than .* 5 examples"):
        streamed.batches(Shard(batch=6, seed=0))


def test_the_memory_limit_decides_by_the_size_in_bytes(folder: Folder) -> None:
    root, exact = folder(count=6), 6 * 64 / 2**30
    at = load_data(DataSettings(path=str(root), memory_limit=exact))
    below = load_data(DataSettings(path=str(root), memory_limit=0.99 * exact))
    assert not isinstance(at, StreamedSource)
    assert isinstance(below, StreamedSource)
    larger = load_data(DataSettings(path=str(root), memory_limit=exact, resolution=9))
    assert isinstance(larger, StreamedSource)


def children() -> list[int]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [int(pid) for task in tasks for pid in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs /proc")
def test_a_signal_to_the_whole_group_does_not_stop_the_readers(folder: Folder) -> None:
    _, streamed = both(folder(), workers=1)
    before = set(children())
    batches = streamed.batches(Shard(batch=2, seed=0))
    next(batches)
    readers = set(children()) - before
    assert readers
    for pid in readers:
        os.kill(pid, signal.SIGINT)
        os.kill(pid, signal.SIGTERM)
    assert len(list(islice(batches, 10))) == 10
    del batches
    assert not set(children()) & readers
