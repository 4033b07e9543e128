"""Sentences for people: failures, each explained in one, and words of others within ours."""

import re
import reprlib
from typing import Any

_LONGEST = 300
_repr = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 60


def quoted(value: object) -> str:
    """What came, as a sentence can hold it: shortened in the middle."""
    try:
        return _repr.repr(value)
    except ValueError:  # Python does not write whole numbers of more than 4300 digits
        return "a number of thousands of digits"


def one_line(text: str) -> str:
    """The text in one line of at most 300 characters: long words, then all, lose their middle."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    if len(text) > _LONGEST:
        text = re.sub(r"\S{61,}", lambda word: f"{word[0][:28]}...{word[0][-28:]}", text)
    half = (_LONGEST - 5) // 2
    return text if len(text) <= _LONGEST else f"{text[:half]} ... {text[-half:]}"


def reason(error: BaseException) -> str:
    """What an error, or better its cause, has to say: one line of bounded length."""
    return one_line(str(error.__cause__ or error) or type(error).__name__).rstrip(".")


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


_MEMORY = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")
_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL",
    "Timed out",
)


def resource_sentence(error: BaseException, training: Any) -> str | None:
    """What to do about exhausted memory, a process that was lost, `torch.compile` without what it
    needs, or an operation that is not deterministic; `None` for other errors.

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
            "--training.accumulation, which changes the result little if at all, or lower "
            "--training.batch; checkpoints that were saved stay"
        )
    if text.startswith("DataLoader worker"):
        return (
            "a process that reads images ahead was lost, mostly for want of memory: lower "
            "--data.workers (0 reads in this process); the same command goes on from the last "
            "checkpoint"
        )
    compiling = type(error).__module__.startswith(("torch._dynamo", "torch._inductor"))
    missing = compiling and re.search(r"\bC(\+\+)? compiler|working triton", text)
    # A compiled kernel that was handed another memory layout than it was made for.
    if missing or (isinstance(error, AssertionError) and re.search("expected size.* stride", text)):
        advice = (
            ", or install what it needs: a C++ compiler, and Triton on a GPU" if missing else ""
        )
        return (
            f"torch.compile failed ({one_line(text.strip().splitlines()[0])[:120]}): leave "
            f"--training.compile false{advice}"
        )
    if "does not have a deterministic implementation" in text or "CUBLAS_WORKSPACE" in text:
        return (
            f"torch has no deterministic algorithm here ({one_line(text)[:60]}): choose another "
            "--out and leave --deterministic false, or do without what needs it (augmentation)"
        )
    if type(error).__name__.startswith("Dist") or any(phrase in text for phrase in _LOST):
        return (
            "another process of this run was lost or does not answer; its own message, if any, "
            "says why: the same command goes on from the last checkpoint"
        )
    return None
