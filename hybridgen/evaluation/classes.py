"""Which classes a generator draws, as a classifier sees them."""

import torch
from torch import Tensor

from hybridgen.evaluation.features import LeNet, extract
from hybridgen.maths.divergences import reverse_kl


def class_histogram(network: LeNet, x: Tensor) -> Tensor:
    """How many of the images `[b 1 h w]` the network takes for each class, int64 `[classes]`."""
    _, predicted = extract(network, x)
    return count_classes(predicted, network.config["classes"])


def count_classes(label: Tensor, classes: int) -> Tensor:
    """How often each of `classes` labels occurs in `[b]`, int64 `[classes]`."""
    if len(label) and not 0 <= int(label.min()) <= int(label.max()) < classes:
        raise ValueError(f"expected labels from 0 to {classes - 1}, got {label.unique().tolist()}")
    return torch.bincount(label, minlength=classes)


def class_reverse_kl(label: Tensor, classes: int) -> float:
    """`KL(q | uniform)` of the histogram of labels `[b]`: 0 if all are drawn equally often."""
    return reverse_kl(count_classes(label, classes))
