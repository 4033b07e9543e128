"""What the divergences are: which is a distance, and which covers what."""

import math
from typing import TYPE_CHECKING

import torch
from lecture_parts import (
    ANSWER,
    DATA,
    FAKE,
    INK,
    MUTED,
    ONE_OF_TWO,
    Check,
    Statement,
    axes_of,
    dots,
    gaussian,
    panel,
)
from scipy.optimize import minimize

from hybridgen.maths.rng import rng_for
from hybridgen.metrics.divergences import exact_divergences, histogram_divergences

if TYPE_CHECKING:
    from lecture import Lecture


def divergences(settings: "Lecture") -> Statement:
    """What makes JSD's root a distance, and KL none."""
    triples = settings.scaled(1_000, 100)
    rng = rng_for("triples", settings.seed)
    weights = torch.rand(triples, 3, 6, generator=rng, dtype=torch.float64) ** 3
    weights = weights / weights.sum(dim=2, keepdim=True)
    names = ("jsd", "kl")
    pairs = {}
    for i, j in ((0, 1), (1, 2), (0, 2), (2, 0)):
        rows = [histogram_divergences(w[i], w[j]) for w in weights]
        pairs[i, j] = {n: torch.tensor([row[n] for row in rows]) for n in names}
    same = max(histogram_divergences(w[0], w[0])["jsd"] for w in weights)
    detour = {n: (pairs[0, 1][n], pairs[1, 2][n], pairs[0, 2][n]) for n in names}
    p, q, direct = (each.clamp_min(0).sqrt() for each in detour["jsd"])
    broken = {
        "jsd": p + q < direct - 1e-9,
        "square": p**2 + q**2 < direct**2 - 1e-9,
        "kl": detour["kl"][0] + detour["kl"][1] < detour["kl"][2],
    }
    roots = [each.clamp_min(0).sqrt() for each in detour["kl"]]
    unequal = {n: (pairs[0, 2][n] - pairs[2, 0][n]).abs() for n in names}
    least = min(float(pair["jsd"].min()) for pair in pairs.values())
    missed = histogram_divergences(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0]))

    panels = []
    for name, (x, y), label in (
        ("jsd", (p + q, direct), "root of JSD"),
        ("kl", (detour["kl"][0] + detour["kl"][1], detour["kl"][2]), "KL"),
    ):
        top = float(torch.cat([x, y]).quantile(0.99))
        axes = axes_of(f"{label}, p to q to r", f"{label}, p to r", xlim=(0, top), ylim=(0, top))
        axes.plot([0, top], [0, top], color=INK, label="as far as the detour")
        seen = (x < top) & (y < top)
        for rows, colour in ((seen & (y <= x), FAKE), (seen & (y > x), DATA)):
            dots(axes, x[rows], y[rows], colour, "dots/")
        count = int(broken[name].sum())
        caption = f"By {label}: {count} triples above the line."
        panels.append(panel(axes, f"triangle-{name}", caption))
    return Statement(
        short="JSD and KL",
        title="JSD is symmetric, zero only at equality, and its root is a distance; KL is not",
        at="08:15",
        sentence=f"On {triples} random triples of distributions the way from p to r is never "
        "longer than that over q, measured by the root of JSD; by KL it often is, and the way "
        "back is another one.",
        checks=(
            Check(
                "JSD: greatest |JSD(p, r) \u2212 JSD(r, p)|",
                float(unequal["jsd"].max()),
                0,
                tolerance=1e-12,
            ),
            Check("JSD of a distribution and itself", same, 0, tolerance=1e-12),
            Check("JSD: least of two different ones", least, 1e-4, relation="at least "),
            Check(
                "root of JSD: triples that break the triangle inequality",
                float(broken["jsd"].sum()),
                0,
            ),
            Check(
                "JSD without the root: triples that break it",
                float(broken["square"].sum()),
                1,
                relation="at least ",
            ),
            Check("KL: triples that break it", float(broken["kl"].sum()), 1, relation="at least "),
            Check(
                "root of KL: triples that break it",
                float((roots[0] + roots[1] < roots[2]).sum()),
                1,
                relation="at least ",
            ),
            Check(
                "KL: greatest |KL(p, r) \u2212 KL(r, p)|",
                float(unequal["kl"].max()),
                0.1,
                relation="at least ",
            ),
            Check("KL of (1/2, 1/2) and (1, 0), which misses a half", missed["kl"], math.inf),
            Check("JSD of the same", missed["jsd"], ONE_OF_TWO, tolerance=1e-9),
        ),
        panels=tuple(panels),
        note="KL too is non-negative and zero only at equality; the other three it lacks. The "
        "lecture gives JSD itself the triangle inequality: it is the root that has it (Endres and "
        "Schindelin 2003), and only random triples are tried here. What a model leaves out costs "
        "KL without limit (18:21), JSD at most log 2.",
    )


X = torch.linspace(-9, 9, 1_801, dtype=torch.float64)


def best_gaussian(name: str, half: float) -> tuple[float, float, float]:
    """|mean|, standard deviation and divergence of the Gaussian that is nearest, by `kl`,
    `reverse_kl` or `jsd`, to two modes at -+half of standard deviation 1/2."""
    log_p = gaussian((1, -half, 0.5), (1, half, 0.5)).log_density(X[:, None])

    def divergence(place: "tuple[float, float]") -> float:
        model = gaussian((1, float(place[0]), math.exp(float(place[1]))))
        return exact_divergences(log_p, model.log_density(X[:, None]), X)[name]

    starts = ((0.3, math.log(half)), (half - 0.5, -0.5))  # over both modes, and on one
    results = [minimize(divergence, start, method="Nelder-Mead") for start in starts]
    result = min(results, key=lambda each: each.fun)
    return abs(float(result.x[0])), math.exp(float(result.x[1])), float(result.fun)


def modes(settings: "Lecture") -> Statement:
    """One Gaussian fitted to two modes by three divergences."""
    fits = {name: best_gaussian(name, 3.0) for name in ("kl", "reverse_kl", "jsd")}
    labels = {
        "kl": "KL(p, q): covers",
        "reverse_kl": "KL(q, p): seeks",
        "jsd": "JSD(p, q): seeks",
    }
    axes = axes_of("x", "density", xlim=(-7, 7))
    density = gaussian((1, -3, 0.5), (1, 3, 0.5)).log_density(X[::9, None]).exp()
    axes.fill_between(X[::9], density, color=MUTED, alpha=0.3, lw=0, label="data p")
    looks = zip(fits.items(), (DATA, FAKE, ANSWER), ("-", "--", ":"), strict=True)
    for (name, (mean, std, _)), colour, dash in looks:
        mean = -mean if name == "jsd" else mean  # as good, and not hidden by the other
        y = gaussian((1, mean, std)).log_density(X[::9, None]).exp()
        axes.plot(X[::9], y, dash, color=colour, lw=2.2, label=labels[name])
    axes.set_ylim(0, 1.15)
    halves = (1.0, 1.5, 1.8, 1.95, 2.0, 2.05, 2.1, 2.15, 2.2, 2.4, 3.0)
    means = {half: best_gaussian("jsd", half)[0] for half in halves}
    apart = axes_of("modes at \u2212a and a: a", "|mean| of the best fit", ylim=(-0.1, 3.2))
    apart.plot((1, 3), (1, 3), color=MUTED, ls="--", label="on one mode")
    apart.axhline(0, color=MUTED, ls=":", label="between both")
    apart.plot(halves, list(means.values()), "o-", color=ANSWER, label="JSD")
    return Statement(
        short="seek or cover",
        title="KL covers modes, a GAN's divergence seeks one when they are far apart",
        at="18:15",
        sentence="One Gaussian fitted to two modes: KL(p, q) punishes what it leaves out without "
        "limit and so spreads over both, KL(q, p) and JSD settle on one if the modes are far "
        "apart; JSD covers those that are near.",
        checks=(
            Check("KL(p, q): mean", fits["kl"][0], 0, tolerance=0.01),
            Check(
                "KL(p, q): standard deviation, of moments",
                fits["kl"][1],
                math.sqrt(9.25),
                tolerance=0.01,
            ),
            Check("KL(q, p): mean", fits["reverse_kl"][0], 3, tolerance=0.01),
            Check(
                "KL(q, p): one of two modes is log 2",
                fits["reverse_kl"][2],
                math.log(2),
                tolerance=0.01,
            ),
            Check("JSD: mean", fits["jsd"][0], 3, tolerance=0.05),
            Check("JSD: one of two modes", fits["jsd"][2], ONE_OF_TWO, tolerance=0.01),
            Check("JSD, modes at \u22121.5 and 1.5: mean", means[1.5], 0, tolerance=0.01),
        ),
        panels=(
            panel(axes, "fits", "Best Gaussians; those that seek take either mode."),
            panel(
                apart,
                "apart",
                "Where the best JSD fit lies, for modes of standard deviation 1/2.",
                place="upper left",
            ),
        ),
        note="This is about best fits. That a GAN in practice drops modes which its generator "
        "could cover comes from training: see mode collapse.",
    )
