"""SIGTERM, SIGHUP and Ctrl-C as a request to stop at a good moment."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

from hybridgen.errors import Interrupted

if TYPE_CHECKING:
    from accelerate import Accelerator

AGREE_EVERY = 10
"""Steps after which several processes tell each other of signals at the latest."""


class Signals:
    """While open, signals are remembered; `received` says which, the same on every process.

    A second Ctrl-C raises `KeyboardInterrupt` at once.
    """

    def __init__(self, accelerator: "Accelerator") -> None:
        self._accelerator = accelerator
        self._received = 0
        self._interruptible = False
        self._step, self._next_step, self._agreed = 0, 0, time.monotonic()

    def received(self, step: int, *, now: bool = False) -> int:
        """The largest signal that any process has received by `step`, 0 for none.

        Several processes agree, and are interrupted, about once a second, `AGREE_EVERY` steps apart
        at most: it costs a message, and an accelerator is waited for.

        Args:
            now: agree in any case, as before long work; the same on all processes.
        """
        if self._accelerator.num_processes == 1:
            return self._received
        if step < self._next_step and not now:
            return 0
        import torch

        seconds = time.monotonic() - self._agreed
        report = torch.tensor([[float(self._received), seconds]], device=self._accelerator.device)
        signals, longest = torch.as_tensor(self._accelerator.gather(report)).amax(0).tolist()
        # One that came while the others were asked is not among theirs.
        self._received, self._agreed = max(self._received, int(signals)), time.monotonic()
        steps = int((step - self._step) / max(longest, 1e-9))
        self._step, self._next_step = step, step + min(max(steps, 1), AGREE_EVERY)
        return int(signals)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Inside, a signal raises `Interrupted` where it arrives.

        Of several processes, one must not leave alone: there it goes on being remembered.
        """
        self._interruptible = self._accelerator.num_processes == 1
        try:
            yield
        finally:
            self._interruptible = False

    def __enter__(self) -> "Signals":
        # One that is ignored, as `nohup` has it, goes on being ignored.
        stops = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        heard = [number for number in stops if signal.getsignal(number) != signal.SIG_IGN]
        self._handlers = {number: signal.signal(number, self._receive) for number in heard}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        if self._interruptible:
            self._interruptible = False
            raise Interrupted(number)


def _leave_lost_terminal() -> None:
    """Write to nowhere what would go to a terminal that is gone, where every write fails."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)


@contextmanager
def raised() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C raises `KeyboardInterrupt`."""

    def leave(number: int, _: object) -> None:
        if number == signal.SIGHUP:
            _leave_lost_terminal()
        raise Interrupted(number, "stopped; the same command goes on from there")

    stops = [n for n in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, leave) for number in stops}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
