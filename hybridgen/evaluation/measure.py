"""Any sampler measured, yours too: how good its samples are, how sure that is, what one costs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from hybridgen.data.source import Source
from hybridgen.evaluation.comparison import Estimate, Expense
from hybridgen.evaluation.expense import expense_of
from hybridgen.evaluation.intervals import PARTS
from hybridgen.evaluation.ruler import Ruler, ruler_for
from hybridgen.maths.draws import rng_for

Data = Source | tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measurement:
    """What was found out about a sampler.

    Attributes:
        figures: metric -> estimate, beside its floor and, on mixtures, the truth.
        expense: of one sample.
        samples: `[n ...]` on the CPU, those that were measured.
        warnings: a sentence for each figure that so few samples cannot carry.
    """

    figures: Mapping[str, Estimate]
    expense: Expense
    samples: Tensor
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        """A table: each figure with its interval, its floor and, where it is known, the truth."""
        lines = [f"{'':18}{'measured':>12}{'95 % interval':>24}{'floor':>12}{'truth':>12}"]
        for name, e in self.figures.items():
            ends = f"{e.low:.4g} to {e.high:.4g}"
            floor, truth = ("" if x is None else f"{x:.4g}" for x in (e.floor, e.truth))
            lines.append(f"{name:18}{e.value:12.4g}{ends:>24}{floor:>12}{truth:>12}")
        spent = self.expense
        lines.append(f"{1e3 * spent.seconds.value:.4g} ms a sample in batches of {spent.batch}")
        return "\n".join([*lines, *self.warnings])


def measure(
    sampler: Callable[..., Tensor],
    data: Data | Ruler,
    *,
    noise_shape: tuple[int, ...] | None = None,
    samples: int | None = None,
    features: Callable[[Tensor], Tensor] | None = None,
    label: Tensor | None = None,
    batch: int = 256,
    parts: int = PARTS,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Measurement:
    """Samples of `sampler`, measured against data, with 95 % intervals and the cost of a sample.

    `measure(SinglePass(generator, (64,)), digits())`, or for a sampler and data of your own
    `measure(my_sampler, (train, held_out), noise_shape=(3, 32, 32), features=my_network)`.

    Args:
        sampler: `(noise [b *noise_shape]) -> [b ...]`, or with `label [b]` as its second argument
            if `label` is given; images in [-1, 1]. If it has a `cost`, as every
            `hybridgen.protocols.Sampler` has, its network calls are told too.
        data: a data set, or the pair `(train [n ...], held_out [m ...])`: samples are compared with
            the second, the first gives floors and finds copies. To measure several samplers on
            equal terms give `ruler_for(data)`, which is prepared once.
        noise_shape: of one sample; the sampler's own, if it says it.
        samples: how many; as many as the data allows, at most 10 000, if not given.
        features: images `[b ...]` to `[b d]`; the shipped network that knows them if not given.
        label: `[samples]`, of a conditional sampler.
        batch: samples made together, also when they are timed.
        parts: random parts of the samples, whose spread makes the intervals.
        seed: of the noise; two samplers of one noise shape get the same.
        device: where noise and labels are.

    Raises:
        ValueError: no noise shape, labels of another number, samples of another shape or number,
            or what a ruler has already.
        InputError: too little data, or images that no shipped network knows and no `features`.
        RunError: samples that are not finite.
    """
    shape = noise_shape or getattr(sampler, "noise_shape", None)
    if shape is None:
        raise ValueError("the sampler does not say what noise it takes: give noise_shape")
    if batch < 1:
        raise ValueError(f"batch must be at least 1, got {batch}")
    if isinstance(data, Ruler):
        ruler = data
        if samples not in (None, ruler.samples) or features or parts not in (PARTS, ruler.parts):
            raise ValueError("a ruler has its samples, features and parts: give them to ruler_for")
    else:
        ruler = ruler_for(data, samples=samples, features=features, seed=seed, parts=parts)
    if label is not None and label.shape != (ruler.samples,):
        raise ValueError(f"expected labels [{ruler.samples}], got {list(label.shape)}")
    noise = torch.randn(ruler.samples, *shape, generator=rng_for(seed, "measure"))
    given = [noise] if label is None else [noise, label]
    batches = zip(*(t.to(device).split(batch) for t in given), strict=True)
    with torch.no_grad():
        x = torch.cat([_samples(sampler(*each), each[0]).cpu() for each in batches])
    return Measurement(
        figures=ruler(x),
        expense=expense_of(sampler, *(t[:batch].to(device) for t in given)),
        samples=x,
        warnings=ruler.warnings,
    )


def _samples(x: object, noise: Tensor) -> Tensor:
    if not isinstance(x, Tensor) or len(x) != len(noise):
        what = f"{len(x)} samples" if isinstance(x, Tensor) else f"a {type(x).__name__}"
        raise ValueError(
            f"a sampler maps noise [{len(noise)} ...] to as many samples, a tensor; got {what}"
        )
    return x
