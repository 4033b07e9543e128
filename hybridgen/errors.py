"""The failures that a person at the command line meets, each explained in one sentence."""


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
