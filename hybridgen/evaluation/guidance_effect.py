"""What a guide does to a sampler's samples: a distance at each scale, and pictures."""

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from hybridgen.data.images import to_float
from hybridgen.data.source import Source
from hybridgen.evaluation.distances import frechet_distance
from hybridgen.evaluation.features import extract, feature_network
from hybridgen.evaluation.modes import mode_distance
from hybridgen.evaluation.pictures import sample_grid, scatter, to_bytes
from hybridgen.evaluation.watch import samples_of
from hybridgen.protocols import Denoiser, Sampler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.training.exam import LOWEST


class GuidanceEffect:
    """One sampler, guided at any scale from the same noise.

    Args:
        source: what the samples should be like.
        denoiser: of the model, with weights (they say where to compute, and in which type).
        sampler: how a denoiser is sampled.
        seed: names the noise.
        window: noise levels `(low, high)` where a guide is asked.
    """

    def __init__(
        self,
        source: Source,
        denoiser: nn.Module,
        *,
        sampler: Callable[[Denoiser], Sampler],
        seed: int = 0,
        window: tuple[float, float] = (LOWEST, math.inf),
    ) -> None:
        self.source, self.denoiser, self.sampler, self.seed = source, denoiser, sampler, seed
        self.window = window

    def samples(
        self,
        critic: nn.Module | None,
        scale: float,
        count: int,
        purpose: str,
        *,
        draw: int = 0,
        label: Tensor | None = None,
    ) -> Tensor:
        """`[count ...]` on the CPU; equal purposes and draws begin with equal noise.

        Classes come in turn unless labels `[count]` are given.
        """
        denoiser: Denoiser = self.denoiser
        if critic is not None and scale != 0:
            denoiser = discriminator_guidance(denoiser, critic, scale, window=self.window)
        like = next(self.denoiser.parameters())
        label = labels_of(self.source, count) if label is None else label
        label = None if label is None else label.to(like.device)
        key = (self.seed, purpose, draw)
        return samples_of(self.sampler(denoiser), count, key, like=like, label=label).cpu()

    def draw(self, critic: nn.Module | None, scale: float, path: Path) -> None:
        """A hundred images in a grid, or a scatter of 2 500 points."""
        mixture = self.source.mixture
        if mixture is not None:
            scatter(self.samples(critic, scale, 2_500, "preview"), mixture).save(path)
        else:
            sample_grid(self.samples(critic, scale, 100, "preview"), 10).save(path)


def labels_of(source: Source, count: int) -> Tensor | None:
    """The classes in turn, `[count]`; `None` without classes."""
    return torch.arange(count) % source.classes if source.classes else None


def distance_to(source: Source, limit: int = 10_000) -> tuple[str, Callable[[Tensor], float]]:
    """The name of a distance and the distance itself, of samples to what `source` holds out.

    Points: `mode_distance`. Images: the Frechet distance of the features of a network that knows
    such images, else of the pixels of thumbnails, at most eight a side.

    Args:
        source: its `held_out` part is what images are compared with.
        limit: at most so many of it.
    """
    mixture = source.mixture
    if mixture is not None:
        return "mode_distance", lambda x: mode_distance(x, mixture)
    network = feature_network(source.shape)

    def features(images: Tensor) -> Tensor:
        seen = to_float(to_bytes(images))
        if network is not None:
            return extract(network, seen)[0]
        small = torch.nn.functional.adaptive_avg_pool2d(seen, min(8, seen.shape[-1]))
        return small.flatten(1)

    reference = features(source.reference("held_out", limit)[0])
    name = "frechet_distance" if network is not None else "frechet_distance_of_pixels"
    return name, lambda x: frechet_distance(reference, features(x))
