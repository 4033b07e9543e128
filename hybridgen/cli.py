"""Settings from the command line: layered files, then `--a.b value`, checked before any work."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from jsonargparse import ArgumentError, ArgumentParser

from hybridgen.errors import (
    FailedElsewhere,
    InputError,
    Interrupted,
    RunError,
    one_line,
    quoted,
    resource_sentence,
)
from hybridgen.settings import check, did_you_mean, hints, refusal

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
    parser = ArgumentParser(description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--config", action="config", help="a YAML file with some of the settings")
    parser.add_class_arguments(settings, fail_untyped=False)
    try:
        values = parser.parse_args(argv)
        check(settings, values)  # which knows whole names, such as `training.noise.std`
        filled = parser.instantiate(values)
        return settings(**{name: value for name, value in filled.items() if name != "config"})
    except InputError:
        raise
    except (ArgumentError, ValueError, TypeError, RecursionError) as error:  # of what was typed
        raise InputError(_one_sentence(error, settings, parser.get_defaults().keys())) from error


def command(
    main: Callable[[S], None],
    settings: type[S],
    argv: list[str] | None = None,
    description: str = "",
    *,
    default_config: Path | None = None,
) -> int:
    """Run an experiment and turn what can go wrong into one sentence and an exit status.

    Args:
        default_config: settings where `argv` has no `--config`.

    Returns:
        0 when done, 2 for bad settings or data, 1 for a failure while working, 128 + n when
        stopped by signal n.
    """
    words = sys.argv[1:] if argv is None else argv
    if default_config and not any(word.split("=")[0] == "--config" for word in words):
        words = ["--config", str(default_config), *words]
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    _end_with_parent()
    try:
        filled = read_settings(settings, words, description)
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
    except (RuntimeError, MemoryError, AssertionError) as error:
        sentence = resource_sentence(error, getattr(filled, "training", None))
        if sentence is None:
            raise
        return _say(sentence, 1)
    return 0


def argument(value: str | int | float | bool | None) -> str:
    """A setting's value as a word of a command: text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


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
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # by nohup: it is to outlive others
    if not parent and not ignored and any(name in os.environ for name in _LAUNCHED):
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
        print(one_line(f"{who}{word}{message}"), file=sys.stderr, flush=True)
    return status


def _one_sentence(error: Exception, settings: type, names: Iterable[str]) -> str:
    """The parser's message: which setting, what it may be, and what came."""
    text = " ".join(line.strip(" -") for line in str(error).splitlines())
    if unknown := _UNKNOWN.search(text):
        name = ".".join(filter(None, unknown.groups()))
        return f"there is no setting {quoted(name)}{did_you_mean(name, names)}"
    value = _VALUE.search(text)
    for name in reversed(_NAME.findall(text) if value else []):  # the innermost that is a path
        hint: Any = settings
        for field in name.split("."):
            hint = hints(hint).get(field) if is_dataclass(hint) else None
        if value and hint is not None:
            return refusal(hint, value[1].strip("\"'"), name)
    if text.startswith("Unexpected config"):
        return "a file given with --config must hold names of settings and their values"
    return text


_UNKNOWN = re.compile(
    r"unrecognized arguments: -*([^\s=]+)|Group '(\S+)' does not accept option '(\S+)'"
    r"|Option '(\S+)' is not accepted"
)
_NAME = re.compile(r'Parser key "([\w.]+)"')
_VALUE = re.compile(r".*(?:value:|load config|Exceeds the limit)\s*(.*)")
