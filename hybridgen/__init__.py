"""hybridgen: adversarial and diffusion models, and what a discriminator can do for both."""

from hybridgen.losses.adaptive import adaptive_weight
from hybridgen.losses.adversarial import AdversarialLoss
from hybridgen.losses.discriminators import Unconditional
from hybridgen.maths import objectives
from hybridgen.maths.objectives import Objective
from hybridgen.protocols import Denoiser, Discriminator, Generator, Sampler
from hybridgen.sampling.guidance import classifier_free_guidance, discriminator_guidance
from hybridgen.sampling.refinement import Refined
from hybridgen.sampling.samplers import Heun, SinglePass
from hybridgen.sampling.schedulers import Scheduled

__all__ = [
    "AdversarialLoss",
    "Denoiser",
    "Discriminator",
    "Generator",
    "Heun",
    "Objective",
    "Refined",
    "Sampler",
    "Scheduled",
    "SinglePass",
    "Unconditional",
    "adaptive_weight",
    "classifier_free_guidance",
    "discriminator_guidance",
    "objectives",
]
