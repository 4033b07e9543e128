"""Where a discriminator's gradient is itself part of a loss, arithmetic must be exact enough for
it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel


@contextmanager
def full_precision(x: Tensor, *, inside: bool = True) -> Iterator[None]:
    """No autocast on x's device if `inside`; elsewhere autocast stays as the caller set it."""
    device = x.device.type
    with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not inside):
        yield


@contextmanager
def twice_differentiable(inside: bool = True) -> Iterator[None]:
    """Attention by plain products if `inside`: fused kernels have no double backward.

    https://github.com/pytorch/pytorch/issues/116350
    """
    if not inside:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield
