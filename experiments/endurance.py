"""Kill a training at random moments, run the same command again each time, and compare the
weights with those of a training that was never killed: they must be equal bit for bit.

`python experiments/endurance.py --kills 20`
"""

import json
import multiprocessing
import os
import random
import sys
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Annotated

import gan
from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.errors import InputError, RunError
from hybridgen.settings import Count, Range, Seed, Settings

SAVE_EVERY = 3
# Small, but with everything that has a state: batch normalisation, labels, schedules.
TRAINING = (
    *("--generator.architecture", "dcgan", "--generator.width", "8", "--generator.latent", "8"),
    *("--discriminator.architecture", "dcgan", "--discriminator.width", "8"),
    *("--data.labels", "true"),
    *("--training.batch", "16", "--save_every", str(SAVE_EVERY), "--log_every", "5"),
    *("--threads", "1"),
)


@dataclass(frozen=True, kw_only=True)
class Endurance(Settings):
    """Settings of `experiments/endurance.py`.

    Attributes:
        kills: how often the training is killed.
        steps: of the training.
        seed: names the moments, and seeds the training.
        out: the two runs, `killed.log` and `result.json`.
    """

    kills: Annotated[int, Range(1, 10_000)] = 20
    steps: Count = 300
    seed: Seed = 0
    out: Path = Path("runs/endurance")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < SAVE_EVERY * (self.kills + 2):
            raise InputError(
                f"need {SAVE_EVERY} steps for each kill and two more, got "
                f"kills={self.kills} and steps={self.steps}"
            )


def main(settings: Endurance) -> None:
    # Imported once the arguments are read; the trainings, which are forks, then have them too.
    from hybridgen.evaluation import fit, monitor  # noqa: F401
    from hybridgen.training.checkpoint import write_atomically

    straight, killed = settings.out / "straight", settings.out / "killed"
    if killed.exists():
        raise InputError(f"{killed} is there already: choose another --out")
    settings.out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    start_up = train_to_the_end(settings, straight)

    draws = random.Random(settings.seed)
    kills = inside = 0
    for left in tqdm(range(settings.kills, 0, -1), unit="kill"):
        if not kill_once(settings, killed, draws, left, start_up):
            break  # it was done before its moment came
        kills += 1
        inside += any(killed.glob("checkpoints/.tmp-*"))
    train_to_the_end(settings, killed)

    count, seconds = differences(straight, killed), time.monotonic() - started
    result = {"kills": kills, "kills_inside_a_write": inside, "steps": settings.steps}
    result |= {"differences": count, "seconds": seconds}
    write_atomically(settings.out / "result.json", json.dumps(result, indent=1) + "\n")
    print(f"{kills} kills, {inside} of them inside a checkpoint's write; {count} tensors differ")
    if count:
        raise RunError(f"the weights in {killed} are not those in {straight}")


def start(settings: Endurance, folder: Path) -> BaseProcess:
    """`experiments/gan.py` as a fork of this process, which has its imports; it talks to a file."""
    numbers = ["--training.steps", str(settings.steps), "--seed", str(settings.seed)]

    def train() -> None:
        with folder.with_name(f"{folder.name}.log").open("ab") as log:
            for descriptor in (1, 2):
                os.dup2(log.fileno(), descriptor)
        sys.exit(command(gan.main, gan.Gan, [*TRAINING, *numbers, "--out", str(folder)]))

    process = multiprocessing.get_context("fork").Process(target=train)
    process.start()
    return process


def train_to_the_end(settings: Endurance, folder: Path) -> float:
    """Wait for the training to end by itself; returns the seconds to its first new checkpoint."""
    started, before = time.monotonic(), saved(folder)
    process = start(settings, folder)
    while process.is_alive() and saved(folder) == before:
        time.sleep(0.01)
    start_up = time.monotonic() - started
    process.join()
    if status := process.exitcode:
        raise RunError(f"training in {folder} ended with status {status}: see {folder}.log")
    return start_up


def kill_once(
    settings: Endurance, folder: Path, draws: random.Random, left: int, start_up: float
) -> bool:
    """Start the training and `kill -9` it at a random moment; whether it was still alive.

    Every fourth moment lies in the start-up. The others come after a random number of steps, which
    leaves enough for the `left - 1` kills to come, and then anywhere between two saves.
    """
    started, before = time.monotonic(), saved(folder)
    share = (settings.steps - before) / (left + 1)
    goal = before + draws.uniform(0, 1.5 * share)
    early, fraction = draws.random() < 0.25, draws.random()
    process = start(settings, folder)
    reached = [time.monotonic()]  # when each new checkpoint was seen
    while not early and process.is_alive() and (saved(folder) < goal or len(reached) < 3):
        if saved(folder) > before:
            before = saved(folder)
            reached.append(time.monotonic())
        time.sleep(0.001)
    between = reached[-1] - reached[-2] if len(reached) > 2 else 0
    time.sleep(fraction * (start_up if early else between))
    process.kill()
    process.join()
    if process.exitcode not in (-9, 0):
        raise RunError(f"the training in {folder} failed after {time.monotonic() - started:.1f} s")
    return process.exitcode == -9


def saved(folder: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(p.name[5:]) for p in folder.glob("checkpoints/step-*")), default=0)


def differences(one: Path, other: Path) -> int:
    """Tensors that are not equal bit for bit in the final weights of two runs."""
    import torch
    from safetensors.torch import load_file

    count = 0
    for name in ("generator", "discriminator"):
        a, b = (load_file(next((f / name).glob("*.safetensors"))) for f in (one, other))
        equal = sum(torch.equal(a[key], b[key]) for key in a.keys() & b.keys())
        count += len(a.keys() | b.keys()) - equal
    return count


if __name__ == "__main__":
    sys.exit(command(main, Endurance, description=__doc__ or ""))
