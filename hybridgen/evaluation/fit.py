"""From a training loop to a finished run: log, previews, evaluations, checkpoints, conclusion."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from tqdm import tqdm

from hybridgen.evaluation.alarms import (
    ADVICE,
    alarms,
    best_step,
    changes,
    ending,
    evaluations,
    first_alarms,
)
from hybridgen.evaluation.density_ratio import overfitting
from hybridgen.evaluation.monitor import Previews, table
from hybridgen.evaluation.settings import MonitoredRunSettings
from hybridgen.training.checkpoint import save_network
from hybridgen.training.run import Run
from hybridgen.training.settings import OptimSettings, RunSettings
from hybridgen.training.step import Step


class _Ended(Exception):
    """Raised where a run goes on from a step that has ended it."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step


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
    between: Callable[[Step], bool | None] = lambda step: False,
) -> None:
    """Go through a training to its end, with a progress bar, a log and checkpoints.

    It ends with its last step, or with one after which `between` says so.

    A step is logged, then saved, then passed to `between` and `conclude`, which may take a while; a
    finished training that is resumed comes here with its last step alone.

    Args:
        conclude: called with the last step, by every process.
        show: the losses at the bar.
        between: called after every step, by every process, and again with a step that is resumed
            from: a kill may have come between the two. Says whether the run ends there.
    """

    def resumed(number: int, state: Mapping[str, Any]) -> None:
        step = Step(number, {}, state["average"], state, last=False)
        if between(step):
            raise _Ended(step)  # through the loop's function, which would go on

    run.resumed = resumed
    try:
        _go_through(run, steps, settings, training, conclude, show, between)
    except _Ended as end:
        with run.between_steps(end.step, save=False):
            conclude(end.step)


def _go_through(
    run: Run,
    steps: Iterator[Step],
    settings: RunSettings,
    training: OptimSettings,
    conclude: Callable[[Step], None],
    show: Sequence[str],
    between: Callable[[Step], bool | None],
) -> None:
    batch, total = training.batch, training.steps
    with tqdm(
        total=total * batch, unit="img", unit_scale=True, mininterval=0.5, disable=not run.leads
    ) as bar:
        for step in steps:
            number = step.number
            if bar.n == 0:  # after a resume, the speed is that of this sitting
                bar.initial = bar.n = (number - 1) * batch
            bar.update(batch)
            worth = step.last or settings.logs(number) or "held_out" in step.losses
            if worth and step.losses:
                losses = dict(step.losses)
                run.accelerator.log(losses, step=number)
                values = {name: f"{losses[name]:.3f}" for name in show if name in losses}
                bar.set_postfix(values, refresh=False)
            due = step.last or number % settings.save_every == 0
            with run.between_steps(step, save=due):
                ended = between(step) or step.last
                if ended:  # in here, so that a signal need not wait for it
                    bar.close()
                    run.save(step)
                    conclude(step)
            if ended:
                return


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
) -> tuple[Callable[[Step], None], Callable[[Step], bool]]:
    """`conclude` and `between` of `fit`, for a model that is looked at, evaluated and saved.

    What the evaluations say is logged with them: alarms, and whether it is the best so far, whose
    model is saved as `best/`.

    Args:
        network: the folder of the averaged model; a discriminator is saved beside it.
        final_samples: for the last evaluation; as many as the data allows if not given.
        facts: what else belongs into the result.
        start: a model that the training began with; its figures, from the same noise, are called
            `..._before`.
    """

    def between(step: Step) -> bool:
        number = step.number
        if number % settings.sample_every == 0:
            run.lead(lambda: monitor.preview(step.average, number))
        if not step.last and number % settings.eval_every:
            return False
        rows = run.log_file.rows()
        # Not again after a resume; a figure's floor is in no other row.
        if not any(r["step"] == number and any(k.startswith("floor_") for k in r) for r in rows):
            figures = monitor.figures(step.average, settings.eval_samples)
            if settings.alarms.enabled and figures and "discriminator" in step.state:
                options: dict[str, Any] = {"seed": settings.seed, "accelerator": run.accelerator}
                options["pack"] = getattr(training, "pack", 1)
                rank = overfitting(step.state["discriminator"], monitor.source, **options)
                figures |= {} if rank is None else {"overfit_rank": rank}
            run.lead(lambda: _record(run, settings, step, rows, figures, monitor.shares, network))
        return run.decide(lambda: ending(run.log_file.rows(), settings.alarms, settings.stopping))

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
        rows = run.log_file.rows()
        monitor.finish(step.average, rows)
        run.accelerator.end_training()
        speed = step.number * training.batch / seconds
        result = {"steps": step.number, "seconds": seconds, "images_per_second": speed}
        result |= {**(facts or {}), **figures, **first_alarms(rows)}
        best = best_step(rows)
        if settings.stopping.keep_best and best not in (None, step.number):
            result["best_step"] = best
        run.finish(result)
        if why := ending(rows, settings.alarms, settings.stopping):
            run.say(f"ended at step {step.number} of {training.steps}: {why}")
        print(table(result))
        print(f"samples, curves and weights are in {run.folder}")

    return conclude, between


def _record(
    run: Run,
    settings: MonitoredRunSettings,
    step: Step,
    rows: Sequence[Mapping[str, Any]],
    figures: dict[str, float],
    shares: Sequence[float],
    network: str,
) -> None:
    """Log an evaluation and what it says; save the best model before the log calls it that."""
    number, text = step.number, {}
    if shares:
        text["shares"] = " ".join(f"{share:.4g}" for share in shares)
    history = [*rows, {"step": number, **text, **figures}]
    figures = figures | (changes(history) if figures else {})
    if settings.stopping.keep_best and figures:
        figures["best"] = float(best_step(history) == number)
    if figures.get("best"):
        save_network(step.average, run.folder / "best", network)
    if settings.alarms.enabled and figures:
        raised = alarms(history, settings.alarms)
        figures |= {f"alarm_{kind}": float(kind in [a.kind for a in raised]) for kind in ADVICE}
        before = evaluations(rows)[-1:]
        for alarm in raised:
            if not any(entry.get(f"alarm_{alarm.kind}") for entry in before):
                tqdm.write(f"alarm: {alarm.sentence}", file=sys.stderr)
        text |= {"alarms": "; ".join(alarm.sentence for alarm in raised)} if raised else {}
    run.accelerator.log(figures, step=number, log_kwargs={"jsonl": {"text": text}})
