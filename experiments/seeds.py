"""Run `experiments/gan.py` over many seeds and write their mean and standard error as a table.

`python experiments/seeds.py --seeds 10 --jobs 2 --out runs/ring -- --config configs/gan/ring.yaml`
"""

import json
import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from tqdm import tqdm

from hybridgen.config import command
from hybridgen.errors import InputError, RunError
from hybridgen.training.files import write_atomically

SCRIPT = Path(__file__).with_name("gan.py")


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Settings of `experiments/seeds.py`; what follows `--` goes to `experiments/gan.py`.

    Attributes:
        seeds: how many, from 0 on; finished ones are not run again.
        jobs: how many at a time, each on one core.
        out: one run folder a seed, `table.md` and `result.json`.
    """

    seeds: int = 10
    jobs: int = 1
    out: Path = Path("runs/seeds")

    def __post_init__(self) -> None:
        if self.seeds < 1 or self.jobs < 1:
            raise InputError(f"seeds and jobs must be at least 1, got {self.seeds}, {self.jobs}")


def main(settings: Seeds) -> None:
    with ThreadPoolExecutor(settings.jobs) as pool:
        runs = pool.map(lambda seed: run(settings.out, seed), range(settings.seeds))
        results = list(tqdm(runs, total=settings.seeds, unit="seed"))
    figures, text = summary(results)
    write_atomically(settings.out / "table.md", text)
    write_atomically(settings.out / "result.json", json.dumps(figures, indent=1))
    print(text)


def run(out: Path, seed: int) -> dict[str, float]:
    """One seed's figures; trains unless they are there."""
    folder = out / f"seed{seed}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = out / f"seed{seed}.log"
    call = [
        sys.executable,
        SCRIPT,
        *PASSED_ON,
        "--seed",
        str(seed),
        "--out",
        folder,
        "--threads",
        "1",
    ]
    with log.open("w") as file:
        done = subprocess.run(
            call, stdout=file, stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
        )
    if done.returncode:
        last = log.read_text().strip().splitlines()[-1:]
        raise RunError(f"seed {seed} ended with status {done.returncode}: {' '.join(last)}")
    return json.loads((folder / "result.json").read_text())


def summary(results: list[dict[str, float]]) -> tuple[dict[str, float], str]:
    """Mean and standard error of every figure that all seeds have, flat and as a Markdown table."""
    figures: dict[str, float] = {"seeds": len(results)}
    rows = ["| figure | mean | standard error | least | greatest | floor |", "| --- " * 6 + "|"]
    for name in results[0]:
        values = [result[name] for result in results if name in result]
        figures[name] = fmean(values)
        figures[f"{name}_se"] = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
        if not name.startswith("floor_"):
            floor = results[0].get(f"floor_{name}")
            numbers = [figures[name], figures[f"{name}_se"], min(values), max(values)]
            cells = [f"{n:.4g}" for n in numbers] + ["" if floor is None else f"{floor:.4g}"]
            rows.append(f"| {name} | " + " | ".join(cells) + " |")
    return figures, "\n".join(rows) + "\n"


if __name__ == "__main__":
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    PASSED_ON = sys.argv[cut + 1 :]
    sys.exit(command(main, Seeds, sys.argv[1:cut], description=__doc__ or ""))
