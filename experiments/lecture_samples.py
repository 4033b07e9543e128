"""Statements on samples alone: an arbitrary sampler, and a divergence without a likelihood."""

import math
from typing import TYPE_CHECKING

import torch
from lecture_parts import (
    ANSWER,
    DATA,
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

from hybridgen.maths.rng import rng_for
from hybridgen.metrics.divergences import mixture_divergences
from hybridgen.metrics.two_sample import certificate

if TYPE_CHECKING:
    from lecture import Lecture


def folding_network() -> nn.Sequential:
    """`G(z) = | |z| - 1 |`, a ReLU network that folds the line twice: `[n 1] -> [n 1]`."""
    network = nn.Sequential(
        *(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    )
    values = ([[1.0], [-1.0]], [0.0, 0.0], [[1.0, 1.0], [-1.0, -1.0]], [-1.0, 1.0])
    for weight, value in zip(network.parameters(), (*values, [[1.0, 1.0]], [0.0]), strict=True):
        weight.data = torch.tensor(value)
    return network.requires_grad_(False)


def folded_density(x: Tensor, *, branches: bool = True) -> Tensor:
    """Of `G(z)` at x >= 0: the sum of the normal density over all `z` with `G(z) = x`, or only over
    the one branch that a change of variables would follow, `z = 1 + x`."""
    density = torch.exp(-((1 + x) ** 2) / 2) / math.sqrt(2 * math.pi)
    if not branches:
        return density
    inner = torch.exp(-((1 - x) ** 2) / 2) / math.sqrt(2 * math.pi)
    return 2 * density + torch.where(x < 1, 2 * inner, 0.0)


def sampler(settings: "Lecture") -> Statement:
    """An arbitrary network is a generator."""
    generator, count = folding_network(), settings.scaled(200_000, 2_000)
    z = torch.randn(count, 1, generator=rng_for("fold", settings.seed))
    x = generator(z)[:, 0].double()
    edges = torch.linspace(0, 3.5, 36, dtype=torch.float64)
    shares = torch.histogram(x, edges).hist / count
    fine = torch.linspace(0, 3.5, 3_501, dtype=torch.float64)
    mass = torch.cumulative_trapezoid(folded_density(fine), fine)[99::100]
    exact = mass.diff(prepend=mass.new_zeros(1))
    normal = torch.distributions.Normal(0.0, 1.0)

    left = axes_of("noise z", "sample x = G(z)", xlim=(-3, 3), ylim=(0, 2))
    line = torch.linspace(-3, 3, 301)[:, None]
    left.plot(line[:, 0], generator(line)[:, 0], color=FAKE, lw=2)
    left.axhline(0.5, color=MUTED, ls="--")
    left.plot([-1.5, -0.5, 0.5, 1.5], [0.5] * 4, "o", color=INK)
    right = axes_of("sample x", "density", xlim=(0, 3.5))
    width = float(edges[1])
    right.bar(edges[:-1] + width / 2, shares / width, width, color=FAKE, alpha=0.4)
    right.plot(fine, folded_density(fine), color=INK, label="sum over all z")
    branch = folded_density(fine, branches=False)
    right.plot(fine, branch, "--", color=DATA, lw=2, label="one inverse only")
    distance = float((shares - exact).abs().sum()) / 2
    return Statement(
        short="any sampler",
        title="The generator is a sampler that need not be invertible",
        at="01:15",
        sentence="This network folds the line twice: four z give the same x, so there is no "
        "inverse and the change of variables of a flow misses most of the probability, yet "
        "sampling is one pass and the histogram is that of the sum over all four.",
        checks=(
            Check(
                "histogram against the sum over all z (total variation)",
                distance,
                0,
                tolerance=0.02,
            ),
            Check(
                "share of samples below 1",
                float((x < 1).double().mean()),
                float(2 * normal.cdf(torch.tensor(2.0)) - 1),
                tolerance=0.01,
            ),
            Check(
                "probability that one inverse accounts for",
                float(torch.trapezoid(branch, fine)),
                float(1 - normal.cdf(torch.tensor(1.0))),
                tolerance=1e-4,
            ),
        ),
        panels=(
            panel(left, "fold", "The network, and the four z that it maps to x = 0.5."),
            panel(right, "folded", "Its samples (bars) and two computed densities."),
        ),
    )


def samples(settings: "Lecture") -> Statement:
    """The bound that held-out samples give."""
    real, fake = gaussian((1, 0, 1)), gaussian((1, 2, 1))
    exact = mixture_divergences(real, fake)["jsd"].value
    sizes, repeats = (30, 100, 300, 1_000, 10_000), settings.scaled(4)
    held, reached = [], []
    for size in sizes:
        bounds, truths = [], []
        for repeat in range(repeats):
            rng = rng_for("bound", settings.seed, size, repeat)
            torch.manual_seed(rng.initial_seed())
            parts = [m.sample(size, rng)[0] for m in (real, fake)]
            p, q, *test = (part[half::2] for half in (0, 1) for part in parts)
            steps = settings.scaled(120)
            trained = classifier(p, q, settings, steps=steps, batch=min(size // 2, 512))
            bounds.append(certificate(*(logit_of(trained, x) for x in test)).value)
            each = mixture_divergences(real, fake, lambda x, d=trained: logit_of(d, x))
            truths.append((each["value_of_logit"].value + LOG4) / 2)
        held.append(bounds)
        reached.append(truths)
    means, worth = (torch.tensor(rows).mean(dim=1) for rows in (held, reached))
    axes = axes_of("samples of either kind", "bound on JSD (nats)", xscale="log")
    axes.axhline(exact, color=INK, ls="--", label="exact JSD")
    for bounds in zip(*held, strict=True):
        axes.plot(sizes, bounds, "o", color=FAKE, alpha=0.5, markersize=5)
    axes.plot([], [], "o", color=FAKE, markersize=5, label="held-out bounds")
    axes.plot(sizes, worth, color=ANSWER, lw=2, label="their expectation, mean")
    return Statement(
        short="samples suffice",
        title="Only samples are needed, never a likelihood",
        at="10:19",
        sentence="A classifier trained on half of the samples and scored on the other half bounds "
        "the JSD from below: the bound's expectation rises to it as samples are added.",
        checks=(
            Check(
                f"mean held-out bound of {sizes[-1]} samples",
                float(means[-1]),
                exact,
                tolerance=0.02,
            ),
            Check(
                f"mean expectation of classifiers of {sizes[0]} samples",
                float(worth[0]),
                exact - 0.01,
                relation="at most ",
            ),
            Check(
                "greatest expectation of all classifiers",
                max(map(max, reached)),
                exact,
                tolerance=1e-6,
                relation="at most ",
            ),
        ),
        panels=(
            panel(axes, "bounds", f"N(0, 1) against N(2, 1): {repeats} classifiers of each size."),
        ),
        note="A held-out bound scatters around its expectation, which is computed here from the "
        "densities and is never above the JSD.",
    )
