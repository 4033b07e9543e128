"""Guidance: functions from a denoiser to another denoiser. They compose by nesting."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from hybridgen.losses.answers import one_logit
from hybridgen.losses.discriminators import PerSample, Unconditional
from hybridgen.maths.noise import like
from hybridgen.protocols import Cost, Denoiser, Discriminator

LOWEST = 0.0447
"""The noise level below which a guide is not used: gradients there are the least certain."""
HIGHEST = 80.0
"""What a guide is shown of higher levels, at which it was not trained: its push hardly depends on
the level any more there."""


def check_scale(scale: Any) -> None:
    """Refuse a scale that is neither a finite number nor a function with a `ValueError`."""
    if not callable(scale) and not (isinstance(scale, Real) and math.isfinite(scale)):
        raise ValueError(
            f"a guidance scale is a finite number or a function of sigma, got {scale!r}"
        )


def check_guide(denoiser: Any, discriminator: Any) -> None:
    """Refuse a discriminator that knows no noise level, or another kind of data or labels.

    Reads `shape`, `classes` and the config of networks of this package; other callables have
    none of them and pass.

    Raises:
        ValueError: see above.
    """
    while isinstance(discriminator, PerSample):
        discriminator = discriminator.discriminator
    blind = configured(discriminator, "noise_conditional") is False
    if blind or isinstance(discriminator, Unconditional):
        raise ValueError(
            "a guide must know the noise level and this "
            f"{type(discriminator).__name__} ignores it: train one with experiments/guide.py, or "
            "build it with noise_conditional=True"
        )
    weights = _weights_dtype(discriminator)
    if weights in (torch.bfloat16, torch.float16):
        raise ValueError(
            "a guide's gradients are taken in full precision and this discriminator is in "
            f"{weights}: call discriminator.float()"
        )
    for name, noun in (("shape", "samples of shape"), ("classes", "a number of classes of")):
        expected, got = attribute_of(denoiser, name), attribute_of(discriminator, name)
        if expected is not None and got is not None and expected != got:
            raise ValueError(
                f"the discriminator was made for {noun} {got} and the denoiser for {expected}: "
                "train a guide on samples of this denoiser (experiments/guide.py)"
            )


def check_window(window: tuple[float, float]) -> None:
    """Refuse an empty range of noise levels with a `ValueError`."""
    low, high = window
    if not 0 <= low < high:
        raise ValueError(f"a window is (low, high) with 0 <= low < high, got {window}")


def _weights_dtype(discriminator: Any) -> torch.dtype | None:
    """The type of a module's weights; `None` for a function."""
    weights = discriminator.parameters() if isinstance(discriminator, nn.Module) else iter(())
    return next((w.dtype for w in weights if w.is_floating_point()), None)


def attribute_of(network: Any, name: str) -> Any:
    """An attribute of a network or of the one it wraps; `None` where there is none."""
    while network is not None:
        value = configured(network, name)
        if value is None:
            value = getattr(network, name, None)
        if value is not None:
            return tuple(value) if name == "shape" else value
        network = getattr(network, "denoiser", None)
    return None


def configured(network: Any, name: str) -> Any:
    """A diffusers network's setting; other people's `config` may be anything and is not read."""
    config = getattr(network, "config", None)
    return config.get(name) if isinstance(config, Mapping) else None


def cost_of(denoiser: Any, sigma: float) -> Cost:
    """One call of `denoiser` at level `sigma`: by its own `cost(sigma)`, else one evaluation if it
    is a network.

    What a function asks, or a module around other denoisers, is not known: `nan` evaluations.
    """
    cost: Callable[[float], Cost] | None = getattr(denoiser, "cost", None)
    if cost is not None:
        return cost(sigma)
    return Cost(denoiser=1 if _is_network(denoiser) else math.nan)


def _is_network(denoiser: Any) -> bool:
    """Whether it is a module, and holds none that takes a `sigma` as denoisers do."""
    denoiser = getattr(denoiser, "_orig_mod", denoiser)  # of a compiled one
    if not isinstance(denoiser, nn.Module):
        return False
    codes = (getattr(m.forward, "__code__", None) for m in denoiser.modules() if m is not denoiser)
    return not any(code and "sigma" in code.co_varnames[: code.co_argcount] for code in codes)


def at_level(denoiser: Any, sigma: float) -> Denoiser:
    """`denoiser` for calls at this level alone: by its own `at(sigma)`, if it has one.

    A sampler has the level as a number, where a denoiser would have to wait for an accelerator to
    learn that its guide is not asked.
    """
    at: Callable[[float], Denoiser] | None = getattr(denoiser, "at", None)
    return denoiser if at is None else at(sigma)


Scale = float | Callable[[Tensor], Tensor]


def discriminator_guidance(
    denoiser: Denoiser,
    discriminator: Discriminator,
    scale: Scale = 1.0,
    *,
    window: tuple[float, float] = (LOWEST, math.inf),
    clip: float | None = None,
) -> Denoiser:
    """Move each clean estimate along the discriminator's gradient.

    A discriminator trained to the optimum has logit `log p(x; sigma) - log q(x; sigma)`, so with
    scale 1 the score of q, `(x0 - x) / sigma^2`, becomes that of p: inside `window`,
    `x0' = x0 + scale * sigma^2 * d logit / d x`.
    Source: Kim et al. 2023, arXiv:2211.17091, equation 8, on a denoiser instead of a score.

    The discriminator has to be trained on finished samples of this denoiser (by the sampler that
    is to be guided) against data, both noised, at every level: `experiments/guide.py`. The
    discriminator of a hybrid loss or of a GAN knows something else.

    Args:
        denoiser: what is guided; classifier-free guidance belongs inside if the discriminator knows
            labels, because it needs one in every call.
        discriminator: noise-conditional; raw logits are used, because a clipped probability has no
            gradient beyond logit 11.5.
        scale: a number, or a function of `sigma [b]`; 0 gives back the denoiser's answers.
        window: the noise levels, low included and high excluded, where the discriminator is used;
            those above 80 (`HIGHEST`) count as 80. At large sigma guidance mends the weights of
            modes, at small sigma their shape.
        clip: the largest norm, in units of the data, of what is added to one sample's estimate.

    Returns:
        A denoiser with `.cost(sigma)`. The discriminator runs in float32, also inside
        `torch.no_grad()`, `torch.inference_mode()` and autocast.

    Raises:
        ValueError: a discriminator that ignores the noise level or fits another shape or label
            set, a scale that is not finite, an empty window, a clip that is not positive.
    """
    check_guide(denoiser, discriminator)
    return Guided(denoiser, Push(discriminator, scale, window, clip))


@dataclass(frozen=True, eq=False)
class Push:
    """What a discriminator adds to clean estimates, `scale sigma^2 d logit / d x`.

    Attributes:
        discriminator, scale, window, clip: see `discriminator_guidance`.

    Raises:
        ValueError: a scale that is not finite, an empty window, a clip that is not positive.
    """

    discriminator: Discriminator
    scale: Scale = 1.0
    window: tuple[float, float] = (LOWEST, math.inf)
    clip: float | None = None

    def __post_init__(self) -> None:
        check_scale(self.scale)
        check_window(self.window)
        if self.window[0] > HIGHEST:
            raise ValueError(
                f"a window begins at {HIGHEST:g} at most, as which higher levels count, got "
                f"{self.window}"
            )
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be positive, got {self.clip}")

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor | None:
        """`[b ...]` for `x [b ...]` in the variance-exploding scale; `None` where it is known,
        without waiting for an accelerator, that nothing is added.
        """
        strength = self.strength(sigma)
        if sigma.device.type == "cpu" and not bool((strength != 0).any()):
            return None
        level = sigma.clamp(max=HIGHEST)
        gradient = self._gradient(x * like((HIGHEST / sigma).clamp(max=1), x), level, label)
        push = like(strength * level.to(strength).square(), x) * gradient
        if self.clip is not None:
            norm = push.flatten(1).norm(dim=1)
            push = push * like((self.clip / norm.clamp(min=1e-12)).clamp(max=1), x)
        # Where the strength is zero a gradient that is not finite must not come through.
        return torch.where(like(strength != 0, x), push, torch.zeros_like(push))

    def strength(self, sigma: Tensor) -> Tensor:
        """The scale at each level, 0 outside the window: `[b]`, at least float32."""
        level = sigma.to(torch.promote_types(sigma.dtype, torch.float32)).clamp(max=HIGHEST)
        scale = scale_at(self.scale, level)
        inside = (level >= self.window[0]) & (level < self.window[1])
        return torch.where(inside, scale, torch.zeros_like(scale))

    def _gradient(self, x: Tensor, sigma: Tensor, label: Tensor | None) -> Tensor:
        precise = _weights_dtype(self.discriminator) or torch.promote_types(x.dtype, torch.float32)
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.autocast(x.device.type, enabled=False),
        ):
            # Clones, because a tensor made in inference mode cannot take part in a graph.
            x_in = x.detach().clone().to(precise).requires_grad_(True)
            level = sigma.detach().clone().to(precise)
            classes = None if label is None else label.clone()
            logits = one_logit(self.discriminator(x_in, level, classes), len(x))
            (gradient,) = torch.autograd.grad(logits.sum(), x_in)
        return gradient


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser with a discriminator's gradient added; made by `discriminator_guidance`."""

    denoiser: Denoiser
    push: Push

    def __call__(self, x: Tensor, sigma: Tensor, label: Tensor | None = None) -> Tensor:
        estimate = self.denoiser(x, sigma, label)
        push = self.push(x, sigma, label)
        return estimate if push is None else (estimate + push).to(x.dtype)

    def cost(self, sigma: float) -> Cost:
        """Calls at one level: the denoiser's, and the discriminator forwards and backwards."""
        inner = cost_of(self.denoiser, sigma)
        if not self._asked(sigma):
            return inner
        return inner + Cost(discriminator_forward=1, discriminator_backward=1)

    def at(self, sigma: float) -> Denoiser:
        """See `at_level`: what is guided, where the discriminator is not asked."""
        inner = at_level(self.denoiser, sigma)
        return replace(self, denoiser=inner) if self._asked(sigma) else inner

    def _asked(self, sigma: float) -> bool:
        return bool((self.push.strength(torch.tensor([sigma])) != 0).any())


def scale_at(scale: Scale, sigma: Tensor) -> Tensor:
    """The scale at each of `sigma [b]`."""
    if callable(scale):
        return torch.as_tensor(scale(sigma)).to(sigma).expand_as(sigma)
    return torch.full_like(sigma, scale)
