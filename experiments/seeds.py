"""Run a training script over many seeds and write their mean and standard error as a table.

`python experiments/seeds.py --seeds 10 --jobs 2 --out runs/ring -- --config configs/gan/ring.yaml`
"""

import json
import math
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from threading import Event
from typing import Annotated, Any, Literal

from tqdm import tqdm

from hybridgen.cli import command, start_command
from hybridgen.errors import InputError, RunError
from hybridgen.files import Number, new_file, read_object, write_atomically
from hybridgen.settings import Range, Settings
from hybridgen.training.lock import FolderLock

Figures = dict[str, float | None]
PASSED_ON: list[str] = []
"""To the training script."""


@dataclass(frozen=True, kw_only=True)
class Seeds(Settings):
    """Settings of `experiments/seeds.py`; what follows `--` goes to the training script.

    Attributes:
        script: which one.
        seeds: how many, from 0 on; finished ones are not run again.
        jobs: how many at a time, each on one core.
        out: one run folder a seed, `table.md` and `result.json`.
    """

    script: Literal["gan", "diffusion", "hybrid", "autoencoder"] = "gan"
    seeds: Annotated[int, Range(1, 10_000)] = 10
    jobs: Annotated[int, Range(1, 256)] = 1
    out: Path = Path("runs/seeds")


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a queue.

    Attributes:
        name: its folder in that of the queue; its log is beside it.
        script: of experiments/.
        arguments: of the script, but for `--out` and `--threads`.
    """

    name: str
    script: str
    arguments: tuple[str, ...]


def main(settings: Seeds) -> None:
    config = {"script": settings.script, "seeds": settings.seeds, "arguments": PASSED_ON}
    jobs = [
        Job(name=f"seed{n}", script=settings.script, arguments=(*PASSED_ON, "--seed", str(n)))
        for n in range(settings.seeds)
    ]
    with FolderLock(settings.out, config, "Seeds", changing=True):
        results = run_all(jobs, settings.out, settings.jobs)
        figures, text = summary([results[job.name] for job in jobs])
        write_atomically(settings.out / "table.md", text)
        write_atomically(settings.out / "result.json", json.dumps(figures, indent=1))
    print(text)


class RunEnded(RunError):
    """A run ended with a status that is not 0; `log` is what it printed since it was started."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


class Children:
    """Processes that end together."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen] = []
        self._stopped = Event()

    def wait_for(self, call: list[Any], **options: Any) -> int:
        """The exit status of a command."""
        child = start_command(call, **options)
        self._processes.append(child)
        if self._stopped.is_set():  # it came too late for those who stop all
            child.terminate()
        return child.wait()

    def stop(self) -> None:
        """Ask all of them, and those that come later, to end."""
        self._stopped.set()
        for child in self._processes:
            child.terminate()


def run(job: Job, out: Path, children: Children) -> Figures:
    """The figures of a run in the folder `out`; one that is finished only says them again."""
    folder, log = out / job.name, out / f"{job.name}.log"
    call = [sys.executable, Path(__file__).with_name(f"{job.script}.py"), *job.arguments]
    call += ["--out", folder, "--threads", "1"]
    log.parent.mkdir(parents=True, exist_ok=True)
    earlier = log.read_bytes() if log.is_file() and not log.is_symlink() else b""
    with new_file(log) as file:
        file.write(earlier)
        file.flush()
        status = children.wait_for(call, stdout=file, stderr=file, env={"OMP_NUM_THREADS": "1"})
    if status:
        printed = log.read_bytes()[len(earlier) :].decode(errors="replace")
        last = " ".join(printed.strip().splitlines()[-1:])
        if status == 2 and not folder.exists():  # refused, so nothing is left of it
            write_atomically(log, earlier) if earlier else log.unlink()
            raise InputError(f"{job.name}: {last.removeprefix('error: ')}")
        raise RunEnded(f"{job.name} ended with status {status}: {last}", printed)
    advice = "remove it and give the same command again"
    return read_object(folder / "result.json", values=Number | None, advice=advice)


def run_all(
    jobs: Sequence[Job],
    out: Path,
    at_once: int,
    run: Callable[[Job, Path, Children], Figures] = run,
) -> dict[str, Figures]:
    """The figures of every run by its name; each is a process on one core, `at_once` at a time."""
    from hybridgen.training.signals import raised

    children = Children()
    with ThreadPoolExecutor(at_once) as pool, raised():
        runs = {pool.submit(run, job, out, children): job.name for job in jobs}
        try:
            with tqdm(as_completed(runs), total=len(jobs), unit="run") as done:
                return {runs[future]: future.result() for future in done}
        finally:  # after the first failure or a signal, nothing runs on unseen
            children.stop()
            pool.shutdown(wait=False, cancel_futures=True)


def summary(results: Sequence[Figures]) -> tuple[Figures, str]:
    """Mean and standard error of every figure, flat and as a Markdown table.

    A figure that is infinite for any seed has an infinite mean, not the mean of the others.
    """
    figures: Figures = {"seeds": len(results)}
    rows = ["| figure | mean | standard error | least | greatest | floor |", "| --- " * 6 + "|"]
    for name in dict.fromkeys(name for result in results for name in result):
        values = [math.inf if (v := result.get(name)) is None else v for result in results]
        mean = error = fmean(values)
        if mean < math.inf:
            error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        figures[name], figures[f"{name}_se"] = (None if x == math.inf else x for x in (mean, error))
        if not name.startswith("floor_"):
            numbers = [mean, error, min(values), max(values)]
            cells = ["infinite" if n == math.inf else f"{n:.4g}" for n in numbers]
            floor = results[0].get(f"floor_{name}")
            cells.append("" if floor is None else f"{floor:.4g}")
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return figures, "\n".join(rows) + "\n"


if __name__ == "__main__":
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    PASSED_ON = sys.argv[cut + 1 :]
    sys.exit(command(main, Seeds, sys.argv[1:cut], description=__doc__ or ""))
