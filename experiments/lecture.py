"""The lecture as one page, statement by statement: `python experiments/lecture.py`.

Each statement is a sentence, numbers beside closed forms or bounds, and pictures, computed here.
"""

import sys
import time
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tqdm import tqdm

from hybridgen.cli import command
from hybridgen.settings import Range, Seed, Settings
from hybridgen.training.settings import RunSettings, Threads

STATEMENTS = {
    "sampler": "lecture_samples",
    "discriminator": "lecture_theory",
    "value": "lecture_theory",
    "divergences": "lecture_divergences",
    "optimum": "lecture_theory",
    "samples": "lecture_samples",
    "single_pass": "lecture_pixels",
    "play": "lecture_games",
    "progress": "lecture_digits",
    "modes": "lecture_divergences",
    "losses": "lecture_losses",
    "stopping": "lecture_losses",
    "collapse": "lecture_ring",
    "digit_collapse": "lecture_digits",
    "closing": "lecture_denoising",
}
"""In the lecture's order; each is the function of its name in the module beside it."""

if TYPE_CHECKING:
    from lecture_parts import Statement

    Name = str
else:
    Name = Literal[tuple(STATEMENTS)]


@dataclass(frozen=True, kw_only=True)
class Lecture(Settings):
    """Settings of `experiments/lecture.py`.

    Attributes:
        statements: names of those to make, in the lecture's order; all if not given.
        effort: of trainings and of samples, as a share of the usual; less is for trials.
        out: the folder of `lecture.html` and `result.json`.
        threads: of torch on the CPU; networks as small as these are fastest with one.
    """

    statements: tuple[Name, ...] | None = None
    effort: Annotated[float, Range(0, 10, "(]")] = 1.0
    seed: Seed = 0
    out: Path = Path("runs/lecture")
    threads: Threads = 1

    def scaled(self, usual: int, least: int = 2) -> int:
        """A number of steps or samples at this effort."""
        return max(least, round(self.effort * usual))


def statement(settings: Lecture, name: Name) -> "Statement":
    """A statement of the lecture, computed now; a notebook shows it as the page does."""
    # Imported once the arguments are read: these take seconds.
    import torch
    from matplotlib import rc_context

    from hybridgen.report.svg import LOOK

    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    with rc_context(LOOK):
        made = getattr(import_module(STATEMENTS[name]), name)(settings)
    return replace(made, name=name)


def main(settings: Lecture) -> None:
    from accelerate import Accelerator

    from hybridgen.files import write_atomically
    from hybridgen.report.page import filled
    from hybridgen.training.run import Run
    from hybridgen.training.setup import accelerator_for

    out = settings.out
    Accelerator(cpu=True)  # the first decides for all: such small networks are faster there
    accelerator = accelerator_for(out, RunSettings(seed=settings.seed, threads=settings.threads))
    names = settings.statements or tuple(STATEMENTS)
    figures, statements, costs = {}, [], {}
    with Run(out, settings, accelerator) as run:
        for name in tqdm(names, unit="statement"):
            start = time.process_time()
            statements.append(statement(settings, name))
            costs[name] = time.process_time() - start
            for check in statements[-1].checks:
                key = f"{name}/{check.key}"
                figures[key], figures[f"{key}_truth"] = check.measured, check.truth
                figures[f"{key}_holds"] = float(check.holds)
            figures[f"{name}/cpu_seconds"] = costs[name]
        words = " ".join(["python", "experiments/lecture.py", *sys.argv[1:]])
        facts = {"CPU seconds": f"{sum(costs.values()):.0f}", "seed": str(settings.seed)}
        page = filled(
            "lecture.html", statements=statements, seconds=costs, command=words, facts=facts
        )
        write_atomically(out / "lecture.html", page)
        run.finish({**figures, "seconds": run.seconds})
    print(f"the page is {out / 'lecture.html'}")


if __name__ == "__main__":
    sys.exit(command(main, Lecture, description=__doc__ or ""))
