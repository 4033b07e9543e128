"""All tests run on the CPU and on one thread, where sums have one order and results one answer."""

import os
import signal
from collections.abc import Iterator

import pytest
import torch
from accelerate.state import AcceleratorState

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
torch.set_num_threads(1)
# A shell has what it starts in the background ignore Ctrl-C, and all that this starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """A test draws the same numbers whichever tests ran before it."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """Accelerate keeps what it was first started with for the life of a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
