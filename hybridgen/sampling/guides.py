"""What a critic must be to guide a denoiser; each refusal is one sentence."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.losses.unconditional import Unconditional


def check_scale(scale: Any) -> None:
    """Refuse a scale that is neither a finite number nor a function.

    Raises:
        ValueError: see above.
    """
    if callable(scale):
        return
    if not isinstance(scale, Real) or not math.isfinite(scale):
        raise ValueError(
            f"a guidance scale is a finite number or a function of sigma, got {scale!r}"
        )


def check_guide(denoiser: Any, critic: Any) -> None:
    """Refuse a critic that does not know the noise level, or another kind of data or labels.

    Looks at what networks of this package say of themselves (`shape`, `classes` and their config);
    of other callables nothing is known, and they are believed.

    Raises:
        ValueError: see above.
    """
    blind = isinstance(critic, Unconditional) or _configured(critic, "noise_conditional") is False
    if blind:
        raise ValueError(
            f"a guide must know the noise level and this {type(critic).__name__} ignores it: "
            "train one with experiments/critic.py, or build it with noise_conditional=True"
        )
    weights = _weights(critic)
    if weights in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"a guide's gradients are taken in full precision and this critic is in {weights}: "
            "call critic.float()"
        )
    for what, advice in (("shape", "samples of shape"), ("classes", "a number of classes of")):
        expected, got = _said(denoiser, what), _said(critic, what)
        if expected is not None and got is not None and expected != got:
            raise ValueError(
                f"the critic was made for {advice} {got} and the denoiser for {expected}: train a "
                "guide on samples of this denoiser (experiments/critic.py)"
            )


def precision(critic: Any, x: Tensor) -> torch.dtype:
    """The type in which a critic is differentiated: its weights', else x's, at least float32."""
    return _weights(critic) or torch.promote_types(x.dtype, torch.float32)


def _weights(critic: Any) -> torch.dtype | None:
    """The type of a module's weights; `None` for a function."""
    weights = critic.parameters() if isinstance(critic, nn.Module) else iter(())
    return next((w.dtype for w in weights if w.is_floating_point()), None)


def _said(network: Any, what: str) -> Any:
    """An attribute of a network or of the one it wraps, `None` if nothing says."""
    while network is not None:
        value = _configured(network, what)
        if value is None:
            value = getattr(network, what, None)
        if value is not None:
            return tuple(value) if what == "shape" else value
        network = getattr(network, "denoiser", None)
    return None


def _configured(network: Any, what: str) -> Any:
    """A diffusers network's setting; anybody else's `config` may be anything, and says nothing."""
    config = getattr(network, "config", None)
    return config.get(what) if isinstance(config, Mapping) else None
