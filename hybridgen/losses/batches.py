"""The batches that a discriminator is called with: checked, stacked, cut."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from hybridgen.errors import quoted

Inputs = tuple[Tensor, Tensor | None, Tensor | None, Any]
"""Samples `[b ...]`, sigma `[b]`, label `[b]` and condition of one batch, as they are called."""


def mapped(function: Callable[..., Tensor], first: Any, *others: Any) -> Any:
    """`function` of tensors, or of those at equal places of tuples, lists and dicts.

    What is no tensor stays as it is in the first.
    """
    if isinstance(first, Tensor):
        return function(first, *others)
    if isinstance(first, Mapping):
        return {key: mapped(function, first[key], *(o[key] for o in others)) for key in first}
    if isinstance(first, tuple | list):
        parts = [mapped(function, *each) for each in zip(first, *others, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return first


def stacked(first: Inputs, second: Inputs) -> Inputs:
    """Both batches in one, the first one's rows first."""
    return mapped(lambda a, b: torch.cat([a, b]), first, second)


def check_batches(
    real: Tensor | None, fake: Tensor, rows: Mapping[str, Any], paired: Sequence[str]
) -> None:
    """Refuse, by `ValueError`, samples that are no floating-point numbers or do not fit together.

    Args:
        rows: what has one row for each fake sample, and one for each pair, by name.
        paired: what else takes real and fake samples in pairs.
    """
    for name, x in (("fake", fake), ("real", real)):
        if x is not None and not x.is_floating_point():
            raise ValueError(
                f"{name} must be floating-point numbers, got {x.dtype}: scale integers as the "
                "other side is, for example x.float() / 127.5 - 1, and stack the parts of complex "
                "numbers as channels (torch.view_as_real)"
            )
        if x is not None and (x.ndim == 0 or not len(x)):
            raise ValueError(
                f"{name} must hold at least one sample, [b ...], got {list(x.shape)}: skip a batch "
                "that is empty"
            )
    rows = {name: value for name, value in rows.items() if value is not None}
    if real is not None and real.shape != fake.shape:
        shapes = f"real and fake must have one shape, got {list(real.shape)} and {list(fake.shape)}"
        if real.shape[1:] != fake.shape[1:]:
            raise ValueError(f"{shapes}: crop or resize one of them")
        for what in (*paired, *rows):
            raise ValueError(
                f"{shapes}: {what} takes them in pairs, so take as many of each, or leave it out"
            )
    for name, value in rows.items():
        check_rows(name, value, len(fake))
        if name in ("sigma", "label", "sample_weight") and value.ndim != 1:
            raise ValueError(f"{name} must be [{len(fake)}], got {list(value.shape)}")


def check_rows(name: str, value: Any, samples: int) -> None:
    """Refuse, by `ValueError`, what does not have one row for each of `samples`."""

    def check(x: Tensor) -> Tensor:
        if x.ndim == 0 or len(x) != samples:
            raise ValueError(
                f"{name} must have one row for each of {samples} samples, [{samples} ...], got "
                f"{quoted(list(x.shape))}"
            )
        return x

    mapped(check, value)


def check_finite_samples(loss: Tensor, **samples: Tensor | None) -> None:
    """Refuse, by `ValueError`, samples that are NaN or infinite, where they made a loss so.

    Nothing is read from an accelerator, which would have to be waited for.
    """
    if loss.device.type != "cpu" or torch.compiler.is_compiling() or bool(loss.isfinite()):
        return
    for name, x in samples.items():
        wrong = 0 if x is None else int((~x.isfinite()).sum())
        if x is not None and wrong:
            raise ValueError(
                f"{wrong} of the {x.numel()} numbers in {name} are NaN or infinite: look for the "
                "division, logarithm or file that made them"
            )
