"""Sentences for people: failures, each explained in one, and words of others within ours."""

import re


def reason(error: BaseException) -> str:
    """What an error, or better its cause, has to say: one line of bounded length."""
    text = " ".join(str(error.__cause__ or error).split()) or type(error).__name__
    return text[:300].rstrip(".")


def escaped(words: str) -> str:
    """Somebody's words as one line of Markdown that shows them: no links, no HTML, no new cell."""
    line = " ".join(words.split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*\[\]|])", r"\\\1", line)


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
