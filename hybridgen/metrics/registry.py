"""Every metric in one table: what it is called, which way is better, and where it comes from."""

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

FEWEST = 40
"""Examples of either kind below which a two-sample test has nothing to train and test on."""
NEIGHBOURS = 5
"""k of precision, recall, density and coverage."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What tables, charts, intervals and sentences need to know about a metric.

    Attributes:
        label: its name for readers; left out in `METRICS` where that is its key.
        better: "higher", "lower", the value that perfect samples come nearest to and that can be
            missed on either side, or `None` for one that ranks nothing.
        range: the least and the greatest value that it can have; intervals are cut there.
        text: one line about it.
        source: the paper.
        p_value: whether it is the probability of a test.
        two_sample: whether it is of the two-sample test, which has a table of its own.
        main: whether a Markdown table has room for it.
        curve: whether it is among the curves of a training that a page shows.
    """

    label: str = ""
    better: Literal["higher", "lower"] | float | None = "lower"
    range: tuple[float, float] = (0.0, math.inf)
    text: str = ""
    source: str = ""
    p_value: bool = False
    two_sample: bool = False
    main: bool = False
    curve: bool = False

    @property
    def direction(self) -> str:
        """Which way is better, in words; empty for a metric that ranks nothing."""
        if self.better is None:
            return ""
        if isinstance(self.better, str):
            return f"{self.better} is better"
        return f"nearest to {self.better:g} is best"


FRACTION = (0.0, 1.0)
SIGNED = (-math.inf, math.inf)
"""The range of metrics that chance takes below 0."""

_share = partial(Metric, better="higher", range=FRACTION)
LOPEZ_PAZ = "Lopez-Paz & Oquab 2017, arXiv:1610.06545"
_two_sample = partial(Metric, two_sample=True, source=LOPEZ_PAZ)

METRICS = {
    "frechet_distance": Metric(
        label="Fr\u00e9chet distance",
        text="between Gaussians fitted to the features of samples and of held-out examples: "
        "fidelity and diversity in one figure. It falls as the number of samples grows, so "
        "compare it with its floor.",
        source="Heusel et al. 2017, arXiv:1706.08500",
        main=True,
        curve=True,
    ),
    "kid": Metric(
        label="KID",
        range=SIGNED,
        text="squared maximum mean discrepancy of the features under a cubic kernel. Unbiased, so "
        "it is 0 on average for perfect samples and can fall below.",
        source="Bi\u0144kowski et al. 2018, arXiv:1801.01401",
        main=True,
    ),
    "precision": _share(
        text="share of samples that lie among real examples: fidelity.",
        source="Kynk\u00e4\u00e4nniemi et al. 2019, arXiv:1904.06991",
        main=True,
    ),
    "recall": _share(
        text="share of real examples that lie among samples: diversity.",
        source="Kynk\u00e4\u00e4nniemi et al. 2019, arXiv:1904.06991",
        main=True,
    ),
    "density": Metric(
        better=1.0,
        text="how many real neighbourhoods a sample lies in, over what is expected. More than the "
        "floor is no merit: samples that keep to the middle get it.",
        source="Naeem et al. 2020, arXiv:2002.09797",
    ),
    "coverage": _share(
        text="share of real examples with a sample in their neighbourhood: diversity.",
        source="Naeem et al. 2020, arXiv:2002.09797",
        main=True,
        curve=True,
    ),
    "class_reverse_kl": Metric(
        label="class reverse KL",
        text="divergence of the classes that a classifier sees among samples from equal shares; "
        "0 if all are drawn equally often.",
        source="after Srivastava et al. 2017, arXiv:1705.07761",
        main=True,
    ),
    "c2st_accuracy": _two_sample(
        label="C2ST accuracy",
        better=0.5,
        range=FRACTION,
        text="how often a fresh classifier tells samples from real examples that it has not seen; "
        "guessing gives 0.5.",
        main=True,
    ),
    "c2st_p": _two_sample(
        label="C2ST p-value",
        better=None,
        range=FRACTION,
        text="how likely such an accuracy would be if samples and real examples were alike. Below "
        "0.05 they count as told apart; one in twenty tests of what is alike says so too, by "
        "chance, and the floor's may be one of them. It says whether, not how far, and ranks "
        "nothing.",
        p_value=True,
    ),
    "tv_bound": _two_sample(
        label="TV bound",
        range=SIGNED,
        text="the total variation distance that this classifier proves at least.",
    ),
    "jsd_bound": _two_sample(
        label="JSD bound",
        range=SIGNED,
        text="the Jensen-Shannon divergence, in nats, that this classifier proves at least: "
        "log 2 less its held-out cross-entropy.",
        source="Goodfellow et al. 2014, arXiv:1406.2661",
    ),
    "memorisation": Metric(
        better=0.5,
        range=FRACTION,
        text="share of samples that are closer to a training example than held-out examples are; "
        "more than 0.5 means closer: copies, or samples that keep to the middle of the data.",
        source="after Meehan et al. 2020, arXiv:2004.05675",
    ),
    "modes": Metric(
        better="higher",
        text="how many modes of the mixture have a sample within three standard deviations.",
        source="Srivastava et al. 2017, arXiv:1705.07761",
        main=True,
    ),
    "high_quality": _share(
        text="share of samples within three standard deviations of a mode.",
        source="Srivastava et al. 2017, arXiv:1705.07761",
        main=True,
        curve=True,
    ),
    "reverse_kl": Metric(
        label="mode reverse KL",
        text="divergence of those samples' histogram over the modes from equal shares.",
        source="Lin et al. 2018, arXiv:1712.04086",
        main=True,
    ),
    "mode_std": Metric(
        better=0.974,
        text="each mode's own width over the true one; well below, modes shrink towards points.",
        source="ours",
    ),
    "sliced_wasserstein": Metric(
        label="sliced Wasserstein distance",
        text="Wasserstein-1, to draws of the mixture, averaged over directions, in the units of "
        "the points.",
        source="Bonneel et al. 2015, J. Math. Imaging Vis. 51",
        main=True,
        curve=True,
    ),
}


def metric_of(name: str) -> Metric:
    """The entry of a metric; one that is not listed goes by its own name, and less is better."""
    metric = METRICS.get(name, Metric())
    return replace(metric, label=metric.label or name.replace("_", " "))
