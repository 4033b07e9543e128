"""One pass from noise to samples: how a GAN is sampled."""

from dataclasses import dataclass

import torch
from torch import Tensor

from hybridgen.maths.cost import Cost
from hybridgen.protocols import Generator


@dataclass(frozen=True)
class SinglePass:
    """A generator's one call, as a `hybridgen.protocols.Sampler`.

    Attributes:
        generator: `(noise [b latent], label) -> samples`.
        noise_shape: of one sample, `(latent,)`.
    """

    generator: Generator
    noise_shape: tuple[int, ...]
    calls: int = 1

    @property
    def cost(self) -> Cost:
        """Network calls of one sample."""
        return Cost(generator=self.calls)

    @torch.no_grad()
    def __call__(self, noise: Tensor, label: Tensor | None = None) -> Tensor:
        if tuple(noise.shape[1:]) != self.noise_shape:
            raise ValueError(
                f"expected noise of shape [b, *{list(self.noise_shape)}], got {list(noise.shape)}"
            )
        return self.generator(noise, label)
