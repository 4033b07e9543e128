"""From a training loop to a finished run: log, previews, evaluations, checkpoints, conclusion."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from tqdm import tqdm

from hybridgen.evaluation.monitor import Previews, table
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

    A step is logged, then saved, then passed to `between` and `conclude`, which may take a while; a
    finished training that is resumed comes here with its last step alone.

    Args:
        conclude: called with the last step, by every process.
        show: the losses at the bar.
        between: called after every step, by every process, and again with a step that is resumed
            from: a kill may have come between the two.
    """
    run.resumed = lambda number, state: between(
        Step(number, {}, state["average"], state, last=False)
    )
    batch, total = training.batch, training.steps
    with tqdm(
        total=total * batch, unit="img", unit_scale=True, mininterval=0.5, disable=not run.leads
    ) as bar:
        for step in steps:
            number = step.number
            if bar.n == 0:  # after a resume, the speed is that of this sitting
                bar.initial = bar.n = (number - 1) * batch
            bar.update(batch)
            worth = step.last or number % settings.log_every == 0 or "held_out" in step.losses
            if worth and step.losses:
                losses = dict(step.losses)
                run.accelerator.log(losses, step=number)
                values = {name: f"{losses[name]:.3f}" for name in show if name in losses}
                bar.set_postfix(values, refresh=False)
            due = step.last or number % settings.save_every == 0
            with run.between_steps(step, save=due):
                between(step)
                if step.last:  # in here, so that a signal need not wait for it
                    bar.close()
                    conclude(step)


def monitored(
    run: Run,
    settings: MonitoredRunSettings,
    training: OptimSettings,
    monitor: Previews,
    network: str,
    *,
    final_samples: int | None = None,
    facts: Mapping[str, Any] | None = None,
    start: nn.Module | None = None,
) -> tuple[Callable[[Step], None], Callable[[Step], None]]:
    """`conclude` and `between` of `fit`, for a model that is looked at, evaluated and saved.

    Args:
        network: the folder of the averaged model; a discriminator is saved beside it.
        final_samples: for the last evaluation; as many as the data allows if not given.
        facts: what else belongs into the result.
        start: a model that the training began with; its figures, from the same noise, are called
            `..._before`.
    """

    def between(step: Step) -> None:
        number = step.number
        if number % settings.sample_every == 0:
            run.lead(lambda: monitor.preview(step.average, number))
        if step.last or number % settings.eval_every == 0:
            rows = run.log_file.rows()
            # Not again after a resume; a figure's floor is in no other row.
            if any(r["step"] == number and any(k.startswith("floor_") for k in r) for r in rows):
                return
            figures = monitor.figures(step.average, settings.eval_samples)
            run.accelerator.log(figures, step=number)

    def conclude(step: Step) -> None:
        seconds = run.seconds
        networks = {network: step.average}
        if "discriminator" in step.state:
            networks["discriminator"] = step.state["discriminator"]
        run.lead(lambda: [save_network(networks[name], run.folder / name) for name in networks])
        # Not logged: figures of another number of samples do not continue the curves.
        figures = monitor.figures(step.average, final_samples)
        before = {} if start is None else monitor.figures(start, final_samples)
        figures |= {f"{k}_before": v for k, v in before.items() if not k.startswith("floor_")}
        if not run.leads:
            return
        monitor.finish(step.average, run.log_file.rows())
        run.accelerator.end_training()
        speed = step.number * training.batch / seconds
        result = {"steps": step.number, "seconds": seconds, "images_per_second": speed}
        result |= {**(facts or {}), **figures}
        run.finish(result)
        print(table(result))
        print(f"samples, curves and weights are in {run.folder}")

    return conclude, between
