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
    triples = settings.scaled(1_000, 20)
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
        "kl": detour["kl"][0] + detour["kl"][1] < detour["kl"][2],
    }
    roots = [each.clamp_min(0).sqrt() for each in detour["kl"]]
    unequal = {n: (pairs[0, 2][n] - pairs[2, 0][n]).abs() for n in names}
    least = min(float(pair["jsd"].min()) for pair in pairs.values())

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
        name="divergences",
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
        ),
        panels=tuple(panels),
        note="KL too is non-negative and zero only at equality; the other three it lacks.",
    )


def modes(settings: "Lecture") -> Statement:
    """One Gaussian fitted to two modes by three divergences."""
    data = gaussian((1, -3, 0.5), (1, 3, 0.5))
    x = torch.linspace(-9, 9, 1_801, dtype=torch.float64)
    log_p = data.log_density(x[:, None])

    def figures(place: "tuple[float, float]") -> dict[str, float]:
        model = gaussian((1, float(place[0]), math.exp(float(place[1]))))
        return exact_divergences(log_p, model.log_density(x[:, None]), x)

    fits = {}
    for name in ("kl", "reverse_kl", "jsd"):
        starts = ((0.3, 1.0), (2.5, -0.5))
        results = [
            minimize(lambda v, n=name: figures(v)[n], s, method="Nelder-Mead") for s in starts
        ]
        result = min(results, key=lambda each: each.fun)
        fits[name] = (abs(float(result.x[0])), math.exp(float(result.x[1])), float(result.fun))
    labels = {
        "kl": "KL(p, q): covers",
        "reverse_kl": "KL(q, p): seeks",
        "jsd": "JSD(p, q): seeks",
    }
    axes = axes_of("x", "density", xlim=(-7, 7))
    axes.fill_between(x[::9], log_p.exp()[::9], color=MUTED, alpha=0.3, lw=0, label="data p")
    for (name, (mean, std, _)), colour, dash in zip(
        fits.items(), (DATA, FAKE, ANSWER), ("-", "--", ":"), strict=True
    ):
        mean = -mean if name == "jsd" else mean  # as good, and not hidden by the other
        y = gaussian((1, mean, std)).log_density(x[::9, None]).exp()
        axes.plot(x[::9], y, dash, color=colour, lw=2.2, label=labels[name])
    axes.set_ylim(0, 1.15)
    return Statement(
        name="modes",
        short="seek or cover",
        title="KL covers modes, a GAN's divergence seeks one",
        at="18:15",
        sentence="One Gaussian fitted to two modes: KL(p, q) punishes what it leaves out without "
        "limit and so spreads over both, KL(q, p) and JSD settle on one.",
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
        ),
        panels=(panel(axes, "fits", "Best Gaussians; those that seek take either mode."),),
    )
