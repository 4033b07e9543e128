"""What each figure is called, what it says and where it comes from."""

from dataclasses import dataclass

HIGHER_IS_BETTER = frozenset({"precision", "recall", "coverage", "modes", "high_quality"})
"""Metrics of which more is better; of all others less is, but for those nearest to a value and
`c2st_p`, which ranks nothing."""

NEAREST_IS_BEST = {"density": 1.0, "mode_std": 0.974, "memorisation": 0.5, "c2st_accuracy": 0.5}
"""Metrics that perfect samples bring to a value, which can be missed on either side."""


UNRANKED = frozenset({"c2st_p"})
"""Figures that put nothing in order: those of equally good samplers differ by chance alone."""

CHANCES = frozenset({"c2st_p"})
"""Figures that are p-values."""

TWO_SAMPLE = ("c2st_accuracy", "c2st_p", "tv_bound", "jsd_bound")
"""Figures of the two-sample test, which have a table of their own."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """How a reader meets a figure: its name, one line about it, and its source."""

    label: str
    what: str = ""
    source: str = ""


METRICS = {
    "frechet_distance": Metric(
        label="Fr\u00e9chet distance",
        what="between Gaussians fitted to the features of samples and of held-out examples: "
        "fidelity and diversity in one figure. It falls as the number of samples grows, so "
        "compare it with its floor.",
        source="Heusel et al. 2017, arXiv:1706.08500",
    ),
    "kid": Metric(
        label="KID",
        what="squared maximum mean discrepancy of the features under a cubic kernel. Unbiased, so "
        "it is 0 on average for perfect samples and can fall below.",
        source="Bi\u0144kowski et al. 2018, arXiv:1801.01401",
    ),
    "precision": Metric(
        label="precision",
        what="share of samples that lie among real examples: fidelity.",
        source="Kynk\u00e4\u00e4nniemi et al. 2019, arXiv:1904.06991",
    ),
    "recall": Metric(
        label="recall",
        what="share of real examples that lie among samples: diversity.",
        source="Kynk\u00e4\u00e4nniemi et al. 2019, arXiv:1904.06991",
    ),
    "density": Metric(
        label="density",
        what="how many real neighbourhoods a sample lies in, over what is expected. More than the "
        "floor is no merit: samples that keep to the middle get it.",
        source="Naeem et al. 2020, arXiv:2002.09797",
    ),
    "coverage": Metric(
        label="coverage",
        what="share of real examples with a sample in their neighbourhood: diversity.",
        source="Naeem et al. 2020, arXiv:2002.09797",
    ),
    "class_reverse_kl": Metric(
        label="class reverse KL",
        what="divergence of the classes that a classifier sees among samples from equal shares; "
        "0 if all are drawn equally often.",
        source="after Srivastava et al. 2017, arXiv:1705.07761",
    ),
    "c2st_accuracy": Metric(
        label="C2ST accuracy",
        what="how often a fresh classifier tells samples from real examples that it has not seen; "
        "guessing gives 0.5.",
        source="Lopez-Paz & Oquab 2017, arXiv:1610.06545",
    ),
    "c2st_p": Metric(
        label="C2ST p-value",
        what="how likely such an accuracy would be if samples and real examples were alike. Below "
        "0.05 they count as told apart; one in twenty tests of what is alike says so too, by "
        "chance, and the floor's may be one of them. It says whether, not how far, and ranks "
        "nothing.",
        source="Lopez-Paz & Oquab 2017, arXiv:1610.06545",
    ),
    "tv_bound": Metric(
        label="TV bound",
        what="the total variation distance that this classifier proves at least.",
        source="Lopez-Paz & Oquab 2017, arXiv:1610.06545",
    ),
    "jsd_bound": Metric(
        label="JSD bound",
        what="the Jensen-Shannon divergence, in nats, that this classifier proves at least: "
        "log 2 less its held-out cross-entropy.",
        source="Goodfellow et al. 2014, arXiv:1406.2661",
    ),
    "memorisation": Metric(
        label="memorisation",
        what="share of samples that are closer to a training example than held-out examples are; "
        "more than 0.5 means closer: copies, or samples that keep to the "
        "middle of the data.",
        source="after Meehan et al. 2020, arXiv:2004.05675",
    ),
    "modes": Metric(
        label="modes",
        what="how many modes of the mixture have a sample within three standard deviations.",
        source="Srivastava et al. 2017, arXiv:1705.07761",
    ),
    "high_quality": Metric(
        label="high quality",
        what="share of samples within three standard deviations of a mode.",
        source="Srivastava et al. 2017, arXiv:1705.07761",
    ),
    "reverse_kl": Metric(
        label="mode reverse KL",
        what="divergence of those samples' histogram over the modes from equal shares.",
        source="Lin et al. 2018, arXiv:1712.04086",
    ),
    "mode_std": Metric(
        label="mode std",
        what="each mode's own width over the true one; well below, modes shrink towards points.",
        source="ours",
    ),
    "sliced_wasserstein": Metric(
        label="sliced Wasserstein distance",
        what="Wasserstein-1, to draws of the mixture, averaged over directions, in the "
        "units of the points.",
        source="Bonneel et al. 2015, J. Math. Imaging Vis. 51",
    ),
}


def metric_of(name: str) -> Metric:
    """The entry of a figure; one that is not listed goes by its own name."""
    return METRICS.get(name, Metric(label=name.replace("_", " ")))


def direction(name: str) -> str:
    """Which way is better, in words; empty for a figure that ranks nothing."""
    if name in UNRANKED:
        return ""
    if name in NEAREST_IS_BEST:
        return f"nearest to {NEAREST_IS_BEST[name]:g} is best"
    return "higher is better" if name in HIGHER_IS_BETTER else "lower is better"
