"""What an experiment does between the steps of its training: log, draw, judge, save, conclude."""

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from tqdm import tqdm

from hybridgen.errors import InputError
from hybridgen.evaluation.evaluator import NEIGHBOURS
from hybridgen.evaluation.monitor import Monitor
from hybridgen.training.run import Run
from hybridgen.training.step import Step


class Rhythm(Protocol):
    """How often something happens, in steps; part of every training script's settings."""

    @property
    def log_every(self) -> int: ...
    @property
    def sample_every(self) -> int: ...
    @property
    def eval_every(self) -> int: ...
    @property
    def save_every(self) -> int: ...
    @property
    def eval_samples(self) -> int: ...


def check_rhythm(settings: Rhythm) -> None:
    """Refuse intervals below one step and judgements on too few samples.

    Raises:
        InputError: see above.
    """
    for name in ("log_every", "sample_every", "eval_every", "save_every"):
        if getattr(settings, name) < 1:
            raise InputError(f"{name} must be at least 1, got {getattr(settings, name)}")
    if settings.eval_samples <= NEIGHBOURS:
        raise InputError(
            f"eval_samples must be more than {NEIGHBOURS}, got {settings.eval_samples}"
        )


def conduct(
    run: Run,
    steps: Iterator[Step],
    watch: Monitor,
    settings: Rhythm,
    conclude: Callable[[Step], None],
    *,
    total: int,
    batch: int,
    show: Sequence[str],
) -> None:
    """Go through a training to its end, with a progress bar.

    The last step is saved before it is judged and before `conclude`, which may take a while; a
    finished training that is resumed comes here with its last step alone.

    Args:
        conclude: called with the last step, by the process that leads.
        total: steps of the training.
        batch: samples a step.
        show: the losses at the bar.
    """
    with tqdm(
        total=total * batch, unit="img", unit_scale=True, mininterval=0.5, disable=not run.leads
    ) as bar:
        for step in steps:
            number, last = step.number, step.number == total
            if bar.n == 0:  # after a resume, speed is that of this sitting
                bar.initial = bar.n = (number - 1) * batch
            bar.update(batch)
            if last:
                run.save(step)
            with run.between_steps(step, save=number % settings.save_every == 0):
                if (last or number % settings.log_every == 0) and step.losses:
                    run.accelerator.log(step.losses, step=number)
                    values = {k: f"{step.losses[k]:.3f}" for k in show if k in step.losses}
                    bar.set_postfix(values, refresh=False)
                if run.leads and number % settings.sample_every == 0:
                    watch.preview(step.average, number)
                if run.leads and (last or number % settings.eval_every == 0):
                    figures = watch.figures(step.average, settings.eval_samples)
                    run.accelerator.log(figures, step=number)
                if run.leads and last:  # in here, so that a signal need not wait for it
                    bar.close()
                    conclude(step)
