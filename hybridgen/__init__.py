"""hybridgen: adversarial and diffusion models, and what a discriminator can do for both."""

# ruff: noqa: F401  (what type checkers see is what `__getattr__` loads)

import ast
from importlib import import_module
from pkgutil import get_data
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybridgen.data.augment import Augment
    from hybridgen.data.images import digits
    from hybridgen.data.load import load_data
    from hybridgen.data.points import MixturePoints
    from hybridgen.data.settings import DataSettings
    from hybridgen.data.source import Shard
    from hybridgen.evaluation.duality_gap import duality_gap
    from hybridgen.evaluation.evaluator import Evaluator, build_evaluator
    from hybridgen.evaluation.measure import measure
    from hybridgen.evaluation.runs import load_guide
    from hybridgen.losses.adaptive import AdversarialWeight, LossBalancer, adaptive_weight
    from hybridgen.losses.adversarial import AdversarialLoss
    from hybridgen.losses.answers import features_then_logits, logits_then_features
    from hybridgen.losses.discriminators import PerSample, Unconditional
    from hybridgen.losses.distillation import (
        distribution_matching,
        divergence_weight,
        log_likelihood_ratio,
        matching_direction,
    )
    from hybridgen.losses.lecam import LeCam
    from hybridgen.losses.reduction import feature_matching
    from hybridgen.maths import objectives
    from hybridgen.maths.mixtures import grid, ring
    from hybridgen.maths.noise import karras_sigmas
    from hybridgen.maths.objectives import Objective, flipped, smoothed
    from hybridgen.metrics.calibration import overfitting_figures
    from hybridgen.metrics.divergences import mixture_divergences
    from hybridgen.metrics.neighbours import collision_radius, support_size
    from hybridgen.networks.audio import (
        MultiPeriodDiscriminator,
        MultiScaleDiscriminator,
        MultiStftDiscriminator,
    )
    from hybridgen.networks.build import load_network
    from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
    from hybridgen.networks.features import EncoderDiscriminator, FeatureDiscriminator
    from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
    from hybridgen.networks.patch import Ensemble, PatchDiscriminator
    from hybridgen.networks.pixel import PixelDiscriminator
    from hybridgen.networks.residual import ResidualDiscriminator, ResidualGenerator
    from hybridgen.protocols import Answer, Denoiser, Discriminator, Generator, Sampler
    from hybridgen.sampling.extrapolation import autoguidance, classifier_free_guidance
    from hybridgen.sampling.guidance import discriminator_guidance
    from hybridgen.sampling.guide import guide, unguide
    from hybridgen.sampling.load import load_denoiser
    from hybridgen.sampling.particles import Particles
    from hybridgen.sampling.pipeline_network import PipelineNetwork
    from hybridgen.sampling.refinement import Refined
    from hybridgen.sampling.samplers import Heun, SinglePass
    from hybridgen.sampling.schedulers import Scheduled
    from hybridgen.training.autoencoder import train_autoencoder
    from hybridgen.training.diffusion import train_diffusion
    from hybridgen.training.distill import train_student
    from hybridgen.training.finetune import train_finetune
    from hybridgen.training.gan import train_gan
    from hybridgen.training.guide import train_guide
    from hybridgen.training.settings import (
        AutoencoderTraining,
        DiffusionTraining,
        DistillTraining,
        FinetuneTraining,
        GanTraining,
        GuideTraining,
    )
    from hybridgen.training.terms import (
        AdversarialTerm,
        AuxiliaryTerm,
        Matching,
        Regression,
        StudentTerm,
    )

_MODULE_OF = {
    alias.name: node.module
    for node in ast.walk(ast.parse(get_data(__name__, "__init__.py") or b""))
    if isinstance(node, ast.ImportFrom) and str(node.module).startswith("hybridgen.")
    for alias in node.names
}
"""The module of each public name above, loaded when first asked for: torch is heavy."""

__all__ = [*_MODULE_OF]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'hybridgen' has no attribute {name!r}")
    module = import_module(str(_MODULE_OF[name]))
    value = getattr(module, name, None) or import_module(f"{module.__name__}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
