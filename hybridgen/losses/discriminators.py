"""What a discriminator must be to have an adversarial loss; all refusals are `ValueError`."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hybridgen.losses.answers import mean_logit, read_answer
from hybridgen.protocols import Answer, Logits


def check_weights(**weights: float) -> None:
    """Refuse a penalty weight that is negative or not finite."""
    for name, weight in weights.items():
        if not 0 <= weight < math.inf:
            raise ValueError(f"the penalty weight {name} must be finite and >= 0, got {weight}")


def check_discriminator(discriminator: nn.Module) -> None:
    """Refuse a discriminator that normalises across the batch or is called in another way."""
    if any(isinstance(module, DistributedDataParallel) for module in discriminator.modules()):
        raise ValueError(
            "the discriminator is wrapped in DistributedDataParallel, which sees neither penalties "
            "nor the generator's turn: wrap the whole AdversarialLoss instead"
        )
    for name, module in discriminator.named_modules():
        if _normalises_batches(module):
            raise ValueError(
                f"the discriminator's layer {name!r} is a {type(module).__name__}: real and fake "
                "share one batch and a penalty needs each logit to depend on its own sample, so "
                "use GroupNorm or spectral_norm, or freeze it and keep it in eval mode"
            )
    if not takes(discriminator, 3):
        raise ValueError(
            f"a discriminator is called as (x, sigma, label) and "
            f"{type(discriminator).__name__}.forward takes "
            f"{inspect.signature(discriminator.forward)}: wrap a discriminator that "
            "knows neither in hybridgen.Unconditional(discriminator)"
        )


def _normalises_batches(module: nn.Module) -> bool:
    """Whether a layer is batch normalisation that is not frozen in eval mode."""
    if not isinstance(module, nn.modules.batchnorm._BatchNorm):
        return False
    trained = any(p.requires_grad for p in module.parameters())
    return trained or module.training or module.running_mean is None


def frozen_norms(discriminator: nn.Module) -> tuple[nn.Module, ...]:
    """The batch normalisations of a discriminator, which have to stay in eval mode."""
    norms = nn.modules.batchnorm._BatchNorm
    return tuple(module for module in discriminator.modules() if isinstance(module, norms))


def takes(discriminator: nn.Module, arguments: int) -> bool:
    """Whether a discriminator can be called with so many positional arguments."""
    try:
        inspect.signature(discriminator.forward).bind(*range(arguments))
    except TypeError:
        return False
    return True


def check_finite_difference(finite_difference: float | None, *, augmented: bool = False) -> None:
    """Refuse an impossible step, and a random augmentation between the two points compared."""
    if finite_difference is not None and not 0 < finite_difference < math.inf:
        raise ValueError(f"finite_difference is a step > 0 in data units, got {finite_difference}")
    if finite_difference is not None and augmented:
        raise ValueError(
            "finite differences compare one discriminator at two close points, and a random "
            "augmentation moves them apart: leave out finite_difference or augment"
        )


class Unconditional(nn.Module):
    """`discriminator(x)` with the signature `(x, sigma, label)`; sigma and label are ignored.

    A condition, where the loss is given one, is the second argument: `discriminator(x, condition)`.
    Such a discriminator cannot guide a sampler: it does not know how noisy its input is.

    Args:
        discriminator: any module `x [b ...] -> [b]`, `[b 1]`, a map of patches `[b ...]`, a list of
            these, or what `answer` makes one of.
        answer: from what the discriminator returns to logits or `Answer`, for others' conventions:
            `features_then_logits`, `logits_then_features`, or a function.
    """

    def __init__(
        self, discriminator: nn.Module, answer: Callable[[Any], Logits | Answer] | None = None
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.answer = answer

    def forward(
        self, x: Tensor, sigma: Tensor, label: Tensor | None = None, condition: Any = None
    ) -> Any:
        returned = self.discriminator(x, *(() if condition is None else (condition,)))
        return returned if self.answer is None else self.answer(returned)


class PerSample(nn.Module):
    """A discriminator of patches or several scales that answers one logit a sample, `[b]`.

    For what uses the logit itself: guidance, refinement, calibration. The mean of patches ranks
    samples; a log density ratio it is only if trained as such.

    Args:
        discriminator: whatever `AdversarialLoss` takes; features are dropped.
        reduce: from a list of logits, `[b]` or `[b ...]`, to `[b]`; the mean over each map, then
            over the list, if not given.
    """

    def __init__(
        self,
        discriminator: nn.Module,
        reduce: Callable[[Sequence[Tensor]], Tensor] = mean_logit,
    ) -> None:
        super().__init__()
        self.discriminator = discriminator
        self.reduce = reduce

    def forward(self, x: Tensor, *others: Any) -> Tensor:
        logits, _ = read_answer(self.discriminator(x, *others), len(x))
        return self.reduce(logits)
