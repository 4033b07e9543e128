"""Settings from the command line: layered files, then `--a.b value`, checked before any work."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from hybridgen.errors import FailedElsewhere, InputError, Interrupted, RunError, resource_sentence

S = TypeVar("S")

_PARENT = "HYBRIDGEN_PARENT"
_LAUNCHED = ("ACCELERATE_MIXED_PRECISION", "TORCHELASTIC_RUN_ID")
"""What `accelerate launch` and torchrun set; neither passes every signal on."""
_POLL = 0.2
"""Seconds."""


def read_settings(settings: type[S], argv: list[str] | None = None, description: str = "") -> S:
    """Fill the frozen dataclass `settings` from `--config FILE` (repeatable; later ones win) and
    `--a.b value`; `--help` and `--print_config` print and leave.

    Raises:
        InputError: an unknown name, a wrong type, or a value that a dataclass refuses.
    """
    parser = ArgumentParser(description=description, exit_on_error=False)
    parser.add_argument("--config", action="config", help="a YAML file with some of the settings")
    parser.add_class_arguments(settings, fail_untyped=False)
    try:
        filled = parser.instantiate(parser.parse_args(argv))
        return settings(**{name: value for name, value in filled.items() if name != "config"})
    except ArgumentError as error:
        raise InputError(_one_sentence(error)) from error


def command(
    main: Callable[[S], None],
    settings: type[S],
    argv: list[str] | None = None,
    description: str = "",
) -> int:
    """Run an experiment and turn what can go wrong into one sentence and an exit status.

    Returns:
        0 when done, 2 for bad settings or data, 1 for a failure while working, 128 + n when
        stopped by signal n.
    """
    _end_with_parent()
    try:
        filled = read_settings(settings, argv, description)
    except InputError as error:
        return _say(error, 2, everywhere=False)
    try:
        main(filled)
    except InputError as error:
        return _say(error, 2)
    except FailedElsewhere:
        return 1
    except RunError as error:
        return _say(error, 1)
    except OSError as error:
        return _say(f"{error.strerror or error}: {error.filename or 'while writing'}", 1)
    except Interrupted as stop:
        return _say(stop, 128 + stop.signal, everywhere=False)
    except KeyboardInterrupt:
        return _say("stopped before there was anything to save", 130, everywhere=False)
    except (RuntimeError, MemoryError) as error:
        sentence = resource_sentence(error, getattr(filled, "training", None))
        if sentence is None:
            raise
        return _say(sentence, 1)
    return 0


def start_command(call: list[Any], **options: Any) -> subprocess.Popen[Any]:
    """Start a command of this package that is asked to stop when this process has ended, even if
    it was killed; for `options` see `subprocess.Popen`."""
    environment = {**os.environ, **options.pop("env", {}), _PARENT: str(os.getpid())}
    return subprocess.Popen(call, env=environment, **options)


def _end_with_parent() -> None:
    """Send this process a SIGTERM once the process that started it for us has ended.

    By polling, which every Unix knows; a person's shell may end as it likes.
    """
    parent = int(os.environ.get(_PARENT, 0))
    if not parent and any(name in os.environ for name in _LAUNCHED):
        parent = os.getppid()

    def poll() -> None:
        while os.getppid() == parent:
            time.sleep(_POLL)
        os.kill(os.getpid(), signal.SIGTERM)

    if parent:
        threading.Thread(target=poll, daemon=True).start()


def _say(message: object, status: int, *, everywhere: bool = True) -> int:
    """Print one line; of several processes, the others say their number or nothing."""
    rank = int(os.environ.get("RANK", 0))
    if rank == 0 or everywhere:
        who = f"process {rank}: " if rank else ""
        word = "error: " if status in (1, 2) else ""
        print(f"{who}{word}{message}", file=sys.stderr, flush=True)
    return status


def _one_sentence(error: Exception) -> str:
    """The parser's message without its indented tree of attempts."""
    lines = [line.strip(" -") for line in str(error).splitlines()]
    return " ".join(line for line in lines if line)
