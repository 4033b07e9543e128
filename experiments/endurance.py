"""Disturb scripts, run the same commands again, and compare with what undisturbed ones leave: the
weights and figures must be equal bit for bit, and nothing of the log may be lost.

`kills`: `kill -9` at random moments. `disk`: no file grows any more from a random moment on.
`damage`: one file of a run is damaged, and the command must do without it or say so in a sentence.
`fuzz`: settings that nobody should give get a sentence, and a script goes on from all others.

`python experiments/endurance.py --what all`
"""

import importlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import IO, Annotated, Literal, NamedTuple, get_args

from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.errors import InputError, RunError
from hybridgen.files import read_object, write_atomically
from hybridgen.settings import Count, Range, Seed, Settings
from hybridgen.training.lock import FolderLock

What = Literal["kills", "disk", "damage", "fuzz", "all"]
Script = Literal[
    "gan", "diffusion", "hybrid", "autoencoder", "guide", "distill", "finetune", "compare"
]
Figures = dict[str, float]
Draws = random.Random

SAVE_EVERY = 3
MAINS = {
    **{"gan": ("main", "Gan"), "diffusion": ("main", "Diffusion")},
    **{"hybrid": ("hybrid", "Diffusion"), "guide": ("main", "GuideExperiment")},
    **{"autoencoder": ("main", "Autoencoder"), "distill": ("main", "Distill")},
    "finetune": ("main", "Finetune"),
    "compare": ("main", "Compare"),
}
"""The function and the settings of each script."""
NEEDS: dict[Script, tuple[Script, ...]] = {
    **dict.fromkeys(("guide", "distill", "finetune"), ("diffusion",)),
    "compare": ("gan", "guide"),
}
# Small, but with everything that has a state: batch normalisation, labels, schedules, previews.
TRAINING = (
    *("--training.batch", "16", "--save_every", str(SAVE_EVERY), "--log_every", "5"),
    *("--threads", "1"),
)
PREVIEWS = ("--sample_every", "50", "--eval_every", "100", "--eval_samples", "50")
DISCRIMINATOR = ("--discriminator.architecture", "dcgan", "--discriminator.width", "8")
DENOISER = ("--denoiser.widths", "[8, 8]", "--sampler.steps", "3", "--final_samples", "50")
ARGUMENTS: dict[Script, tuple[str, ...]] = {
    "gan": (
        *(*TRAINING, *PREVIEWS, *DISCRIMINATOR, "--data.labels", "true"),
        *("--generator.architecture", "dcgan", "--generator.width", "8", "--generator.latent", "8"),
    ),
    "diffusion": (*TRAINING, *PREVIEWS, *DENOISER),
    "hybrid": (*TRAINING, *PREVIEWS, *DENOISER, *DISCRIMINATOR, "--adversarial.source", "chain"),
    "autoencoder": (
        *(*TRAINING, *PREVIEWS, *DISCRIMINATOR, "--autoencoder.widths", "[8, 8]"),
        *("--adversarial.warm_up", "5", "--adversarial.ramp", "5"),
    ),
    "guide": (
        *(*TRAINING, *DISCRIMINATOR, "--sampler.steps", "3", "--training.check_every", "20"),
        *("--training.levels", "2", "--num_samples", "200", "--scales", "[0.0, 1.0]"),
        *("--scale_samples", "20", "--scale_draws", "2", "--final_samples", "50"),
    ),
    "distill": (
        *(*TRAINING, *PREVIEWS, *DISCRIMINATOR, "--sampler.steps", "3", "--student.calls", "2"),
        *("--training.rounds", "2", "--regression.weight.start", "10", "--regression.pairs", "50"),
        *("--final_samples", "50"),
    ),
    "finetune": (*TRAINING, *PREVIEWS, "--num_samples", "200", "--final_samples", "50"),
    "compare": (
        *("--samples", "120", "--subsets", "8", "--timing_batch", "2", "--timing_rounds", "3"),
        *("--threads", "1"),
    ),
}
METHODS = [
    {"name": "GAN", "model": "gan"},
    {"name": "diffusion", "model": "diffusion", "calls": [3, 5]},
    {"name": "guided", "model": "diffusion", "guide": "guide", "scales": [1.0], "calls": [3, 5]},
]


@dataclass(frozen=True, kw_only=True)
class Endurance(Settings):
    """Settings of `experiments/endurance.py`.

    Attributes:
        what: happens to them.
        scripts: to which it happens.
        kills: of each script.
        disks: that are full, for each script.
        damages: one file each, for each script.
        inputs: hostile settings, over all scripts.
        steps: of each training.
        seed: names the moments, and seeds the trainings.
        out: the undisturbed runs, the others, what they said, and `result.json`.
    """

    what: What = "kills"
    scripts: tuple[Script, ...] = get_args(Script)
    kills: Annotated[int, Range(1, 10_000)] = 20
    disks: Annotated[int, Range(1, 10_000)] = 10
    damages: Annotated[int, Range(1, 10_000)] = 60
    inputs: Annotated[int, Range(1, 1e6)] = 1_000
    steps: Count = 120
    seed: Seed = 0
    out: Path = Path("runs/endurance")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < SAVE_EVERY * (self.kills + 2):
            raise InputError(
                f"need {SAVE_EVERY} steps for each kill and two more, got kills={self.kills} and "
                f"steps={self.steps}"
            )


def main(settings: Endurance) -> None:
    # Imported once the arguments are read; the scripts, which are forks, then have it too.
    from hybridgen.evaluation import fit, guide_data, measure  # noqa: F401
    from hybridgen.training import diffusion, distill, finetune, gan, guide, setup  # noqa: F401

    config = {name: value for name, value in vars(settings).items() if name != "out"}
    started = time.monotonic()
    with FolderLock(settings.out, config, "Endurance"):
        if (settings.out / "undisturbed").exists():
            raise InputError(f"{settings.out} was used already: choose another --out")
        totals: Figures = {}
        for script, what in product(settings.scripts, WHAT):
            if settings.what not in (what, "all"):
                continue
            straight, draws = undisturbed(settings, script), random.Random(settings.seed)
            result = WHAT[what](settings, script, straight, draws)
            print(f"{script}: " + ", ".join(f"{n} {name}" for name, n in result.items()))
            totals = _added(totals, result)
        if settings.what in ("fuzz", "all"):
            totals = _added(totals, hostile_settings(settings))
        text = json.dumps(totals | {"seconds": time.monotonic() - started}, indent=1)
        write_atomically(settings.out / "result.json", text + "\n")
    print("in all: " + ", ".join(f"{n} {name}" for name, n in totals.items()))
    if faults := sum(totals.get(name, 0) for name in FAULTS):
        raise RunError(f"{faults} faults: see {settings.out}")


def arguments(settings: Endurance, script: Script) -> list[str]:
    """What the script is given, but for its folder."""
    straight = settings.out / "undisturbed"
    if script == "compare":
        runs = {name: str(straight / name) for name in ("gan", "diffusion", "guide")}
        return [*ARGUMENTS[script], "--runs", json.dumps(runs), "--methods", json.dumps(METHODS)]
    numbers = ["--training.steps", str(settings.steps), "--seed", str(settings.seed)]
    run = ["--run", str(straight / "diffusion")] if "diffusion" in NEEDS.get(script, ()) else []
    return [*ARGUMENTS[script], *numbers, *run]


def start(
    settings: Endurance,
    script: Script,
    folder: Path,
    output: IO[bytes],
    meanwhile: Callable[[], object] = lambda: None,
) -> BaseProcess:
    """A script as a fork of this process, which has its imports; it talks to `output`."""
    name, kind = MAINS[script]
    module = importlib.import_module(script)
    argv = [*arguments(settings, script), "--out", str(folder)]

    def run() -> None:
        for descriptor in (1, 2):
            os.dup2(output.fileno(), descriptor)
        meanwhile()
        sys.exit(command(getattr(module, name), getattr(module, kind), argv))

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    return process


def log_of(folder: Path) -> IO[bytes]:
    """What the script says, as a file beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    return folder.with_name(f"{folder.name}.log").open("ab")


class Straight(NamedTuple):
    """An undisturbed run; the seconds to its first checkpoint, and in all."""

    folder: Path
    start_up: float
    seconds: float


def to_the_end(settings: Endurance, script: Script, folder: Path) -> Straight:
    """Wait for a script to end by itself."""
    started, before = time.monotonic(), progress(folder)
    with log_of(folder) as log:
        process = start(settings, script, folder, log)
    while process.is_alive() and progress(folder) == before:
        time.sleep(0.01)
    start_up = time.monotonic() - started
    process.join()
    if status := process.exitcode:
        raise RunError(f"{script} in {folder} ended with status {status}: see {folder}.log")
    return Straight(folder, start_up, time.monotonic() - started)


@cache
def undisturbed(settings: Endurance, script: Script) -> Straight:
    """A run that went through, after those that it needs."""
    for other in NEEDS.get(script, ()):
        undisturbed(settings, other)
    return to_the_end(settings, script, settings.out / "undisturbed" / script)


def kills(settings: Endurance, script: Script, straight: Straight, draws: Draws) -> Figures:
    """Kill a script again and again, then let it end."""
    folder, start_up = settings.out / "kills" / script, straight.start_up
    count = inside = 0
    for left in tqdm(range(settings.kills, 0, -1), unit="kill", desc=script):
        seconds = kill_once(settings, script, folder, draws, left, start_up)
        if not seconds:
            count += 1
            inside += any(folder.rglob(".tmp-*"))
        elif script != "compare":
            break  # it was done before its moment came
        else:  # measured already, it takes less
            start_up = min(start_up, seconds)
    to_the_end(settings, script, folder)
    return {"kills": count, "inside_a_write": inside, **compared(straight.folder, folder)}


def kill_once(
    settings: Endurance,
    script: Script,
    folder: Path,
    draws: Draws,
    left: int,
    start_up: float,
) -> float:
    """Start a script and `kill -9` it at a random moment; the seconds it took if it ended before.

    Every fourth moment lies in the start-up, and all of a comparison's. The others come after a
    random number of steps, which leaves enough for the `left - 1` kills to come, and then anywhere
    between two saves.
    """
    started, before = time.monotonic(), progress(folder)
    share = (settings.steps - before) / (left + 1)
    goal = before + draws.uniform(0, 1.5 * share)
    early, fraction = draws.random() < 0.25 or script == "compare", draws.random()
    with log_of(folder) as log:
        process = start(settings, script, folder, log)
    reached = [time.monotonic()]  # when each new checkpoint was seen
    while not early and process.is_alive() and (progress(folder) < goal or len(reached) < 3):
        if progress(folder) > before:
            before = progress(folder)
            reached.append(time.monotonic())
        time.sleep(0.001)
    between = reached[-1] - reached[-2] if len(reached) > 2 else 0
    process.join(fraction * (start_up if early else between))
    seconds = time.monotonic() - started
    process.kill()
    process.join()
    if process.exitcode not in (-9, 0):
        raise RunError(f"{script} in {folder} failed after {seconds:.1f} s: see {folder}.log")
    return seconds if process.exitcode == 0 else 0.0


def heard(settings: Endurance, script: Script, folder: Path, meanwhile: Callable) -> list[str]:
    """What is wrong with how a script that meets with something ends: its last lines, or nothing.

    It may go through, or say one sentence; tracebacks, other statuses and silence are wrong.
    """
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as output:
        process = start(settings, script, folder, output, meanwhile)
    with os.fdopen(reading, errors="replace") as pipe:
        lines = pipe.read().splitlines()
    process.join()
    with log_of(folder) as log:
        log.write("\n".join([*lines, f"status {process.exitcode}\n"]).encode())
    errors = [line for line in lines if line.startswith("error: ")]
    traceback = any(line.startswith("Traceback") for line in lines)
    status, right = process.exitcode, len(errors) == 1 and len(errors[0]) <= 300
    return lines[-5:] if traceback or status not in (0, 1, 2) or (status and not right) else []


def disk(settings: Endurance, script: Script, straight: Straight, draws: Draws) -> Figures:
    """Let no file grow beyond a random size from a random moment on, again and again.

    A script that was stopped by it goes on the next time; one that was done before its moment is
    compared and begins anew.
    """
    folder, faults = settings.out / "disk" / script, Figures()
    full, bar = 0, tqdm(total=settings.disks, unit="disk", desc=script)
    for _ in range(TRIES * settings.disks):
        moment = draws.uniform(0, straight.seconds) + 1e-3
        size = draws.choice([0, int(10 ** draws.uniform(1, 3.5))])

        def meanwhile(moment: float = moment, size: int = size) -> None:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            limits = (size, most)
            signal.signal(
                signal.SIGALRM, lambda *_: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            )
            signal.setitimer(signal.ITIMER_REAL, moment)

        wrong = bool(heard(settings, script, folder, meanwhile))
        faults = _added(faults, {"wrong_ends": wrong})
        if (folder / "result.json").exists():
            faults = _added(faults, compared(straight.folder, folder))
            shutil.rmtree(folder)
            continue
        full += 1
        bar.update()
        if full == settings.disks:
            break
    bar.close()
    to_the_end(settings, script, folder)
    return {"full_disks": full, **_added(faults, compared(straight.folder, folder))}


def _added(one: Figures, other: Figures) -> Figures:
    return {name: one.get(name, 0) + other.get(name, 0) for name in one | other}


def truncated(content: bytes, draws: Draws) -> bytes:
    return content[: draws.randrange(len(content) or 1)]


def flipped(content: bytes, draws: Draws) -> bytes:
    place = draws.randrange(len(content) or 1)
    return content[:place] + bytes([draws.randrange(256)]) + content[place + 1 :]


def retyped(content: bytes, draws: Draws) -> bytes:
    """Some value of a JSON or YAML file becomes something else."""
    values = [b"null", b"[]", b"{}", b'"text"', b"-1", b"1e999", b"9" * 30, b"true", b"[[[]]]"]
    starts = [place + 1 for place, byte in enumerate(content) if byte in b":,["]
    start = draws.choice(starts) if starts else len(content)
    ends = (place for place, byte in enumerate(content) if place >= start and byte in b",\n}]")
    return content[:start] + b" " + draws.choice(values) + content[next(ends, len(content)) :]


DAMAGES: dict[str, Callable[[bytes, Draws], bytes]] = {
    "empty": lambda content, draws: b"",
    "cut": truncated,
    "a byte": flipped,
    "another type": retyped,
    "an object": lambda content, draws: b"{}",
    "not UTF-8": lambda content, draws: b"\xff\xfe" + content,
    "byte-order marks": lambda content, draws: b"\xef\xbb\xbf" * 2 + content,
    "nested without end": lambda content, draws: b"[" * 3_000,
    "twice": lambda content, draws: 2 * content,
}


def damaged_copy(run: Path, folder: Path, draws: Draws) -> str:
    """Copy a run, every other time as if it were not finished, and damage a file; says how."""
    shutil.copytree(run, folder)
    if draws.random() < 0.5:
        (folder / "result.json").unlink()
    return damaged(folder, draws)


def damaged(folder: Path, draws: Draws) -> str:
    """Damage one file; says how."""
    suffixes = {".json", ".jsonl", ".yaml", ".safetensors"}
    file = draws.choice(sorted(p for p in folder.rglob("*") if p.suffix in suffixes))
    how = draws.choice([*DAMAGES, "itself"])
    content = file.read_bytes()
    file.unlink()
    if how == "itself":
        file.symlink_to(file)
    else:
        file.write_bytes(DAMAGES[how](content, draws))
    return f"{how}: {file.relative_to(folder)}"


def damage(settings: Endurance, script: Script, straight: Straight, draws: Draws) -> Figures:
    """Damage a file of a copy of a run, and run its command."""
    wrong = 0
    for number in tqdm(range(settings.damages), unit="file", desc=script):
        folder = settings.out / "damage" / f"{script}{number}"
        how = damaged_copy(straight.folder, folder, draws)
        if lines := heard(settings, script, folder, lambda: None):
            wrong += 1
            print(f"{folder}: {how}", *lines, sep="\n  ")
        else:
            shutil.rmtree(folder)
    return {"damaged_files": settings.damages, "wrong_ends": wrong}


def hostile_settings(settings: Endurance) -> Figures:
    """How many of `inputs` are not answered as they should be; see `fuzz.py`."""
    from fuzz import fuzz

    folder, wrong = settings.out.resolve() / "fuzz", 0
    folder.mkdir()
    faults = fuzz(settings.inputs, settings.seed, folder)
    for fault in tqdm(faults, total=settings.inputs, unit="input"):
        if fault is not None:
            wrong += 1
            print(fault)
    return {"hostile_settings": settings.inputs, "wrong_ends": wrong}


WHAT: dict[What, Callable[[Endurance, Script, Straight, Draws], Figures]] = {
    "kills": kills,
    "disk": disk,
    "damage": damage,
}
TRIES = 5
"""Runs for each full disk that is asked for: some are done before theirs is full."""
FAULTS = ("wrong_ends", "differences", "other_figures", "other_rows")
"""Numbers that must be 0."""


def progress(folder: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none."""
    return max((int(p.name[5:]) for p in folder.glob("checkpoints/step-*")), default=0)


def compared(one: Path, other: Path) -> Figures:
    """How many tensors, figures and rows of the log differ between two runs of one script."""
    from hybridgen.training.run import JsonLines

    results = [read_object(folder / "result.json") for folder in (one, other)]
    a, b = ({k: v for k, v in r.items() if "second" not in k and "peak" not in k} for r in results)
    rows = [JsonLines(folder / "log.jsonl").rows() for folder in (one, other)]
    return {
        "differences": differences(one, other),
        "other_figures": sum(a.get(name) != b.get(name) for name in a | b),
        "other_rows": sum(row not in rows[1] for row in rows[0]) + abs(len(rows[0]) - len(rows[1])),
    }


def differences(one: Path, other: Path) -> int:
    """Tensors that are not equal bit for bit in the final weights of two runs."""
    import torch
    from safetensors.torch import load_file

    count = 0
    for path in sorted(one.glob("*/*.safetensors")):
        a, b = load_file(path), load_file(other / path.relative_to(one))
        equal = sum(torch.equal(a[key], b[key]) for key in a.keys() & b.keys())
        count += len(a.keys() | b.keys()) - equal
    return count


if __name__ == "__main__":
    sys.exit(command(main, Endurance, description=__doc__ or ""))
