"""The best discriminator, the value of the game, and its optimum."""

import math
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from lecture_parts import (
    ANSWER,
    FAKE,
    INK,
    LOG4,
    MUTED,
    Check,
    Statement,
    axes_of,
    classifier,
    gaussian,
    logit_of,
    panel,
)
from torch import Tensor, nn

from hybridgen.maths.mixtures import GaussianMixture
from hybridgen.metrics.divergences import mixture_divergences, quadrature_places

if TYPE_CHECKING:
    from lecture import Lecture

STANDARD = gaussian((1, 0, 1))
SHIFTS = (0.0, 0.5, 1.0, 2.0, 4.0)


@cache
def shifted(settings: "Lecture") -> dict[float, tuple[Tensor, Tensor, dict[str, float]]]:
    """Discriminators of N(0, 1) and N(mu, 1): of each mu places over -3 to mu + 3, the trained
    probability of "real", and the exact figures with its value of the game."""
    figures = {}
    for mu in SHIFTS:
        torch.manual_seed(settings.seed)
        real, fake = STANDARD, gaussian((1, mu, 1))
        trained = classifier(real, fake, settings, steps=settings.scaled(300))
        x = torch.linspace(-3, mu + 3, 241, dtype=torch.float64)[:, None]
        estimates = mixture_divergences(real, fake, lambda p, d=trained: logit_of(d, p))
        values = {name: each.value for name, each in estimates.items()}
        values["accuracy"] = accuracy(real, fake, trained)
        figures[mu] = (x[:, 0], logit_of(trained, x).sigmoid(), values)
    return figures


def accuracy(real: GaussianMixture, fake: GaussianMixture, discriminator: nn.Module) -> float:
    """The probability that a discriminator is right of a sample that is real or fake, one as likely
    as the other, and called real where D > 1/2; by quadrature."""
    x = quadrature_places(real, fake)
    densities = torch.stack([m.log_density(x[:, None]).exp() for m in (fake, real)])
    right = densities.gather(0, (logit_of(discriminator, x[:, None]) > 0).long()[None])[0]
    return float(torch.trapezoid(right, x)) / 2


def optimal_probability(x: Tensor, mu: float) -> Tensor:
    """`D* = p / (p + q)` of N(0, 1) and N(mu, 1) at places `[n]`."""
    return STANDARD.log_ratio(gaussian((1, mu, 1)), x[:, None]).sigmoid()


def discriminator(settings: "Lecture") -> Statement:
    """What a classifier becomes."""
    trained = shifted(settings)
    axes = axes_of("x", 'probability of "real", D(x)', xlim=(-3, 7), ylim=(0, 1.02))
    for (mu, (x, d, _)), dash in zip(trained.items(), ("-", "--", "-.", ":", "-"), strict=True):
        axes.plot(x, optimal_probability(x, mu), color=MUTED, lw=4, alpha=0.35)
        axes.plot(x, d, dash, color=ANSWER, lw=1.6, label=f"\u03bc = {mu:g}")
    closeness = tuple(
        Check(
            f"greatest |D \u2212 D*|, \u03bc = {mu:g}",
            float((d - optimal_probability(x, mu)).abs().max()),
            0,
            tolerance=0.03,
        )
        for mu, (x, d, _) in trained.items()
    )
    return Statement(
        short="D*",
        title="The best discriminator is D* = p / (p + q)",
        at="05:00",
        sentence="A classifier trained on samples of N(0, 1) (real) and N(\u03bc, 1) (fake) "
        "becomes the ratio of the densities, which it never saw. No classifier is right more often "
        "(04:18): with a probability of 1/2 + TV/2, where TV is the total variation.",
        checks=(
            *closeness,
            Check(
                "accuracy of the trained D, \u03bc = 2: 1/2 + TV/2",
                trained[2.0][2]["accuracy"],
                0.5 + trained[2.0][2]["total_variation"] / 2,
                tolerance=0.005,
            ),
        ),
        panels=(panel(axes, "best", "Trained (thin) over exact (thick), for five shifts \u03bc."),),
        note="The greatest difference over three standard deviations to either side of both means.",
    )


def two_jsd(mu: float) -> float:
    """`2 JSD(N(0, 1), N(mu, 1))` as the lecture writes it: the two KL divergences to the mixture of
    both."""
    mixture = gaussian((1, 0, 1), (1, mu, 1))
    return sum(mixture_divergences(gaussian((1, m, 1)), mixture)["kl"].value for m in (0.0, mu))


def value(settings: "Lecture") -> Statement:
    """What the game is worth to the best discriminator."""
    values = {mu: figures["value_of_logit"] for mu, (_, _, figures) in shifted(settings).items()}
    shifts = torch.linspace(0, 5, 26).tolist()
    right = [two_jsd(mu) - LOG4 for mu in shifts]
    left = [mixture_divergences(STANDARD, gaussian((1, mu, 1)))["value"].value for mu in shifts]
    axes = axes_of("shift \u03bc", "value of the game (nats)", xlim=(-0.1, 5))
    axes.plot(shifts, right, color=INK, lw=2, label="2 JSD \u2212 log 4")
    axes.plot(list(values), list(values.values()), "o", color=ANSWER, label="trained D")
    axes.axhline(-LOG4, color=MUTED, ls="--", label="\u2212log 4")
    difference = max(abs(x - y) for x, y in zip(left, right, strict=True))
    above = max(v - (two_jsd(mu) - LOG4) for mu, v in values.items())
    return Statement(
        short="2 JSD \u2212 log 4",
        title="With D* the game's value is 2 JSD(p, q) \u2212 log 4",
        at="05:50",
        sentence="Put the best discriminator into the objective: what is left are two KL "
        "divergences to the mixture of data and model, twice the Jensen-Shannon divergence, "
        "shifted by log 4; any other discriminator stays below.",
        checks=(
            *(
                Check(f"V of the trained D, \u03bc = {mu:g}", v, two_jsd(mu) - LOG4, 0.02)
                for mu, v in values.items()
            ),
            Check("greatest V of the trained D less V(D*)", above, 0, 1e-6, "at most "),
            Check(
                "greatest |V(D*) \u2212 (2 JSD \u2212 log 4)| over 26 shifts", difference, 0, 1e-5
            ),
        ),
        panels=(panel(axes, "value-of-mu", "Exact (line) and of trained discriminators (dots)."),),
    )


class Descent(NamedTuple):
    """A Gaussian generator's way down: after each step the value of the game with the best
    discriminator, `[n + 1]`, and mean and standard deviation, `[n + 1 2]`."""

    values: Tensor
    places: Tensor


def descended(mean: float, std: float, *, steps: int = 60, rate: float = 1.0) -> Descent:
    """N(mean, std^2) against data N(0, 1), one step of the generator to each exact `D*`.

    A step is down the gradient of `V = E_p log D + E_q log(1 - D)` over (mean, log std) with D held
    at `D*`, which is that of `2 JSD - log 4`: `D*` is at its maximum, so how it would change adds
    nothing. Means are integrals over a grid.
    """
    place = torch.tensor([mean, math.log(std)], dtype=torch.float64, requires_grad=True)
    x = torch.linspace(-12, 12, 4_801, dtype=torch.float64)
    log_p = STANDARD.log_density(x[:, None])
    values, places = [], []
    for _ in range(steps + 1):
        model = GaussianMixture(torch.ones(1), place[:1, None], place[1:].exp())
        log_q = model.log_density(x[:, None])
        logit = (log_p - log_q).detach()
        gain = log_p.exp() * F.logsigmoid(logit) + log_q.exp() * F.logsigmoid(-logit)
        value = torch.trapezoid(gain, x)
        values.append(value.detach())
        places.append(torch.stack([place[0], place[1].exp()]).detach())
        (slope,) = torch.autograd.grad(value, place)
        place = (place - rate * slope).detach().requires_grad_(True)
    return Descent(torch.stack(values), torch.stack(places))


def optimum(settings: "Lecture") -> Statement:
    """What the game comes to in theory, where every discriminator is the best one."""
    values, places = descended(4.0, 0.3)
    mean, std = places[-1].tolist()
    further, _ = descended(6.0, 0.3).places[-1].tolist()
    x = torch.linspace(-3, 3, 241, dtype=torch.float64)[:, None]
    answer = STANDARD.log_ratio(gaussian((1, mean, std)), x).sigmoid()
    axes = axes_of("step", "value of the game (nats)")
    axes.plot(values, color=INK, lw=2, label="V with D*")
    axes.axhline(-LOG4, color=MUTED, ls="--", label="\u2212log 4")
    for step in (0, 20, 25, 40):
        at = ", ".join(f"{each:.1f}" for each in places[step].tolist())
        axes.plot(step, values[step], "o", color=FAKE)
        axes.annotate(f"({at})", (step, float(values[step])), (6, 4), textcoords="offset points")
    return Statement(
        short="optimum",
        title="With the best D at every step the game ends at the data: D = 1/2, V = \u2212log 4",
        at="09:02",
        sentence="In theory it works (18:52): a Gaussian generator goes from N(4, 0.3\u00b2) to "
        "the data N(0, 1), stepping down V while D is the exact best one at every step. V falls "
        "to \u2212log 4, where the model is the data and no discriminator beats chance.",
        checks=(
            Check("greatest rise of V in a step", float(values.diff().max()), 0, 1e-12, "at most "),
            Check("mean at the end", mean, 0, 1e-3),
            Check("standard deviation at the end", std, 1, 1e-3),
            Check("V at the end", float(values[-1]), -LOG4, 1e-6),
            Check(
                "greatest |D* \u2212 1/2| at the end", float((answer - 0.5).abs().max()), 0, 1e-3
            ),
        ),
        panels=(
            panel(axes, "descent", "In brackets: mean and standard deviation of the generator."),
        ),
        note="Where the two hardly overlap V is flat: from mean 6 the same "
        f"{len(values) - 1} steps come to {further:.3f}, which is why the generator's loss in "
        "practice is another one, non-saturating. What else training changes (a D that lags "
        "behind, minibatches, networks) is in the statements on losses and mode collapse.",
    )
