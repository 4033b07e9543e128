"""What discriminators answer, in one form: a list of logits and, for each, a list of features."""

from collections.abc import Sequence
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from hybridgen.protocols import Answer

_ADVICE = (
    "return hybridgen.Answer(logits, features), or give hybridgen.Unconditional its answer= "
    "(logits_then_features, features_then_logits)"
)


def read_answer(answer: Any, samples: int) -> tuple[list[Tensor], list[list[Tensor]]]:
    """The logits and features of a discriminator's answer, as lists.

    Args:
        answer: `[b]`, `[b 1]`, a map `[b ...]` of patches, a list or tuple of such, or an `Answer`.
        samples: b.

    Returns:
        Logits `[b]` or `[b ...]` in float32 or better, and a list of features for each, or none.

    Raises:
        ValueError: logits that are not of `samples` samples, or are classes or patches alike.
    """
    logits, features = answer if isinstance(answer, Answer) else (answer, ())
    maps = [logits] if isinstance(logits, Tensor) else logits
    if not isinstance(maps, list | tuple) or not maps:
        raise ValueError(
            "a discriminator returns logits, a list of them or hybridgen.Answer(logits, features), "
            f"and this one returned {_outline(answer)}"
        )
    if not all(isinstance(each, Tensor) for each in maps):
        raise ValueError(
            f"a discriminator returned {_outline(maps)} where logits belong: {_ADVICE}"
        )
    channels = {(each.ndim, each.shape[1]) for each in maps if each.ndim > 2}
    if len(channels) > len({axes for axes, _ in channels}):
        raise ValueError(
            f"a discriminator returned {_outline(maps)}, maps of different channels, of which some "
            f"must be features: {_ADVICE}"
        )
    nested: Any = [features] if features and isinstance(features[0], Tensor) else features
    if features and len(nested) != len(maps):
        raise ValueError(
            f"a discriminator returned features of {len(nested)} and logits of {len(maps)}: "
            "features are a list of tensors, or one such list for each of the logits"
        )
    return [_checked(each, samples) for each in maps], [list(each) for each in nested]


def _checked(logits: Tensor, samples: int) -> Tensor:
    if logits.is_complex() or not logits.is_floating_point():
        raise ValueError(
            f"a discriminator returns floating-point logits, got {logits.dtype}: take the real "
            "part, or the logits before they are compared with anything"
        )
    if samples == 1 and logits.ndim == 0:  # squeezed
        logits = rearrange(logits, "-> 1")
    if logits.ndim == 0 or len(logits) != samples:
        raise ValueError(
            f"a discriminator returns one logit a sample, [{samples}], or a map of patches, "
            f"[{samples} ...], and this one returned {list(logits.shape)}: do not reduce over the "
            "batch, and write squeeze(1), not squeeze(), which drops a batch of one"
        )
    if logits.ndim == 2 and logits.shape[1] != 1:
        raise ValueError(
            f"logits {list(logits.shape)} may be classes or patches: for patches return a map, "
            "logits.unsqueeze(1), else one logit a sample, for example the label's: "
            "logits.gather(1, label[:, None])[:, 0]"
        )
    if logits.ndim == 2:
        logits = rearrange(logits, "b 1 -> b")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _outline(value: Any) -> str:
    """Types and shapes, for a sentence."""
    if isinstance(value, Tensor):
        return str(list(value.shape))
    if isinstance(value, list | tuple):
        parts = [_outline(each) for each in value[:3]] + ["..."] * (len(value) > 3)
        return f"a {type(value).__name__} of {len(value)}: {', '.join(parts)}"[:80]
    return type(value).__name__


def one_logit(answer: Any, samples: int) -> Tensor:
    """The logits `[b]` of a discriminator whose logit itself is used: a log density ratio.

    Raises:
        ValueError: a map, several logits or features; the sentence says how they become one.
    """
    logits, _ = ([], ()) if isinstance(answer, Answer) else read_answer(answer, samples)
    if len(logits) != 1 or logits[0].ndim != 1:
        raise ValueError(
            f"a log density ratio is one logit a sample, [{samples}], and this discriminator "
            f"returned {_outline(answer)}: if a mean of patches is to stand for it, wrap the "
            "discriminator in hybridgen.PerSample, or give that another reduce="
        )
    return logits[0]


def mean_logit(logits: Sequence[Tensor]) -> Tensor:
    """The mean over each map, then over the list: `[b ...]` each -> `[b]`."""
    means = [reduce(each, "b ... -> b", "mean") if each.ndim > 1 else each for each in logits]
    return torch.stack(means).mean(0)


def features_then_logits(outputs: Sequence[Any]) -> Answer:
    """Lists whose last entry is the logits, as of MONAI's `PatchDiscriminator`; or several such."""
    if isinstance(outputs, Tensor):
        raise ValueError(f"expected a list of features and logits, got {list(outputs.shape)}")
    several = outputs if isinstance(outputs[0], list | tuple) else [outputs]
    return Answer([each[-1] for each in several], [list(each[:-1]) for each in several])


def logits_then_features(outputs: tuple[Any, Any]) -> Answer:
    """`(logits, features)` of one discriminator or `(list of logits, list of lists)` of several, as
    HiFi-GAN's and MONAI's `MultiScalePatchDiscriminator` return them.

    Logits `[b p]`, which HiFi-GAN flattens, are maps of p patches.
    """
    if not isinstance(outputs, list | tuple) or len(outputs) != 2:
        raise ValueError(f"expected (logits, features), got {_outline(outputs)}")
    logits, features = outputs
    if isinstance(logits, Tensor):
        logits, features = [logits], [features]
    maps = [rearrange(each, "b p -> b 1 p") if each.ndim == 2 else each for each in logits]
    return Answer(maps, [list(each) for each in features])
