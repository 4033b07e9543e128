"""One of two processes: trains its share of everything, and leaves gradients and complaints.

`python -m torch.distributed.run --standalone --nproc_per_node 2 two_processes.py FOLDER`
"""

import json
import os
import signal
import sys
import time
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import partial
from io import StringIO
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from oracles import Codec
from safetensors.torch import save_file
from training.workers import two_diffusions, two_students

from hybridgen import AdversarialLoss, LeCam, LossBalancer, SinglePass, adaptive_weight
from hybridgen.cli import command
from hybridgen.data.augment import DiffusionNoise
from hybridgen.data.points import MixturePoints
from hybridgen.data.settings import DiffusionNoiseSettings
from hybridgen.data.source import Shard
from hybridgen.errors import Interrupted, RunError
from hybridgen.evaluation.monitor import Monitor
from hybridgen.maths.mixtures import ring
from hybridgen.networks.mlp import MlpDiscriminator, MlpGenerator
from hybridgen.training.gan import GanTraining, train_gan
from hybridgen.training.optim import check_ranks_agree
from hybridgen.training.run import Run
from hybridgen.training.settings import Cosine, NetworkTraining

BATCH, LATENT = 16, 3
SOURCE = MixturePoints(mixture=ring().standardised(), name="ring", labelled=True)


@dataclass(frozen=True)
class Settings:
    out: Path | None = None


def players(*, noise_conditional=False):
    torch.manual_seed(0)
    generator = MlpGenerator(latent=LATENT, width=16, depth=2, classes=SOURCE.classes)
    discriminator = MlpDiscriminator(
        width=16, depth=2, classes=SOURCE.classes, noise_conditional=noise_conditional
    )
    return generator, AdversarialLoss(discriminator, r1=0.3, r2=0.2)


def batches_for(accelerator):
    def batches(start):
        rank, world = accelerator.process_index, accelerator.num_processes
        for x, label in SOURCE.batches(
            Shard(batch=BATCH, seed=5, start=start, rank=rank, world=world)
        ):
            yield x.to(torch.get_default_dtype()), label

    return batches


def steps_of(accelerator, made, *, accumulation=1, steps=3, noise=None, resume=None):
    config = GanTraining(
        steps=steps,
        batch=BATCH,
        accumulation=accumulation,
        r1=Cosine(start=0.3, end=0.1),
        r2=Cosine(start=0.2),
        check_ranks=True,
    )
    more = {"latent": LATENT, "seed": 5, "noise": noise, "resume": resume}
    return train_gan(*made, batches_for(accelerator), config, accelerator, **more)


def outcome(accelerator, accumulation, noise=None):
    """Every gradient and weight after each step, and the losses, by name."""
    made, tensors = players(noise_conditional=noise is not None), {}
    for step in steps_of(accelerator, made, accumulation=accumulation, noise=noise):
        for name, player in zip(("generator", "adversarial"), made, strict=True):
            for key, p in player.named_parameters():
                tensors[f"{step.number}.{name}.{key}"] = p.detach().clone()
                tensors[f"{step.number}.{name}.{key}.grad"] = p.grad.clone()
        for key, tensor in step.average.state_dict().items():
            tensors[f"{step.number}.average.{key}"] = tensor.clone()
        for key, loss in step.losses.items():
            tensors[f"{step.number}.{key}"] = torch.tensor(loss)
    return tensors


def noisy_outcome(accelerator):
    """The same with noise on all that the discriminator sees, and its depth among the losses."""
    settings = DiffusionNoiseSettings(highest=1.0, target=-0.3, speed_images=100)
    return outcome(accelerator, 2, DiffusionNoise(settings))


def knobs_players():
    """Without labels, and a discriminator of packs of two."""
    torch.manual_seed(0)
    return MlpGenerator(latent=LATENT, width=16, depth=2), AdversarialLoss(
        MlpDiscriminator(dimension=4, width=16, depth=2), r1=0.3, r2=0.2
    )


def knobs_training(accelerator, made, *, steps=3, resume=None):
    """Past samples, packs, lazy penalties, SGD with momentum, several moves a step."""
    config = GanTraining(
        steps=steps,
        batch=BATCH,
        accumulation=2,
        replay=0.5,
        replay_size=60,
        pack=2,
        penalty_every=2,
        discriminator=NetworkTraining(optimizer="sgd", beta1=0.5, rate=5.0, moves=3),
        generator=NetworkTraining(beta1=0.5, beta2=0.9, moves=2),
        check_ranks=True,
    )

    def batches(start):
        return ((x, None) for x, _ in batches_for(accelerator)(start))

    return train_gan(*made, batches, config, accelerator, latent=LATENT, seed=5, resume=resume)


def knobs_outcome(accelerator):
    """Every weight after the last step, the past samples and the losses."""
    made = knobs_players()
    *_, step = knobs_training(accelerator, made)
    tensors = {f"generator.{k}": p.detach().clone() for k, p in made[0].named_parameters()}
    tensors |= {f"adversarial.{k}": p.detach().clone() for k, p in made[1].named_parameters()}
    tensors |= {f"average.{k}": x.clone() for k, x in step.average.state_dict().items()}
    tensors["replay"] = step.state["replay"].samples.clone()
    return tensors | {name: torch.tensor(loss) for name, loss in step.losses.items()}


def answers(accelerator):
    """Gradients and averages where maps, features, weights and LeCam meet; without labels, so that
    one layer of the discriminator has no part in its loss."""
    torch.manual_seed(0)
    loss = AdversarialLoss(Codec(), "hinge", r1=0.3, lecam=LeCam(0.1, discriminators=2))
    model = torch.nn.Conv1d(1, 1, 3, padding=1)
    rank, world = accelerator.process_index, accelerator.num_processes
    real, noise, weight = (
        x.chunk(world)[rank] for x in (torch.randn(8, 1, 30), torch.randn(8, 1, 30), torch.rand(8))
    )
    prepared_model, prepared = accelerator.prepare(model, loss)
    for _ in range(2):
        fake = prepared_model(noise)
        lent = loss.generator_losses(fake=fake, real=real, sample_weight=weight)
        accelerator.backward(sum(lent.values()))
        parts = prepared(real=real, fake=fake, sample_weight=weight)
        accelerator.backward(parts["total"])
    zero = torch.zeros(3, 1)  # what a single process does not compute
    trained = {**dict(model.named_parameters()), **dict(loss.named_parameters())}
    grads = {n: zero if p.grad is None else p.grad.clone() for n, p in trained.items()}
    return {**grads, "real_mean": loss.lecam.real_mean, "fake_mean": loss.lecam.fake_mean}


def complaint(accelerator, *, wrapped):
    """What the check of the ranks says of a discriminator loss through the (un)prepared module."""
    prepared = accelerator.prepare(players()[1])
    loss = prepared if wrapped else accelerator.unwrap_model(prepared)
    real, label = next(batches_for(accelerator)(0))
    accelerator.backward(loss(real=real, fake=torch.zeros_like(real), label=label)["total"])
    try:
        check_ranks_agree(accelerator, prepared, "discriminator", 1)
    except RunError as error:
        return str(error)
    return None


def stopped(accelerator, folder):
    """What this process says when one process was asked to stop during step 2."""
    try:
        with Run(folder, Settings(), accelerator) as run:
            for step in steps_of(accelerator, players(), steps=30, resume=run.resume):
                if step.number == 2 and accelerator.process_index == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                with run.between_steps(step, save=False):
                    pass
    except Interrupted as stop:
        return str(stop)
    return None


def figures(accelerator):
    """Of 1 200 samples, an odd number of batches, shared by all processes."""
    sampler = partial(SinglePass, noise_shape=(LATENT,))
    monitor = Monitor(Path(), SOURCE, sampler=sampler, seed=0, accelerator=accelerator)
    return monitor.figures(players()[0], 1_200)


def weights_of_losses(accelerator):
    """Adaptive weights, and the balanced gradient of a layer, of this process's share of a batch;
    the last one's are still to be averaged over the processes, as DDP does."""
    generator = torch.Generator().manual_seed(0)
    h, target, push = torch.randn(3, 8, 4, generator=generator, dtype=torch.float64)
    rank, world = accelerator.process_index, accelerator.num_processes
    h, target, push = (x.chunk(world)[rank] for x in (h, target, push))
    layer, balancer = (
        torch.eye(4, dtype=torch.float64, requires_grad=True),
        LossBalancer({"error": 1.0, "adversarial": 3.0}),
    )
    for _ in range(2):  # the second with a running mean
        output = h @ layer
        error, game = (output - target).square().mean(), 1e-3 * (output * push).mean()
        balanced = balancer({"error": error, "adversarial": game}, output)
    (gradient,) = torch.autograd.grad(balanced, layer, retain_graph=True)
    return {
        "layer": float(adaptive_weight(error, game, layer)),
        "output": float(adaptive_weight(error, game, output=output)),
        "sums": balancer.sums.tolist(),
        "balanced": gradient.flatten().tolist(),
    }


def lost(accelerator, record):
    """What the first process says when the second dies in a training."""

    def train(_):
        for step in steps_of(accelerator, players(), steps=50):
            if step.number == 2 and accelerator.process_index == 1:
                os._exit(0)

    said, begun = StringIO(), time.monotonic()
    with redirect_stderr(said):
        status = command(train, Settings, [])
    record |= {"lost": [status, said.getvalue()], "seconds": time.monotonic() - begun}


def main(folder):
    signal.alarm(200)  # processes that wait for each other in vain must not outlive the test
    torch.set_num_threads(1)
    accelerator = Accelerator(
        cpu=True, kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)]
    )
    rank = accelerator.process_index
    record = {
        "world": accelerator.num_processes,
        "right": complaint(accelerator, wrapped=True),
        "wrong": complaint(accelerator, wrapped=False),
        "stopped": stopped(accelerator, folder / "run"),
        "figures": figures(accelerator),
        "weights": weights_of_losses(accelerator),
    }
    torch.set_default_dtype(torch.float64)
    for accumulation in (1, 2):
        save_file(
            outcome(accelerator, accumulation),
            folder / f"rank{rank}-accumulation{accumulation}.safetensors",
        )
    save_file(noisy_outcome(accelerator), folder / f"rank{rank}-noise.safetensors")
    save_file(knobs_outcome(accelerator), folder / f"rank{rank}-knobs.safetensors")
    save_file(answers(accelerator), folder / f"rank{rank}-answers.safetensors")
    two_diffusions.leave_outcomes(accelerator, folder)
    save_file(
        two_students.student_outcome(accelerator, adaptive=True),
        folder / f"rank{rank}-student.safetensors",
    )
    # The second process leaves its record before it dies.
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
    lost(accelerator, record)
    (folder / f"rank{rank}.json").write_text(json.dumps(record))
    os._exit(0)  # there is nobody left to say goodbye to


if __name__ == "__main__":
    main(Path(sys.argv[1]))
