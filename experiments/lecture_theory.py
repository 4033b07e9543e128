"""The best discriminator, the value of the game, and its optimum."""

from functools import cache
from typing import TYPE_CHECKING

import torch
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
from torch import Tensor

from hybridgen.metrics.divergences import mixture_divergences

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
        figures[mu] = (x[:, 0], logit_of(trained, x).sigmoid(), values)
    return figures


def best(x: Tensor, mu: float) -> Tensor:
    """`D* = p / (p + q)` of N(0, 1) and N(mu, 1)."""
    return torch.sigmoid(mu**2 / 2 - mu * x)


def discriminator(settings: "Lecture") -> Statement:
    """What a classifier becomes."""
    trained = shifted(settings)
    axes = axes_of("x", 'probability of "real", D(x)', xlim=(-3, 7), ylim=(0, 1.02))
    for (mu, (x, d, _)), dash in zip(trained.items(), ("-", "--", "-.", ":", "-"), strict=True):
        axes.plot(x, best(x, mu), color=MUTED, lw=4, alpha=0.35)
        axes.plot(x, d, dash, color=ANSWER, lw=1.6, label=f"\u03bc = {mu:g}")
    closeness = tuple(
        Check(
            f"greatest |D \u2212 D*|, \u03bc = {mu:g}",
            float((d - best(x, mu)).abs().max()),
            0,
            tolerance=0.03,
        )
        for mu, (x, d, _) in trained.items()
    )
    return Statement(
        name="discriminator",
        short="D*",
        title="The best discriminator is D* = p / (p + q)",
        at="05:00",
        sentence="A classifier trained on samples of N(0, 1) (real) and N(\u03bc, 1) (fake) "
        "becomes the ratio of the densities, which it never saw.",
        checks=closeness,
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
    return Statement(
        name="value",
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
            Check(
                "greatest |V(D*) \u2212 (2 JSD \u2212 log 4)| over 26 shifts", difference, 0, 1e-5
            ),
        ),
        panels=(panel(axes, "value-of-mu", "Exact (line) and of trained discriminators (dots)."),),
    )


def optimum(settings: "Lecture") -> Statement:
    """Where the generator has won."""
    x, d, equal = shifted(settings)[0.0]
    flat = axes_of("x", "D(x), and density", xlim=(-3, 3), ylim=(0, 1.02))
    flat.fill_between(x, 0.47, 0.53, color=MUTED, alpha=0.2, lw=0)
    flat.axhline(0.5, color=MUTED, ls="--", label="1/2")
    flat.plot(x, d, color=ANSWER, lw=2, label="trained D")
    density = STANDARD.log_density(x[:, None]).exp()
    flat.fill_between(x, density, color=FAKE, alpha=0.25, lw=0, label="data = model")
    return Statement(
        name="optimum",
        short="optimum",
        title="At the optimum the model is the data, D is 1/2 everywhere and V is \u2212log 4",
        at="09:02",
        sentence="If generated samples have the distribution of the data, nothing is left to "
        "learn: the discriminator cannot do better than chance.",
        checks=(
            Check("greatest |D \u2212 1/2|", float((d - 0.5).abs().max()), 0, tolerance=0.03),
            Check("V", equal["value_of_logit"], -LOG4, tolerance=0.02),
            Check("JSD", equal["jsd"], 0, tolerance=1e-9),
        ),
        panels=(panel(flat, "flat", "Trained on two sets of samples of the same distribution."),),
    )
