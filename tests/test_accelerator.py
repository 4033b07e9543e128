"""Loops, samplers, evaluation and commands on an accelerator that is not there."""

import copy
import json
import math
from functools import partial
from typing import get_args

import pytest
import torch
from accelerate import Accelerator
from experiments.conftest import EXPERIMENTS, load
from mock_device import DEVICE, MockDevice, WrongDevice, accelerator_there, mock_accelerator
from pipelines import ldm
from torch import nn

from hybridgen import AdversarialLoss, Refined, SinglePass, measure
from hybridgen.cli import command
from hybridgen.data.augment import Augment, DiffusionNoise
from hybridgen.data.images import digits
from hybridgen.data.points import MixturePoints
from hybridgen.data.settings import AugmentSettings, DiffusionNoiseSettings
from hybridgen.data.source import Shard, to_device
from hybridgen.errors import RunError
from hybridgen.evaluation.density_ratio import LogRatio, calibrated
from hybridgen.evaluation.monitor import Monitor
from hybridgen.maths.mixtures import ring
from hybridgen.metrics.distances import sliced_wasserstein
from hybridgen.metrics.modes import mode_coverage
from hybridgen.networks.build import build_autoencoder
from hybridgen.networks.dcgan import DcganDiscriminator, DcganGenerator
from hybridgen.networks.denoisers import ImageDenoiser, PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.networks.settings import AutoencoderSettings
from hybridgen.sampling.build import build_sampler
from hybridgen.sampling.guidance import discriminator_guidance
from hybridgen.sampling.settings import SamplerName, SamplerSettings
from hybridgen.training.autoencoder import train_autoencoder
from hybridgen.training.diffusion import train_diffusion
from hybridgen.training.distill import train_student
from hybridgen.training.distill_loss import Pairs
from hybridgen.training.gan import train_gan
from hybridgen.training.guide import train_guide
from hybridgen.training.settings import (
    AutoencoderTraining,
    Cosine,
    DiffusionTraining,
    DistillTraining,
    GanTraining,
    GuideTraining,
    LogUniform,
)
from hybridgen.training.setup import build_adversarial
from hybridgen.training.step import batches_of
from hybridgen.training.terms import (
    AdversarialTerm,
    AuxiliaryTerm,
    Matching,
    Regression,
    StudentTerm,
)
from hybridgen.training.validation import HeldOutValidation

RING = MixturePoints(mixture=ring().standardised(), name="ring", labelled=True)
DIGITS = digits(labelled=True)
SMALL = {"width": 8, "depth": 1, "classes": 8}
SHORT = {"steps": 5, "batch": 16}


def gan(accelerator, data=RING, batches=None, accumulation=1, noise=None, **adversarial):
    torch.manual_seed(0)
    if data is RING:
        told = {"noise_conditional": noise is not None}
        networks = MlpGenerator(latent=3, **SMALL), MlpDiscriminator(**told, **SMALL)
    else:
        size = {"resolution": 8, "channels": 1, "width": 8, "classes": 10}
        networks = DcganGenerator(latent=3, **size), DcganDiscriminator(**size)
    config = GanTraining(accumulation=accumulation, **SHORT)
    batches = batches or batches_of(data, accelerator, batch=16, seed=5)
    loss = AdversarialLoss(networks[1], **adversarial)
    noise = None if noise is None else DiffusionNoise(noise)
    return train_gan(networks[0], loss, batches, config, accelerator, latent=3, noise=noise)


def augmented_gan(accelerator):
    pytest.importorskip("kornia")
    settings = AugmentSettings(strength=0.5, adaptive=True, speed_images=500, flips=True)
    return gan(accelerator, DIGITS, augment=Augment(settings))


def diffusion(accelerator, data=RING, source=None, **options):
    torch.manual_seed(0)
    if data is RING:
        denoiser = PointDenoiser(frequencies=2, **SMALL)
    else:
        denoiser = ImageDenoiser(resolution=8, channels=1, widths=(8, 8), classes=10)
    more = {}
    if source is not None:
        short = {"warm_up": 1, "ramp": 2, "calls": (2, 3), "force": True, "adaptive": True}
        term = AdversarialTerm(source=source, **short)
        discriminator = MlpDiscriminator(noise_conditional=True, **SMALL)
        more = {"term": term, "adversarial": build_adversarial(discriminator, term)}
    config = DiffusionTraining(clip=1.0, **SHORT, **options)
    batches = batches_of(data, accelerator, batch=16, seed=5)
    return train_diffusion(denoiser, batches, config, accelerator, data_std=1.0, **more)


def autoencoder(accelerator):
    torch.manual_seed(0)
    network = build_autoencoder(AutoencoderSettings(widths=(8, 8)), DIGITS.shape)
    discriminator = DcganDiscriminator(resolution=8, channels=1, width=8)
    # Not relativistic: Adam makes whole steps of what rounding leaves of the head's bias.
    short = {"adaptive": True, "warm_up": 1, "ramp": 2}
    term = AuxiliaryTerm(objective="non_saturating", **short)
    more = {"term": term, "adversarial": build_adversarial(discriminator, term)}
    batches = batches_of(DIGITS, accelerator, batch=16, seed=5)
    return train_autoencoder(network, batches, AutoencoderTraining(**SHORT), accelerator, **more)


def student(accelerator):
    torch.manual_seed(0)
    teacher = PointDenoiser(frequencies=2, **SMALL)
    levels = LogUniform(low=0.02, high=10.0)
    term = StudentTerm(objective="non_saturating", adaptive=True, noise=levels)
    discriminator = MlpDiscriminator(noise_conditional=True, **SMALL)
    pulls = {"term": term, "adversarial": build_adversarial(discriminator, term)}
    pulls |= {"matching": Matching(divergence="jensen_shannon")}
    drawn = torch.randn(2, 2, 16, 2)
    pulls |= {"regression": Regression(weight=Cosine(start=1.0)), "pairs": lambda: Pairs(*drawn)}
    networks = copy.deepcopy(teacher), teacher, batches_of(RING, accelerator, batch=16, seed=5)
    config, levels = DistillTraining(rounds=2, **SHORT), (20.0, 1.0)
    return train_student(*networks, config, accelerator, levels=levels, data_std=1.0, **pulls)


def guide(accelerator, objective):
    torch.manual_seed(0)
    denoiser = PointDenoiser(frequencies=2, **SMALL).to(accelerator.device)
    discriminator = MlpDiscriminator(noise_conditional=True, activation="silu", **SMALL)
    config = GuideTraining(objective=objective, levels=2, check_every=100, **SHORT)
    shares = [batches_of(RING, accelerator, batch=16, seed=seed) for seed in (1, 2)]
    validation = partial(held_out, accelerator.device, config, denoiser)
    return train_guide(discriminator, *shares, validation, config, accelerator, denoiser=denoiser)


def held_out(device, config, denoiser):
    x, label = (each.to(device) for each in RING.reference("held_out", 8))
    matched = denoiser if config.objective == "score_matching" else None
    levels = config.noise.quantiles(config.levels)
    return HeldOutValidation(x, x, levels, label=label, fake_label=label, denoiser=matched)


LOOPS = {
    "GAN": gan,
    "GAN by finite differences": partial(gan, finite_difference=0.1),
    "GAN in parts": partial(gan, accumulation=2),
    "GAN of images": partial(gan, data=DIGITS),
    "GAN with noise": partial(
        gan, noise=DiffusionNoiseSettings(highest=1.0, target=-0.9, speed_images=100)
    ),
    "augmented GAN": augmented_gan,
    "diffusion": diffusion,
    "diffusion of images": partial(diffusion, data=DIGITS),
    "clean term": partial(diffusion, source="clean"),
    "renoised term": partial(diffusion, source="renoised"),
    "chain term": partial(diffusion, source="chain"),
    "autoencoder": autoencoder,
    "student": student,
    "guide by cross-entropy": partial(guide, objective="cross_entropy"),
    "guide by score matching": partial(guide, objective="score_matching"),
}


def test_it_refuses_what_an_accelerator_refuses_and_counts_what_makes_the_host_wait():
    with mock_accelerator() as (device, _):
        x = torch.ones(3, device=DEVICE)
        for wrong in (
            lambda: x + torch.ones(3),
            lambda: torch.ones(3)[x.long()],
            lambda: torch.randn(3, device=DEVICE, generator=torch.Generator()),
            lambda: torch.randn(3, generator=torch.Generator(DEVICE)),
            lambda: x.double(),
            lambda: nn.Linear(3, 1)(x),
        ):
            with pytest.raises(WrongDevice):
                wrong()
        assert (x + 1.0).sum().item() == 6 and not device.waits.clear()
        for wait in (
            lambda: x.sum().item(),
            lambda: x.tolist(),
            lambda: bool(x.any()),
            lambda: x[x > 0],
            lambda: x.cpu(),
            lambda: torch.ones(3).to(DEVICE),
            lambda: torch.ones(3).to(DEVICE, non_blocking=True),  # not from pinned memory
            lambda: torch.ones(3).pin_memory().to(DEVICE),
            lambda: x.new_tensor(1.0),
        ):
            device.waits.clear()
            wait()
            assert device.waits.total() == 1
        device.waits.clear()
        to_device(torch.ones(3), DEVICE)
        assert not device.waits


@pytest.mark.parametrize("name", LOOPS)
def test_no_step_waits_between_two_log_lines_and_the_losses_are_those_of_the_cpu(name):
    *_, step = LOOPS[name](Accelerator(cpu=True))
    expected = dict(step.losses)
    with mock_accelerator() as (device, accelerator):
        for step in LOOPS[name](accelerator):
            if step.number == 1:
                device.waits.clear()  # models and data were copied
            if step.number == 4:
                assert not device.waits
        losses = dict(step.losses)
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        assert value == pytest.approx(expected[key], rel=1e-4, abs=1e-5), key


def test_a_loss_that_is_not_finite_is_named_by_its_step_later_and_moves_no_weight_meanwhile():
    def spoilt(shard):
        for number, (x, label) in enumerate(RING.batches(shard)):
            yield x * (math.nan if number == 4 else 1), label  # of step 3

    with mock_accelerator() as (_, accelerator):
        shard, states = Shard(batch=16, seed=5, device=DEVICE), []
        for step in gan(accelerator, batches=lambda _: spoilt(shard)):
            networks = (step.state["generator"], step.state["discriminator"], step.average)
            states.append([p.detach().clone() for n in networks[:2] for p in n.parameters()])
            assert step.number < 2 or step.number == len(states)
        with pytest.raises(RunError, match=r"the discriminator's loss .* at step 3"):
            dict(step.losses)
        moved = [not torch.equal(a, b) for a, b in zip(states[0], states[1], strict=True)]
        assert any(moved)
        for later in states[2:]:
            assert all(torch.equal(a, b) for a, b in zip(states[1], later, strict=True))


@pytest.mark.parametrize("name", get_args(SamplerName))
def test_a_guided_sampler_waits_as_often_for_many_levels_as_for_few(name):
    torch.manual_seed(0)
    denoiser = PointDenoiser(frequencies=2, **SMALL)
    discriminator = MlpDiscriminator(noise_conditional=True, **SMALL)
    noise, label = torch.randn(6, 2), torch.arange(6)

    def sample(steps, device):
        networks = denoiser.to(device), discriminator.to(device)
        guided = discriminator_guidance(*networks, 0.1, window=(0.3, 20.0))
        sampler = build_sampler(SamplerSettings(name=name, steps=steps), guided, (2,))
        return sampler(noise.to(device), label.to(device))

    expected, waits = sample(5, "cpu"), []
    with mock_accelerator() as (device, _):
        sample(2, DEVICE)
        for steps in (10, 5):
            device.waits.clear()
            x = sample(steps, DEVICE)
            # UniPC of diffusers copies its levels to the device in each of its own steps.
            ours = {w: n for w, n in device.waits.items() if name != "unipc" or "copy" not in w}
            waits.append(sum(ours.values()))
        torch.testing.assert_close(x.cpu(), expected, rtol=1e-3, atol=1e-4)
    assert waits[0] == waits[1]


@pytest.mark.parametrize("how", ["rejection", "metropolis_hastings", "importance"])
def test_refinement_with_a_calibrated_ratio_runs_in_single_precision(how):
    torch.manual_seed(0)
    with mock_accelerator():
        generator = MlpGenerator(latent=3, **SMALL).to(DEVICE)
        discriminator = MlpDiscriminator(noise_conditional=True, **SMALL).to(DEVICE)
        config = GuideTraining(levels=2)
        calibration, _ = calibrated(discriminator, held_out(DEVICE, config, None))
        ratio = LogRatio(discriminator=discriminator, calibration=calibration)
        bound = {"log_bound": 0.5} if how == "rejection" else {}
        refined = Refined(SinglePass(generator, (3,)), ratio, how, 3, **bound)
        noise, label = torch.randn(20, 3).to(DEVICE), torch.arange(20).to(DEVICE) % 8
        outcome = refined.refine(noise, label)
        assert outcome.samples.device == DEVICE and outcome.samples.shape == (20, 2)
        assert 0 < outcome.proposal.max() <= 3


def test_points_of_a_device_are_evaluated_like_those_of_the_cpu(tmp_path):
    torch.manual_seed(0)
    generator, figures = MlpGenerator(latent=3, **SMALL), []
    sampler = partial(SinglePass, noise_shape=(3,))
    for device in ("cpu", DEVICE):
        with mock_accelerator():
            monitor = Monitor(tmp_path, RING, sampler=sampler, seed=0)
            figures.append(monitor.figures(generator.to(device), 200))
            monitor.preview(generator, 1)
            label = torch.arange(60) % 8
            options = {"samples": 60, "subsets": 2, "label": label, "device": device}
            measured = measure(sampler(generator), RING, **options)
            figures.append({name: each.value for name, each in measured.figures.items()})
    for cpu, other in zip(figures[:2], figures[2:], strict=True):
        assert other == pytest.approx(cpu, rel=1e-4, abs=1e-5, nan_ok=True)
    with mock_accelerator():
        points, _ = RING.reference("held_out", 100)
        assert sliced_wasserstein(points, points.to(DEVICE)) == 0
        moved = mode_coverage(points.to(DEVICE), RING.mixture)
    assert moved == mode_coverage(points, RING.mixture)


def test_every_command_runs_on_it(monkeypatch, tmp_path):
    monkeypatch.setattr("hybridgen.training.setup.Accelerator", accelerator_there)
    few = ("--training.steps", "4", "--training.batch", "16", "--save_every", "2")
    watched = ("--sample_every", "2", "--eval_every", "2", "--eval_samples", "50", *few)
    small = ("--discriminator.architecture", "mlp", "--discriminator.width", "8")
    ring = ("--data.path", "ring", *small, *watched)
    gan, folder = ("--generator.architecture", "mlp", "--generator.width", "8"), tmp_path / "gan"
    tried = ("--num_samples", "40", "--scale_samples", "8", "--scale_draws", "2")
    tried += ("--final_samples", "20", "--training.levels", "2", *few)
    denoiser = ("--denoiser.width", "8", "--sampler.steps", "2", "--final_samples", "50")
    step, methods = ("--sampler.steps", "2"), [{"name": "GAN", "model": "gan"}]
    calls = {
        "gan": ("gan", "Gan", *gan, *ring),
        "hybrid": ("diffusion", "Diffusion", *denoiser, *ring, "--adversarial.source", "chain"),
        "autoencoder": (
            *("autoencoder", "Autoencoder", *watched, "--autoencoder.widths", "[8, 8]"),
            *("--discriminator.width", "8", "--adversarial.warm_up", "1"),
        ),
        "guide": ("guide", "GuideExperiment", "--run", tmp_path / "hybrid", *small, *tried, *step),
        "guide of latents": (
            *("guide", "GuideExperiment", "--run", tmp_path / "ldm", "--data.path", "digits"),
            *("--pipeline_steps", "2", "--discriminator.width", "8", *tried),
        ),
        "student": (
            *("distill", "Distill", "--run", tmp_path / "hybrid", *small, *watched, *step),
            *("--regression.weight.start", "1", "--regression.pairs", "8", "--final_samples", "50"),
        ),
        "refines": ("guide", "GuideExperiment", "--run", folder, *small, *tried),
        "compared": (
            *("compare", "Compare", "--runs", json.dumps({"gan": str(folder)})),
            *("--methods", json.dumps(methods), "--samples", "60", "--subsets", "8"),
            *("--timing_batch", "4", "--timing_rounds", "3"),
        ),
    }
    monkeypatch.syspath_prepend(EXPERIMENTS)
    ldm()[0].save_pretrained(tmp_path / "ldm")
    for name, (script, settings, *arguments) in calls.items():
        module = load(script)
        argv = [*map(str, arguments), "--out", str(tmp_path / name)]
        with MockDevice():
            assert command(module.main, getattr(module, settings), argv) == 0, name
