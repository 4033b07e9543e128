"""Run a training script over many seeds and write their mean and standard error as a table.

`python experiments/seeds.py --seeds 10 --jobs 2 --out runs/ring -- --config configs/gan/ring.yaml`
"""

import json
import math
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from threading import Event
from typing import Annotated, Literal

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


def main(settings: Seeds) -> None:
    config = {"script": settings.script, "seeds": settings.seeds, "arguments": PASSED_ON}
    with FolderLock(settings.out, config, "Seeds", changing=True):
        figures, text = summary(run_all(settings))
        write_atomically(settings.out / "table.md", text)
        write_atomically(settings.out / "result.json", json.dumps(figures, indent=1))
    print(text)


def run_all(settings: Seeds) -> list[Figures]:
    """The figures of every seed."""
    from hybridgen.training.signals import raised

    children: list[subprocess.Popen] = []
    stopping = Event()
    with ThreadPoolExecutor(settings.jobs) as pool, raised():
        seeds = range(settings.seeds)
        runs = [pool.submit(run, settings, seed, children, stopping) for seed in seeds]
        try:
            with tqdm(as_completed(runs), total=settings.seeds, unit="seed") as done:
                return [future.result() for future in done]
        finally:  # after the first failure or a signal, nothing runs on unseen
            pool.shutdown(wait=False, cancel_futures=True)
            stopping.set()
            for child in children:
                child.terminate()


def run(settings: Seeds, seed: int, children: list[subprocess.Popen], stopping: Event) -> Figures:
    """One seed's figures; trains unless they are there."""
    folder, log = settings.out / f"seed{seed}", settings.out / f"seed{seed}.log"
    call = [sys.executable, Path(__file__).with_name(f"{settings.script}.py"), *PASSED_ON]
    call += ["--seed", str(seed), "--out", folder, "--threads", "1"]
    earlier = log.read_bytes() if log.is_file() and not log.is_symlink() else b""
    with new_file(log) as file:
        file.write(earlier)
        file.flush()
        child = start_command(call, stdout=file, stderr=file, env={"OMP_NUM_THREADS": "1"})
        children.append(child)
        if stopping.is_set():  # it came too late for those who stop all
            child.terminate()
        status = child.wait()
    if status:
        last = " ".join(log.read_text(errors="replace").strip().splitlines()[-1:])
        if status == 2 and not folder.exists():  # refused, so nothing is left of it
            write_atomically(log, earlier) if earlier else log.unlink()
            raise InputError(f"seed {seed}: {last.removeprefix('error: ')}")
        raise RunError(f"seed {seed} ended with status {status}: {last}")
    advice = "remove it and give the same command again"
    return read_object(folder / "result.json", values=Number | None, advice=advice)


def summary(results: list[Figures]) -> tuple[Figures, str]:
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
