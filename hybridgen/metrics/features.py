"""Features that samples are compared by: small classifiers, or any function of a batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hybridgen.data.images import quantised
from hybridgen.errors import InputError, RunError
from hybridgen.networks.blocks import in_chunks

FeatureFunction = Callable[[Tensor], Tensor]

FEATURES = 64
BATCH = 500
SHIPPED: dict[tuple[int, ...], str] = {(1, 8, 8): "digits", (1, 28, 28): "mnist"}
"""Image shapes `(c, h, w)` that a network in `weights/` was trained for."""


class LeNet(ModelMixin, ConfigMixin):
    """Images `[b 1 h w]` in [-1, 1] to features `[b 64]`.

    The features are linear in the layer before, smooth in the image (average pooling and SiLU: no
    maximum and no kink), and each has mean 0 and variance 1 over the training images: a generator
    that always draws the mean of them has a Frechet distance of 64.
    Source: after LeCun et al. 1998, "Gradient-based learning applied to document recognition".

    Args:
        resolution: 8 or 28 pixels a side.
        classes: the labels that `logits` tells apart.
    """

    @register_to_config
    def __init__(self, *, resolution: int = 28, classes: int = 10) -> None:
        super().__init__()
        if resolution not in (8, 28):
            raise ValueError(f"LeNet looks at 8x8 or 28x28 images, got resolution={resolution}")
        small = resolution == 8
        # 28 -> 24 -> 12 -> 8 -> 4, or 8 -> 8 -> 4: either way 4x4 pixels remain.
        kernel, padding = (3, 1) if small else (5, 0)
        self.conv1 = nn.Conv2d(1, 24, kernel, padding=padding)
        self.conv2 = nn.Conv2d(24, 48, kernel, padding=padding)
        self.pool1 = nn.Identity() if small else nn.AvgPool2d(2)
        self.pool2 = nn.AvgPool2d(2)
        self.linear = nn.Linear(48 * 4 * 4, FEATURES)
        self.standardise = nn.BatchNorm1d(FEATURES, affine=False)
        self.head = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        side = self.config["resolution"]
        if x.ndim != 4 or x.shape[1:] != (1, side, side):
            raise ValueError(f"expected images [b 1 {side} {side}], got {tuple(x.shape)}")
        return self.standardise(self._raw(x))

    def logits(self, features: Tensor) -> Tensor:
        """Class logits `[b classes]` of features `[b 64]`."""
        return self.head(F.silu(features))

    @torch.no_grad()
    def standardise_over(self, x: Tensor) -> None:
        """Give the features mean 0 and variance 1 over the images `[b 1 h w]`."""
        raw = in_chunks(self._raw, x, size=1_000)
        self.standardise.get_buffer("running_mean").copy_(raw.mean(dim=0))
        self.standardise.get_buffer("running_var").copy_(raw.var(dim=0))

    def _raw(self, x: Tensor) -> Tensor:
        h = self.pool1(F.silu(self.conv1(x)))
        h = self.pool2(F.silu(self.conv2(h)))
        return self.linear(rearrange(h, "b c h w -> b (c h w)"))


@cache
def feature_network(shape: tuple[int, ...]) -> LeNet | None:
    """The shipped network for images of shape `(c, h, w)`, frozen; `None` if there is none."""
    if shape not in SHIPPED:
        return None
    folder = files("hybridgen.metrics") / "weights" / SHIPPED[shape]
    # diffusers' quick start needs the accelerate hooks; four small layers do not.
    network = LeNet.from_pretrained(str(folder), low_cpu_mem_usage=False)
    return network.eval().requires_grad_(False)


@torch.no_grad()
def extract(network: LeNet, x: Tensor, *, batch: int = 1_000) -> tuple[Tensor, Tensor]:
    """Features `[b 64]` and most likely class `[b]` of images `[b 1 h w]`, in slices of `batch`."""
    features = in_chunks(network, x, size=batch)
    return features, network.logits(features).argmax(dim=1)


def count_classes(label: Tensor, classes: int) -> Tensor:
    """How often each of `classes` labels occurs in `[b]`, int64 `[classes]`."""
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {label.unique().tolist()}")
    return torch.bincount(label, minlength=classes)


class Features(NamedTuple):
    """What samples are compared by: features `[b d]`, and the network's class of each, `[b]` or
    `None`."""

    features: Tensor
    label: Tensor | None

    def take(self, rows: Tensor) -> "Features":
        """Those of the samples `rows` `[r]`."""
        return Features(self.features[rows], None if self.label is None else self.label[rows])


@dataclass(frozen=True, kw_only=True)
class FeatureExtractor:
    """How examples of one shape become features, on the CPU, a batch at a time.

    Images are taken as they would be saved, in 256 grey values, whoever made them.

    Attributes:
        shape: of one example.
        function: `[b ...] -> [b d]`; `None` where the network or the coordinates give them.
        network: whose classes may be the data's, if there is one.
        finite: refuse a number that is not; without, such points pass, for mode coverage to count.
        decode: from samples that are latents to the images whose features are taken.
    """

    shape: tuple[int, ...]
    function: FeatureFunction | None
    network: LeNet | None
    finite: bool = True
    decode: Callable[[Tensor], Tensor] | None = None

    @property
    def name(self) -> str:
        """Of the features, in a word."""
        if self.function is not None:
            return getattr(self.function, "__name__", "features")
        return "coordinates" if len(self.shape) == 1 else "lenet"

    @torch.no_grad()
    def extract(self, x: Tensor) -> Features:
        """Features of `[b ...]`.

        Raises:
            ValueError: examples of another shape.
            RunError: a number that is not finite, where `finite` asks for it.
        """
        if tuple(x.shape[1:]) != self.shape:
            raise ValueError(f"expected examples {list(self.shape)}, got {list(x.shape[1:])}")
        rows, labels, function = [], [], self.function
        for part in x.detach().split(BATCH):
            if self.finite and not bool(torch.isfinite(part).all()):
                raise RunError(
                    "cannot measure samples that are not finite: the sampler or its training has "
                    "diverged."
                )
            part = part if self.decode is None else self.decode(part)
            part = features = quantised(part) if part.ndim == 4 else part.cpu()
            if self.network is not None:
                features, label = extract(self.network, part)
                labels.append(label)
            if function is not None:
                features = function(part).detach().cpu()
            if features.ndim != 2 or len(features) != len(part):
                raise InputError(
                    f"the features of {len(part)} examples must be [{len(part)} d], got "
                    f"{list(features.shape)}: pass features, a function of a batch of images"
                )
            rows.append(features.to(torch.promote_types(features.dtype, torch.float32)))
        return Features(torch.cat(rows), torch.cat(labels) if labels else None)


class CollectedFeatures(Metric):
    """Features of batches, and then those of all of them on all processes."""

    full_state_update = False
    features: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("features", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, batch: Features) -> None:
        self.features.append(batch.features)
        if batch.label is not None:
            self.labels.append(batch.label)

    def compute(self) -> Features:
        label = dim_zero_cat(self.labels) if len(self.labels) else None
        return Features(dim_zero_cat(self.features), label)
