"""The failures that a person at the command line meets, each explained in one sentence."""

from typing import Any


def reason(error: BaseException) -> str:
    """What an error, or better its cause, has to say: one line of bounded length."""
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text[:300].rstrip(".")


class InputError(ValueError):
    """A setting or the data cannot work; found before any work was done (exit status 2)."""


class RunError(RuntimeError):
    """Something failed while working: a full disk, a loss that is not finite (exit status 1)."""


class FailedElsewhere(RunError):
    """Another process of this run failed, and says why itself."""


class Interrupted(KeyboardInterrupt):
    """A signal asked to stop, and everything was saved (exit status 128 + the signal's number)."""

    def __init__(self, signal: int, message: str = "stopped") -> None:
        super().__init__(message)
        self.signal = signal


_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL",
    "Timed out",
)


def resource_sentence(error: BaseException, training: Any) -> str | None:
    """What to do about exhausted memory or a process that was lost; `None` for other errors.

    Args:
        training: settings with `batch` and `accumulation`, if anything is trained.
    """
    text = str(error)
    if isinstance(error, MemoryError) or any(phrase in text for phrase in _MEMORY):
        batch, parts = (getattr(training, name, None) for name in ("batch", "accumulation"))
        if batch is None:
            return "out of memory: take fewer samples at a time, or a machine with more of it"
        return (
            f"out of memory with a batch of {batch} in {parts} part(s): raise "
            "--training.accumulation, which gives the same result, or lower --training.batch; "
            "checkpoints that were saved stay"
        )
    if text.startswith("DataLoader worker"):
        return (
            "a process that reads images ahead was lost, mostly for want of memory: lower "
            "--data.workers (0 reads in this process); the same command goes on from the last "
            "checkpoint"
        )
    if type(error).__name__.startswith("Dist") or any(phrase in text for phrase in _LOST):
        return (
            "another process of this run was lost or does not answer; its own message, if any, "
            "says why: the same command goes on from the last checkpoint"
        )
    return None
