"""Statements about a game that does not settle: what its losses tell, and when to stop it."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from lecture_games import CENTRES, Snapshot, cell_shares, played
from lecture_parts import (
    ANSWER,
    DATA,
    FAKE,
    INK,
    LOG4,
    MUTED,
    ONE_OF_TWO,
    Check,
    Statement,
    axes_of,
    gaussian,
    panel,
)
from scipy.stats import wasserstein_distance

from hybridgen.evaluation.alarms import best_step, ending
from hybridgen.evaluation.settings import Alarms, Stopping
from hybridgen.maths import objectives
from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.maths.rng import rng_for
from hybridgen.metrics.distances import sliced_wasserstein
from hybridgen.report.text import grouped, number

if TYPE_CHECKING:
    from lecture import Lecture


def unpenalised_game(settings: "Lecture", data: GaussianMixture, rate: float) -> list[Snapshot]:
    """A game without penalties, about a hundred times along the way."""
    torch.manual_seed(settings.seed)
    steps = settings.scaled(450, 40)
    options = {"objective": objectives.non_saturating, "rate": (rate, None)}
    return played(settings, data, steps, max(1, steps // 100), **options)[1:]


TRAININGS = 3
"""Of the game whose losses are held against the divergence, with consecutive seeds."""


def losses(settings: "Lecture") -> Statement:
    """Losses beside the divergence that they should tell."""
    data, cloud = gaussian((0.5, -2, 0.4), (0.5, 2, 0.4)), []
    seeds = range(settings.seed, settings.seed + TRAININGS)
    runs = [unpenalised_game(replace(settings, seed=seed), data, rate=3e-2) for seed in seeds]
    for shots in runs:
        late = shots[len(shots) // 4 :]
        cloud.append(torch.tensor([(s.losses["generator"], s.jsd) for s in late]).T)
    correlations = [float(torch.corrcoef(rows)[0, 1]) for rows in cloud]
    swing = min(float(loss.max() - loss.min()) for loss, _ in cloud)
    words = ", ".join(number(r, 2) for r in correlations)
    at = [s.step for s in runs[0]]
    curves = axes_of("step", "loss (nats)")
    for network, dash, colour in (("discriminator", "-", ANSWER), ("generator", "--", FAKE)):
        path = [s.losses[network] for s in runs[0]]
        curves.plot(at, path, dash, color=colour, lw=1.4, label=network)
    for level in (LOG4, LOG4 / 2):
        curves.axhline(level, color=MUTED, ls=":")
    curves.set_ylim(top=curves.get_ylim()[1] + 0.3)  # room for the legend
    true = axes_of("step", "JSD(p, q) (nats)", ylim=(0, math.log(2)))
    true.plot(at, [s.jsd for s in runs[0]], color=INK, lw=1.4, label="measured")
    true.axhline(ONE_OF_TWO, color=MUTED, ls=":", label="one of two modes")
    axes = axes_of("generator's loss (nats)", "JSD(p, q) (nats)")
    looks = zip(seeds, cloud, correlations, "o^s", (ANSWER, FAKE, DATA), strict=True)
    for seed, (loss, jsd), r, mark, colour in looks:
        style = {"color": colour, "alpha": 0.5, "markersize": 5}
        axes.plot(loss, jsd, mark, label=f"seed {seed}: r = {number(r, 2)}", **style)
    return Statement(
        short="losses",
        title="The losses oscillate and do not tell how good the samples are",
        at="19:11",
        sentence="Without penalties the players chase each other. In trainings that differ in "
        "their seed alone the generator's loss correlates with the true divergence by "
        f"{words}: by no fixed size; one to steer by would reach 1.",
        checks=(
            Check(
                f"greatest |correlation| of G's loss and the JSD, {TRAININGS} trainings",
                max(map(abs, correlations)),
                0.85,
                relation="at most ",
            ),
            Check(
                "the same: greatest less least",
                max(correlations) - min(correlations),
                0.1,
                relation="at least ",
            ),
            Check(
                "least swing of the generator's loss in the last three quarters (nats)",
                swing,
                0.3,
                relation="at least ",
            ),
        ),
        panels=(
            panel(
                curves, "losses-curves", "Losses of the first; dotted: their values at the optimum."
            ),
            panel(
                true, "losses-jsd", "The divergence at the same steps, of shares in narrow cells."
            ),
            panel(axes, "losses-cloud", f"The last three quarters of {TRAININGS} trainings."),
        ),
    )


def stopping(settings: "Lecture") -> Statement:
    """A rule that looks at samples and not at losses, on a game that never settles."""
    data = gaussian((0.5, -1.2, 0.4), (0.5, 1.2, 0.4))
    shots = unpenalised_game(settings, data, rate=2e-2)
    held_out = data.sample(len(shots[0].samples), rng_for("held out", settings.seed))[0]
    measured = [sliced_wasserstein(held_out, shot.samples) for shot in shots]
    p = cell_shares(data)
    true = [float(wasserstein_distance(CENTRES, CENTRES, p, shot.shares)) for shot in shots]
    # What the package writes to the log of a training, and its rule reads.
    name, rule = "sliced_wasserstein", Stopping(patience=20)
    rows = [
        {"step": shot.step, name: distance, f"floor_{name}": 0.0}
        for shot, distance in zip(shots, measured, strict=True)
    ]
    seen = (rows[:count] for count in range(1, len(rows) + 1))
    log = next((part for part in seen if ending(part, Alarms(), rule)), rows)
    steps = [shot.step for shot in shots]
    chosen, best = steps.index(best_step(log) or steps[-1]), true.index(min(true))

    def nearest(network: str, level: float) -> int:
        return min(range(len(shots)), key=lambda i: abs(shots[i].losses[network] - level))

    least, even = nearest("generator", 0.0), nearest("discriminator", LOG4)
    lucky = true[nearest("generator", LOG4 / 2)] / true[best]
    share = log[-1]["step"] / steps[-1]
    axes = axes_of("step", "Wasserstein distance", yscale="log", height=340)
    axes.set_ylim(0.06, 10)  # room for the legend
    axes.plot(steps, true, color=INK, lw=1.4, label="exact")
    axes.axvline(log[-1]["step"], color=MUTED, ls=":", label="the rule stops")
    for place, mark, colour, label in (
        (chosen, "s", ANSWER, "its choice"),
        (best, "o", DATA, "best"),
        (least, "^", FAKE, "least loss of G"),
        (even, "v", ANSWER, "D nearest log 4"),
        (-1, "X", FAKE, "last"),
    ):
        axes.plot(steps[place], true[place], mark, color=colour, label=label)
    curves = axes_of("step", "loss (nats)", height=340)
    for network, dash, colour in (("discriminator", "-", ANSWER), ("generator", "--", FAKE)):
        losses = [shot.losses[network] for shot in shots]
        curves.plot(steps, losses, dash, color=colour, lw=1.4, label=network)
    return Statement(
        short="when to stop",
        title="No loss says when to stop; distances to held-out data come close",
        at="19:40",
        sentence="A game without penalties has no best step that its losses would show. The "
        f"package's rule compares {grouped(len(held_out))} samples with as many held-out ones, "
        f"ends after {rule.patience} comparisons without a better one, and keeps the best: it "
        f"chose step {steps[chosen]} of {steps[-1]}.",
        checks=(
            Check("the rule's choice to the best in hindsight", true[chosen] / true[best], 1, 0.3),
            Check("the last step to the best", true[-1] / true[best], 1.1, 0, "at least "),
            Check(
                "least loss of the generator to the best",
                true[least] / true[best],
                1.1,
                relation="at least ",
            ),
            Check(
                "loss of the discriminator nearest log 4 to the best",
                true[even] / true[best],
                1.1,
                relation="at least ",
            ),
            Check("share of the steps until the rule stops", share, 0.95, 0, "at most "),
        ),
        panels=(
            panel(
                axes,
                "stopping-exact",
                "The true distance, and what each way to stop keeps.",
                place="upper right",
                columns=2,
            ),
            panel(curves, "stopping-loss", "The losses at the same steps: where would you stop?"),
        ),
        note="Ratios are of exact distances, in the data's units, which the rule never sees. Where "
        f"the generator's loss is nearest log 2 the ratio is {number(lucky)}: a loss may be lucky, "
        "and another seed has other ratios.",
    )
