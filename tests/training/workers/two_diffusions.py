"""A small labelled denoiser with each kind of term, one that is fine-tuned, guides and an
autoencoder, for one of two processes."""

import torch
from safetensors.torch import save_file

from hybridgen.data.images import digits
from hybridgen.data.points import MixturePoints
from hybridgen.data.source import Shard
from hybridgen.maths.mixtures import ring
from hybridgen.networks.build import build_autoencoder
from hybridgen.networks.dcgan import DcganDiscriminator
from hybridgen.networks.denoisers import PointDenoiser
from hybridgen.networks.mlp import MlpDiscriminator
from hybridgen.networks.settings import AutoencoderSettings
from hybridgen.training.adversarial_term import AdversarialTerm
from hybridgen.training.autoencoder import train_autoencoder
from hybridgen.training.diffusion import DiffusionTraining, train_diffusion
from hybridgen.training.finetune import train_finetune
from hybridgen.training.guide import GuideTraining, train_guide
from hybridgen.training.settings import AutoencoderTraining, Cosine, FinetuneTraining
from hybridgen.training.setup import build_adversarial
from hybridgen.training.terms import AuxiliaryTerm
from hybridgen.training.validation import HeldOutValidation

SOURCE = MixturePoints(mixture=ring().standardised(), name="ring", labelled=True)
DIGITS = digits()
OBJECTIVES = ("cross_entropy", "score_matching")
KINDS = ("plain", "clean", "renoised", "chain")


def term_of(kind, **changes):
    """Settings of the term in which every part of its schedule is seen within a few steps."""
    if kind == "plain":
        return None
    short = {"weight": 0.5, "warm_up": 1, "ramp": 2, "calls": (2, 3)}
    penalties = {"r1": Cosine(start=0.3, end=0.1), "r2": Cosine(start=0.2)}
    return AdversarialTerm(source=kind, **{**short, **penalties, **changes})


def players(term=None, *, classes=SOURCE.classes):
    """A denoiser and, with a term, its game, the same at every call."""
    torch.manual_seed(0)
    denoiser = PointDenoiser(width=16, depth=2, frequencies=4, classes=classes)
    discriminator = MlpDiscriminator(width=16, depth=2, classes=classes, noise_conditional=True)
    return denoiser, None if term is None else build_adversarial(discriminator, term)


def config_of(**changes):
    return DiffusionTraining(**{"steps": 4, "batch": 16, **changes})


def steps_of(config, term, made, accelerator, *, source=SOURCE, resume=None, seed=5):
    def batches(start):
        rank, world = accelerator.process_index, accelerator.num_processes
        stream = source.batches(
            Shard(batch=config.batch, seed=5, start=start, rank=rank, world=world)
        )
        for x, label in stream:
            yield x.to(torch.get_default_dtype()), label

    denoiser, adversarial = made
    return train_diffusion(
        denoiser,
        batches,
        config,
        accelerator,
        data_std=1.0,
        adversarial=adversarial,
        term=term,
        seed=seed,
        resume=resume,
    )


def outcome(accelerator, kind, *, accumulation=1, adaptive=False):
    """Every gradient and weight after each step, the average, and the losses, by name."""
    term = None if kind == "plain" else term_of(kind, adaptive=adaptive)
    made, tensors = players(term), {}
    config = config_of(steps=3, accumulation=accumulation, check_ranks=True)
    for step in steps_of(config, term, made, accelerator):
        for name, player in zip(("denoiser", "discriminator"), made, strict=True):
            for key, p in player.named_parameters() if player is not None else ():
                tensors[f"{step.number}.{name}.{key}"] = p.detach().clone()
                tensors[f"{step.number}.{name}.{key}.grad"] = p.grad.clone()
        for key, p in step.average.named_parameters():
            tensors[f"{step.number}.average.{key}"] = p.detach().clone()
        for key, loss in step.losses.items():
            tensors[f"{step.number}.{key}"] = torch.tensor(loss)
    return tensors


def autoencoder_outcome(accelerator, accumulation=1):
    """The same of the training of an autoencoder on digits; an adaptive weight of one part."""
    torch.manual_seed(0)
    network = build_autoencoder(AutoencoderSettings(widths=(8, 8)), DIGITS.shape)
    term = AuxiliaryTerm(adaptive=accumulation == 1, weight=0.5, warm_up=1, ramp=2)
    adversarial = build_adversarial(DcganDiscriminator(resolution=8, width=8), term)
    options = {"steps": 3, "batch": 16, "accumulation": accumulation, "check_ranks": True}
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}

    def batches(start):
        for x, _ in DIGITS.batches(Shard(batch=16, seed=5, start=start, **share)):
            yield x.to(torch.get_default_dtype()), None

    more = {"adversarial": adversarial, "term": term, "seed": 5}
    config, tensors = AutoencoderTraining(**options), {}
    for step in train_autoencoder(network, batches, config, accelerator, **more):
        for name, part in (("autoencoder", network), ("discriminator", adversarial)):
            for key, p in part.named_parameters():
                tensors[f"{step.number}.{name}.{key}"] = p.detach().clone()
                tensors[f"{step.number}.{name}.{key}.grad"] = p.grad.clone()
        for key, p in step.average.named_parameters():
            tensors[f"{step.number}.average.{key}"] = p.detach().clone()
        for key, loss in step.losses.items():
            tensors[f"{step.number}.{key}"] = torch.tensor(loss)
    return tensors


def guide_outcome(accelerator, objective):
    """The same of the training of a guide, on data against itself."""
    torch.manual_seed(0)
    denoiser = PointDenoiser(width=8, depth=1, frequencies=2, classes=SOURCE.classes)
    discriminator = MlpDiscriminator(
        width=8, depth=2, classes=SOURCE.classes, noise_conditional=True, activation="silu"
    )
    config = GuideTraining(objective=objective, steps=3, batch=16, check_every=2, check_ranks=True)
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}

    def batches(seed):
        def start(first):
            for x, label in SOURCE.batches(Shard(batch=16, seed=seed, start=first, **share)):
                yield x.to(torch.get_default_dtype()), label

        return start

    x, label = SOURCE.reference("held_out", 8)
    x = x.to(torch.get_default_dtype())
    validation = HeldOutValidation(
        x, x, config.noise.quantiles(2), label=label, fake_label=label, denoiser=denoiser
    )
    tensors = {}
    for step in train_guide(
        discriminator,
        batches(1),
        batches(2),
        lambda: validation,
        config,
        accelerator,
        denoiser=denoiser,
    ):
        for key, p in discriminator.named_parameters():
            tensors[f"{step.number}.{key}"] = p.detach().clone()
        for key, p in step.average.named_parameters():
            tensors[f"{step.number}.average.{key}"] = p.detach().clone()
        for key, loss in step.losses.items():
            tensors[f"{step.number}.{key}"] = torch.tensor(loss)
    return tensors


def finetune_outcome(accelerator, accumulation=1):
    """The same of a denoiser's fine-tuning, on data against itself."""
    denoiser, _ = players()
    options = {"steps": 3, "batch": 16, "accumulation": accumulation, "check_ranks": True}
    config = FinetuneTraining(**options, levels=2, learning_rate=Cosine(start=1e-3))
    share = {"rank": accelerator.process_index, "world": accelerator.num_processes}

    def batches(seed):
        def start(first):
            for x, label in SOURCE.batches(Shard(batch=16, seed=seed, start=first, **share)):
                yield x.to(torch.get_default_dtype()), label

        return start

    tensors = {}
    for step in train_finetune(denoiser, batches(1), batches(2), config, accelerator, seed=5):
        for key, p in denoiser.named_parameters():
            tensors[f"{step.number}.{key}"] = p.detach().clone()
            tensors[f"{step.number}.{key}.grad"] = p.grad.clone()
        for key, p in step.average.named_parameters():
            tensors[f"{step.number}.average.{key}"] = p.detach().clone()
        for key, loss in step.losses.items():
            tensors[f"{step.number}.{key}"] = torch.tensor(loss)
    return tensors


def leave_outcomes(accelerator, folder):
    """A file of this rank's outcome for each kind and objective."""
    figures = {kind: outcome(accelerator, kind, adaptive=kind == "chain") for kind in KINDS}
    figures |= {objective: guide_outcome(accelerator, objective) for objective in OBJECTIVES}
    figures |= {"autoencoder": autoencoder_outcome(accelerator)}
    figures |= {"finetune": finetune_outcome(accelerator)}
    for name, tensors in figures.items():
        save_file(tensors, folder / f"rank{accelerator.process_index}-{name}.safetensors")
