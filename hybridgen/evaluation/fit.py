"""From a training loop to a finished run: log, previews, evaluations, checkpoints, conclusion."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from hybridgen.evaluation.monitor import Monitor, table
from hybridgen.evaluation.settings import MonitoredRunSettings
from hybridgen.training.checkpoint import save_network
from hybridgen.training.run import Run
from hybridgen.training.settings import OptimSettings, RunSettings
from hybridgen.training.step import Step


def finished(run: Run) -> bool:
    """Whether the run is finished; if so, its table is printed."""
    if run.result is None:
        return False
    run.say(f"{run.folder} is finished already; choose another --out to train again")
    if run.leads:
        print(table(run.result))
    return True


def fit(
    run: Run,
    steps: Iterator[Step],
    settings: RunSettings,
    training: OptimSettings,
    conclude: Callable[[Step], None],
    *,
    show: Sequence[str] = (),
    between: Callable[[Step], None] = lambda step: None,
) -> None:
    """Go through a training to its end, with a progress bar, a log and checkpoints.

    The last step is saved before it is evaluated and before `conclude`, which may take a while; a
    finished training that is resumed comes here with its last step alone. What was due after a step
    at which a signal stopped the run is done when it is resumed.

    Args:
        conclude: called with the last step, by the process that leads.
        show: the losses at the bar.
        between: called after every step, by the process that leads.
    """
    batch, total = training.batch, training.steps

    def after(step: Step) -> None:
        worth = step.last or step.number % settings.log_every == 0 or "held_out" in step.losses
        if worth and step.losses:
            run.accelerator.log(step.losses, step=step.number)
        if run.leads:
            between(step)

    run.catch_up = after
    with tqdm(
        total=total * batch, unit="img", unit_scale=True, mininterval=0.5, disable=not run.leads
    ) as bar:
        for step in steps:
            number = step.number
            if bar.n == 0:  # after a resume, the speed is that of this sitting
                bar.initial = bar.n = (number - 1) * batch
            bar.update(batch)
            if step.last:
                run.save(step, due=True)
                step = replace(step, losses=step.losses or run.due or {})
            with run.between_steps(step, save=number % settings.save_every == 0):
                if number % settings.log_every == 0:
                    values = {k: f"{step.losses[k]:.3f}" for k in show if k in step.losses}
                    bar.set_postfix(values, refresh=False)
                after(step)
                if run.leads and step.last:  # in here, so that a signal need not wait for it
                    bar.close()
                    conclude(step)


def monitored(
    run: Run,
    settings: MonitoredRunSettings,
    training: OptimSettings,
    monitor: Monitor,
    network: str,
    *,
    final_samples: int | None = None,
    facts: Mapping[str, Any] | None = None,
) -> tuple[Callable[[Step], None], Callable[[Step], None]]:
    """`conclude` and `between` of `fit`, for a model that is sampled, evaluated and saved.

    Args:
        network: the folder of the averaged model; a discriminator is saved beside it.
        final_samples: for the last evaluation; as many as the data allows if not given.
        facts: what else belongs into the result.
    """

    def between(step: Step) -> None:
        if step.number % settings.sample_every == 0:
            monitor.preview(step.average, step.number)
        if step.last or step.number % settings.eval_every == 0:
            figures = monitor.figures(step.average, settings.eval_samples)
            run.accelerator.log(figures, step=step.number)

    def conclude(step: Step) -> None:
        seconds = run.seconds
        save_network(step.average, run.folder / network)
        if "discriminator" in step.state:
            save_network(step.state["discriminator"], run.folder / "discriminator")
        # Not logged: figures of another number of samples do not continue the curves.
        figures = monitor.figures(step.average, final_samples)
        monitor.finish(step.average, run.log_file.rows())
        run.accelerator.end_training()
        speed = step.number * training.batch / seconds
        result = {"steps": step.number, "seconds": seconds, "images_per_second": speed}
        result |= {**(facts or {}), **figures}
        run.finish(result)
        print(table(result))
        print(f"samples, curves and weights are in {run.folder}")

    return conclude, between
