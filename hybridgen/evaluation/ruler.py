"""A ruler: prepared once for a data set, laid against the samples of any number of samplers."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.errors import InputError
from hybridgen.evaluation.classes import count_classes
from hybridgen.evaluation.comparison import Estimate
from hybridgen.evaluation.features import feature_network
from hybridgen.evaluation.intervals import PARTS, interval, random_parts, spread
from hybridgen.evaluation.judges import IMAGES, knows_classes
from hybridgen.evaluation.memorisation import nearest
from hybridgen.evaluation.perfection import floors, shortcomings, truths
from hybridgen.evaluation.reference import Reference, reference_of
from hybridgen.evaluation.seeing import Eye, Features, examples, unseen
from hybridgen.evaluation.two_sample import FEWEST
from hybridgen.maths.draws import rng_for


@dataclass(frozen=True, kw_only=True, eq=False)
class Ruler:
    """Maps `samples` samples to figures with 95 % intervals, each beside its floor.

    Everything happens on the CPU and no random state changes: the same samples, the same figures.
    The intervals are about the draw of samples; held-out examples stay the same for all samplers.

    Attributes:
        samples: how many it takes, the same number from every sampler.
        held_out: examples that samples are compared with.
        train: training examples `[t ...]`; `None` where they are drawn without end.
        features: what images are compared by, in a word.
        warnings: a sentence each.
        floors: figures of as many real samples; of memorisation, what new examples get.
        truths: figures of perfect samples in the limit, where the density is known.
        eye: how it sees.
        reference: what it compares with.
        parts: of the samples, for the intervals.
        seed: of the parts and of the classifier.
    """

    samples: int
    held_out: int
    train: Tensor | None
    features: str
    warnings: tuple[str, ...]
    floors: Mapping[str, float]
    truths: Mapping[str, float]
    eye: Eye
    reference: Reference
    parts: int
    seed: int

    def __call__(self, x: Tensor) -> dict[str, Estimate]:
        """Every figure of samples `[samples ...]`.

        Raises:
            ValueError: another number of samples, or another shape.
            RunError: a sample is not finite.
        """
        if len(x) != self.samples:
            raise ValueError(f"this ruler's floors hold for {self.samples} samples, got {len(x)}")
        seen = self.eye.see(x)
        parts = random_parts(len(x), parts=self.parts, seed=self.seed)
        found = self.reference.figures(seen, [torch.arange(len(x)), *parts])
        estimates = {
            name: self._estimate(name, value, spread(rest, len(x)))
            for name, (value, *rest) in found.items()
        }
        estimates |= self.reference.told_apart(seen, self.seed)
        return {
            name: replace(estimate, floor=self.floors.get(name), truth=self.truths.get(name))
            for name, estimate in estimates.items()
        }

    def histogram(self, x: Tensor) -> tuple[int, ...]:
        """How many of `[b ...]` the network takes for each class; empty where it has none."""
        label = self.eye.see(x).label
        if label is None or not self.reference.classes:
            return ()
        return tuple(count_classes(label, self.reference.classes).tolist())

    def nearest(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Distance of features of `[b ...]` to their nearest in `train`, and its index, `[b]`.

        Raises:
            ValueError: training examples are drawn without end.
        """
        if self.reference.training is None:
            raise ValueError("training examples that are drawn without end have no nearest one")
        return nearest(self.eye.see(x).features, self.reference.training)

    def distance_to_held_out(self, x: Tensor) -> Tensor:
        """Distance of features of `[b ...]` to the nearest held-out example, `[b]`."""
        return nearest(self.eye.see(x).features, self.reference.held_out)[0]

    @cached_property
    def key(self) -> dict[str, str | int]:
        """What its figures depend on but the samples, to know again what was measured."""
        known = hashlib.sha256()
        for x in (self.reference.held_out, self.reference.training):
            known.update(b"" if x is None else x.contiguous().numpy().tobytes())
        settings = {"samples": self.samples, "parts": self.parts, "seed": self.seed}
        return {**settings, "classes": self.reference.classes, "compared": known.hexdigest()}

    def _estimate(self, name: str, value: float, error: float) -> Estimate:
        shares = dict.fromkeys(("precision", "high_quality", "memorisation"), self.samples)
        shares |= dict.fromkeys(("recall", "coverage"), self.held_out)
        least = 1.5 / shares[name] if name in shares else 0.0
        low, high = interval(name, value, error, parts=self.parts, least=least)
        return Estimate(value=value, low=low, high=high)


def ruler_for(
    data: Source | tuple[Tensor, Tensor],
    *,
    samples: int | None = None,
    features: Features | None = None,
    seed: int = 0,
    parts: int = PARTS,
) -> Ruler:
    """Prepare a ruler.

    Args:
        data: a source, or training and held-out examples: images `[n c h w]` in [-1, 1], or points
            `[n d]`.
        samples: to ask for; 10 000 unless given, but no more than there are training examples,
            because the floor needs as many real ones.
        features: of a batch of examples on the CPU, `[b ...] -> [b d]`; the shipped network for the
            shape or, for points, their coordinates, if not given.
        seed: of the floors, the parts and the classifier.
        parts: see `part_errors`.

    Raises:
        InputError: images that no shipped network fits, without features; too few examples.
    """
    held_out, label, train, draws = examples(data, samples or IMAGES, seed)
    mixture = None if isinstance(data, tuple) else data.mixture
    shape = tuple(held_out.shape[1:])
    network = feature_network(shape)
    if features is None and network is None and len(shape) != 1:
        raise InputError(
            f"no network is shipped for examples {list(shape)}: pass features, a function of a "
            "batch of them [b ...] that returns [b d]"
        )
    count = samples or IMAGES
    count = count if train is None else min(count, len(train))
    if min(count, len(held_out)) < FEWEST:
        raise InputError(
            f"{count} samples beside {len(held_out)} held-out examples are too few to measure: "
            f"at least {FEWEST} of each are needed"
        )
    eye = Eye(shape=shape, features=features, network=network)
    real = eye.see(held_out)
    known = network is not None and knows_classes(real.label, label)
    classes = int(network.config["classes"]) if network is not None and known else 0
    training = None if train is None else eye.see(train)
    reference = reference_of(
        real.features, None if training is None else training.features, classes, mixture
    )
    perfect = [eye.see(draw) for draw in draws]
    if training is not None:
        rows = torch.randperm(len(training.features), generator=rng_for("floor", seed))[:count]
        perfect = [training.take(rows)]
    named = "coordinates" if len(shape) == 1 else "lenet"
    return Ruler(
        samples=count,
        held_out=len(held_out),
        train=train,
        features=named if features is None else getattr(features, "__name__", "features"),
        warnings=shortcomings(count, real.features, samples) + unseen(data),
        floors=floors(reference, perfect, seed),
        truths={} if mixture is None else truths(mixture, len(held_out), count),
        eye=eye,
        reference=reference,
        parts=parts,
        seed=seed,
    )
