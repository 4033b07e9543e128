"""A run is a folder: settings, log, result, and checkpoints to resume from."""

import dataclasses
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker

from hybridgen.errors import FailedElsewhere, InputError, Interrupted, RunError, reason
from hybridgen.files import Number, parse, read_object, write_atomically
from hybridgen.training import checkpoint
from hybridgen.training.checkpoint import RandomState
from hybridgen.training.lock import FolderLock, tied
from hybridgen.training.signals import Signals
from hybridgen.training.step import Step

_LONGEST = 2**20
"""Bytes of a line of a log."""


class JsonLines(GeneralTracker):
    """Appends every logged dictionary to a file; the first key of a line is `step`.

    Numbers that JSON does not know (NaN, infinity) become null.
    """

    name = "jsonl"
    requires_logging_directory = False
    main_process_only = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    @property
    def tracker(self) -> Path:
        return self._path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        """Nothing: the settings are in config.yaml."""

    def log(
        self,
        values: dict[str, Any],
        step: int | None = None,
        text: Mapping[str, str] | None = None,
        **_: Any,
    ) -> None:
        """Append a line; `text` is what other trackers, which draw numbers, have no place for."""
        infinite = {k for k, v in values.items() if isinstance(v, float) and not math.isfinite(v)}
        clean = {k: None if k in infinite else v for k, v in values.items()}
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        with os.fdopen(os.open(self._path, flags, 0o666), "a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **clean, **(text or {})}) + os.linesep)

    def rows(self) -> list[dict[str, Any]]:
        """What was logged so far, without lines that are damaged or were cut by a kill."""
        return self._intact()[0]

    def forget_after(self, step: int) -> str:
        """Drop the lines of steps that will be made again, and damaged ones.

        Returns:
            A sentence about the damage, empty if there was none.
        """
        rows, complaint = self._intact()
        if os.path.lexists(self._path):
            kept = [json.dumps(row) for row in rows if row["step"] <= step]
            write_atomically(self._path, "".join(line + os.linesep for line in kept))
        return complaint

    def _intact(self) -> tuple[list[dict[str, Any]], str]:
        """The rows that can be read, and a sentence about the others."""
        rows: list[dict[str, Any]] = []
        damaged: list[str] = []
        if not os.path.lexists(self._path):
            return rows, ""
        if not self._path.is_file():
            return rows, f"{self._path} is no file and was replaced"
        with self._path.open("rb") as file:
            for number, line in enumerate(iter(partial(file.readline, _LONGEST), b""), 1):
                try:
                    rows.append(_row(line))
                except Exception as error:  # damaged text fails in as many ways as it has forms
                    damaged.append(f"line {number} ({reason(error)[:100]})")
        if not damaged:
            return rows, ""
        more = f" and {len(damaged) - 1} more" if damaged[1:] else ""
        return rows, f"{self._path} is damaged: {damaged[0]}{more} dropped"


def _row(line: bytes) -> dict[str, Any]:
    """A line of a log; raises if it is none."""
    row = parse(line.decode("utf-8-sig"))
    nested = [name for name, value in row.items() if isinstance(value, dict | list)]
    if not isinstance(row["step"], int) or nested:
        raise ValueError("it is no row")
    return row


class Run:
    """One experiment's folder, open for work by one process group.

    Layout: `config.yaml`, `log.jsonl`, `checkpoints/step-N/`, `samples/`, and at the end
    `result.json` and the weights. Use it as a context manager: a signal then saves and leaves.

    Attributes:
        lock: of the folder, in the process that leads.
        resumed: called with the step and the state of the checkpoint that a run goes on from.

    Args:
        folder: created if missing; an existing one must be a run of the same settings.
        settings: the experiment's dataclass; its `out` does not count.
        accelerator: rank 0 writes, all ranks agree.
        facts: what besides the settings must be the same on resuming, such as the number of
            training examples; numbers, strings or `None`.

    Raises:
        InputError: the folder cannot be written, is something else, is in use, or holds a run of
            other settings; nothing in it was touched.
    """

    def __init__(
        self,
        folder: Path,
        settings: Any,
        accelerator: Accelerator,
        *,
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder, self.accelerator = folder, accelerator
        self.config = {k: v for k, v in dataclasses.asdict(settings).items() if k != "out"}
        config = hashlib.sha256(json.dumps(tied(self.config), sort_keys=True).encode()).hexdigest()
        precision = accelerator.mixed_precision
        self.facts = {"config": config, "mixed_precision": precision, **(facts or {})}
        self.log_file = JsonLines(folder / "log.jsonl")
        self.random = RandomState(accelerator)
        self.signals = Signals(accelerator)
        self.resumed: Callable[[int, Mapping[str, Any]], None] = lambda step, state: None
        self._saved = 0
        self._seconds_before, self._started = 0.0, time.monotonic()
        script = type(settings).__name__
        self.lock: FolderLock | None = self.lead(lambda: FolderLock(folder, self.config, script))

    @property
    def leads(self) -> bool:
        """Whether this process is the one that writes files and messages."""
        return self.accelerator.is_main_process

    @property
    def result(self) -> dict[str, float | None] | None:
        """The figures of a run that is finished."""
        path = self.folder / "result.json"
        advice = "remove it and give the same command again, or choose another --out"
        exists = os.path.lexists(path)
        return read_object(path, values=Number | None, advice=advice) if exists else None

    @property
    def _accumulation(self) -> int:
        return (self.config.get("training") or {}).get("accumulation", 1)

    @property
    def seconds(self) -> float:
        """Time spent since the start, earlier sittings included."""
        return self._seconds_before + time.monotonic() - self._started

    def resume(self, state: Mapping[str, Any]) -> int:
        """Fill `state` from the newest intact checkpoint; returns its step, 0 if there is none.

        Raises:
            InputError: the checkpoint belongs to a run of other settings, precision or data.
            RunError: there are checkpoints, and none is intact.
        """
        needed = (*self.facts, "seconds", "world")
        newest, complaints = checkpoint.newest(self.folder / "checkpoints", needed)
        for complaint in complaints:
            self.say(f"warning: {complaint}")
        if newest is not None:
            self._check_facts(newest)
            newest.restore({**state, "random": self.random})
            self._seconds_before = newest.manifest["seconds"]
            self.say(f"going on from step {newest.step} of {self.folder}")
        self._started = time.monotonic()
        self._saved = newest.step if newest else 0
        if complaint := self.lead(lambda: self.log_file.forget_after(self._saved)):
            self.say(f"warning: {complaint}")
        if newest is not None:
            self.resumed(newest.step, state)
        return self._saved

    def save(self, step: Step) -> None:
        """Write a checkpoint, unless this step has one; every process calls this.

        Raises:
            RunError: a loss of this or an earlier step was not finite, or it cannot be written.
        """
        if step.number == self._saved:
            return
        dict(step.losses)  # reading them raises the first
        self.random.collect()
        state, world = {**step.state, "random": self.random}, self.accelerator.num_processes
        facts = {**self.facts, "seconds": self.seconds, "world": world}
        facts["accumulation"] = self._accumulation
        root, number = self.folder / "checkpoints", step.number
        self.lead(lambda: checkpoint.write(root, number, state, **facts))
        self._saved = number

    @contextmanager
    def between_steps(self, step: Step, *, save: bool) -> Iterator[None]:
        """Around what a script does after a step; saves before it if `save`, and on a signal.

        A signal during the step waits for it to end; one during the body of this `with` ends the
        body at once. Either way the step is saved, and `Interrupted` leaves the loop.
        """
        if save:
            self.save(step)
        try:
            if number := self.signals.received(step.number, now=save or step.last):
                raise Interrupted(number)
            with self.signals.interruptible():
                yield
        except Interrupted as stop:
            self.save(step)
            sentence = (
                f"stopped and saved at step {step.number}; the same command goes on from there"
            )
            raise Interrupted(stop.signal, sentence) from None

    def finish(self, result: Mapping[str, float]) -> None:
        """Write `result.json`: flat, metric name -> number, null for one that is not finite."""
        if self.leads:
            figures = {k: v if math.isfinite(v) else None for k, v in result.items()}
            text = json.dumps(figures, indent=1, allow_nan=False)
            write_atomically(self.folder / "result.json", text + "\n")

    def say(self, sentence: str) -> None:
        """One line on standard error, from one process."""
        if self.leads:
            sys.stderr.write(sentence + "\n")

    def __enter__(self) -> "Run":
        self.signals.__enter__()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, *_: object) -> None:
        self.signals.__exit__()
        if self.lock is not None:
            self.lock.close(failed=kind is not None)
        if kind is RunError:
            last = f"step {self._saved}" if self._saved else "none yet"
            raise RunError(f"{error} (last good checkpoint: {last})") from error

    def lead(self, action: Callable[[], Any]) -> Any:
        """Let the first process act while the others wait; if it fails, all of them stop."""
        error = outcome = None
        if self.leads:
            try:
                outcome = action()
            except Exception as failure:  # whatever it is, the others must not wait for ever
                error = failure
        failed = torch.tensor([error is not None], device=self.accelerator.device)
        if bool(torch.as_tensor(self.accelerator.gather(failed)).any()):
            raise error or FailedElsewhere("the first process could not go on")
        return outcome

    def decide(self, question: Callable[[], Any]) -> bool:
        """Whether the first process says yes, in all of them."""
        yes = torch.tensor([bool(self.lead(question))], device=self.accelerator.device)
        return bool(torch.as_tensor(self.accelerator.gather(yes)).any())

    def _check_facts(self, saved: checkpoint.Checkpoint) -> None:
        for name, now in self.facts.items():
            if saved.manifest[name] != now:
                raise InputError(
                    f"{saved.path} was written with another {name} ({saved.manifest[name]}, "
                    f"now {now}): go on as it was begun, or choose another --out"
                )
        if saved.manifest["world"] != self.accelerator.num_processes:
            self.say(
                f"warning: begun on {saved.manifest['world']} process(es), going on with "
                f"{self.accelerator.num_processes}: the result is not the same bit for bit"
            )
        if saved.manifest.get("accumulation", self._accumulation) != self._accumulation:
            self.say(
                f"warning: begun with {saved.manifest['accumulation']} micro-batch(es) a step, "
                f"going on with {self._accumulation}: the result is not the same bit for bit"
            )
