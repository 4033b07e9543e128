"""Which critics may guide which denoisers, and the sentences of those that may not."""

import math

import pytest
import torch
from torch import nn

from hybridgen.losses.unconditional import Unconditional
from hybridgen.networks.dcgan import DcganCritic
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.mlp import MlpCritic
from hybridgen.sampling.guidance import classifier_free_guidance, discriminator_guidance

SIGMA = torch.tensor([0.1, 1.0, 2.0])
LABEL = torch.tensor([0, 1, 2])


def zero(x, sigma, label=None):
    return torch.zeros_like(x)


def total(x, sigma, label=None):
    return x.sum(1)


def of_points(**critic):
    return discriminator_guidance(
        PointDenoiser(width=8), MlpCritic(**({"noise_conditional": True, "width": 8} | critic))
    )


def of_images(**critic):
    sizes = {"resolution": 8, "channels": 1, "width": 4, "noise_conditional": True}
    return discriminator_guidance(
        ImageDenoiser(widths=(8,), classes=3), DcganCritic(**(sizes | {"classes": 3} | critic))
    )


def test_networks_that_fit_are_accepted_through_every_wrapper():
    of_points()
    of_images()
    labelled = classifier_free_guidance(ImageDenoiser(widths=(8,), classes=3), 2.0)
    fitting = DcganCritic(resolution=8, width=4, classes=3, noise_conditional=True)
    guided = discriminator_guidance(discriminator_guidance(labelled, fitting), fitting)
    x = torch.randn(3, 1, 8, 8)
    assert guided(x, SIGMA, LABEL).shape == x.shape


@pytest.mark.parametrize(
    ("misuse", "sentence"),
    [
        (lambda: of_points(noise_conditional=False), "must know the noise level.*MlpCritic ignor"),
        (
            lambda: discriminator_guidance(zero, Unconditional(nn.Flatten())),
            "must know the noise level.*Unconditional ignores",
        ),
        (lambda: of_points(dimension=3), r"shape \(3,\).*\(2,\)"),
        (lambda: of_images(resolution=16), r"shape \(1, 16, 16\).*\(1, 8, 8\)"),
        (lambda: of_images(channels=3), r"shape \(3, 8, 8\).*\(1, 8, 8\)"),
        (lambda: of_images(classes=10), "number of classes of 10.* 3"),
        (lambda: of_images(classes=0), "number of classes of 0.* 3"),
        (
            lambda: discriminator_guidance(
                classifier_free_guidance(PointDenoiser(width=8), 2.0),
                MlpCritic(dimension=5, noise_conditional=True),
            ),
            r"shape \(5,\).*\(2,\)",
        ),
        *[
            (lambda s=s: discriminator_guidance(zero, total, s), "scale is a finite number")
            for s in (math.nan, math.inf, -math.inf, "2", None)
        ],
        (lambda: classifier_free_guidance(zero, math.nan), "scale is a finite number"),
        (lambda: discriminator_guidance(zero, total, window=(2, 1)), r"window.*\(2, 1\)"),
        (lambda: discriminator_guidance(zero, total, window=(-1, 1)), "window"),
        (
            lambda: discriminator_guidance(zero, total, window=(math.nan, 1)),
            "window",
        ),
        (lambda: discriminator_guidance(zero, total, clip=0.0), "clip must be positive"),
        (lambda: discriminator_guidance(zero, total, clip=math.nan), "clip"),
    ],
)
def test_misuse_gets_a_sentence(misuse, sentence):
    with pytest.raises(ValueError, match=sentence):
        misuse()


def test_a_critic_of_another_making_may_have_a_config_that_is_no_dictionary():
    class Foreign(nn.Module):
        config = object()

        def forward(self, x, sigma, label=None):
            return x.sum(1) * sigma

    assert float(discriminator_guidance(zero, Foreign())(torch.zeros(3, 2), SIGMA).sum()) > 0
