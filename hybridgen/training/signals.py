"""SIGTERM and Ctrl-C as a request to stop at a good moment."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import torch
from accelerate import Accelerator

from hybridgen.errors import Interrupted


class Signals:
    """While open, signals are remembered; `received` says which, the same on every process.

    A second Ctrl-C raises `KeyboardInterrupt` at once.
    """

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self._received = 0
        self._interruptible = False

    def received(self) -> int:
        """The largest signal that any process has received, 0 for none; a collective call."""
        if self._accelerator.num_processes > 1:
            signals = torch.tensor([self._received], device=self._accelerator.device)
            self._received = int(torch.as_tensor(self._accelerator.gather(signals)).max())
        return self._received

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
        self._handlers = {
            number: signal.signal(number, self._receive)
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._received = number
        if self._interruptible:
            self._interruptible = False
            raise Interrupted(number)
